"""A view of a service on its way to the next one: what the steps of a plan work on. Pure (law 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from activator.demand import IDLE, Load
from activator.lifecycle import DeploymentEvent, ReplicaEvent, after_deployment, after_replica
from activator.views import View
from state.models import Deployment, Reason, Replica


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the store doesn't say. Sets hold replica ids.

    `settled`: every registered worker has reported, so that stopping is allowed. `drained`: every registered worker
    has applied the replica's leaving and has nothing in flight on it. `overdue`: they have applied it, and the drain
    time is over. `rested`: the backoff after its failure is over. `stable`: a replica that serves has been ready for so
    long that earlier failures count no more. `node` runs what has no node yet; `unfit`: why it can't run this service.
    `called`: somebody is held who came after it was put to sleep by its owner. `why`: `desired` is what it is now.
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
    unfit: str | None = None
    called: bool = False
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth an event, which its owner reads; of a `Reason` the operator's log gets what anybody may read."""

    kind: str
    reason: str | Reason
    deployment: str | None = None
    replica: str | None = None


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


def moved(replica: Replica, event: ReplicaEvent, reason: str | None = None) -> Replica:
    """Raises IllegalTransition. Without a reason it keeps none: the state before had its own."""
    return replace(replica, state=after_replica(replica.state, event), reason=reason)
