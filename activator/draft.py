"""A view of a service on its way to the next one: what the steps of a plan work on. Pure (law 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from activator.demand import IDLE, Load
from activator.lifecycle import DeploymentEvent, ReplicaEvent, after_deployment, after_replica
from activator.views import View
from state.models import Deployment, Reason, Replica, StartPhases


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the store doesn't say. Sets hold replica ids.

    `settled`: every registered worker has reported, so that stopping is allowed. `drained`: every registered worker
    has applied the replica's leaving and has nothing in flight on it. `overdue`: they have applied it, and the drain
    time is over. `rested`: the backoff after its failure is over. `stable`: a replica that serves has been ready for so
    long that earlier failures count no more. `called`: somebody is held who came after it was put to sleep by its
    owner. `reserved`: requests are expected, for which a replica is kept. `why`: `desired` is what it is now. `waited`:
    microseconds since a worker told of who is held; None: nobody is.

    `able`: nodes that may be given something of this service now; None: any. `node`: the one for what has none of them;
    empty: nowhere, for now. `unfit`: why no live node can run it. `lost`: seconds for which each lost node was silent.
    `returned`: nodes that are not lost any more. `freed`: what stops on lost nodes, and every registered worker let go.
    `leaving`: nodes that stop, whose replicas of it are to go; `evicting`: those of them from which they go at once,
    with or without a replacement.
    """

    now: int  # wall clock, microseconds, for `created_at` alone
    desired: int
    load: Load = IDLE
    settled: bool = True
    drained: frozenset[str] = frozenset()
    overdue: frozenset[str] = frozenset()
    rested: frozenset[str] = frozenset()
    stable: bool = False
    node: str = ""
    able: frozenset[str] | None = None
    unfit: str | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    returned: frozenset[str] = frozenset()
    freed: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    evicting: frozenset[str] = frozenset()
    called: bool = False
    reserved: bool = False
    why: str | None = None
    waited: int | None = None

    @property
    def absent(self) -> frozenset[str]:
        """The nodes whose replicas are to be replaced."""
        return self.leaving.union(self.lost)


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth an event, which its owner reads; of a `Reason` the operator's log gets what anybody may read.

    `phases`, `phase`: as in `state.models.Event`.
    """

    kind: str
    reason: str | Reason
    deployment: str | None = None
    replica: str | None = None
    phases: StartPhases | None = None
    phase: str | None = None


@dataclass(slots=True)
class Draft:
    """A view on its way to the next one."""

    view: View
    outlook: Outlook
    new_id: Callable[[], str]
    notes: list[Note] = field(default_factory=list)

    def note(self, kind: str, reason: str, *, deployment: str | None = None, replica: str | None = None) -> None:
        self.notes.append(Note(kind, reason, deployment, replica))

    def move(self, replica: Replica, event: ReplicaEvent, reason: str | None = None) -> None:
        self.view = self.view.put(moved(replica, event, reason))

    def settle(self, deployment: Deployment, event: DeploymentEvent, reason: str | None = None) -> None:
        state = after_deployment(deployment.state, event)
        finished = self.outlook.now if not state.in_progress else None
        proven = deployment.proven or event is DeploymentEvent.ACTIVATE
        self.view = self.view.put(replace(deployment, state=state, reason=reason, finished_at=finished, proven=proven))

    def place_of(self, deployment: Deployment) -> str:
        """Where something of it goes now: to its own node, where it is built, as long as that lives. Empty: nowhere."""
        able = self.outlook.able
        if deployment.node is not None and (able is None or deployment.node in able):
            return deployment.node
        return self.outlook.node


def moved(replica: Replica, event: ReplicaEvent, reason: str | None = None) -> Replica:
    """Raises IllegalTransition. Without a reason it keeps none: the state before had its own."""
    return replace(replica, state=after_replica(replica.state, event), reason=reason)
