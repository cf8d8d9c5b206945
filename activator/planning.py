"""What should be true of a service next, given what is stored of it and what is known at this moment. Pure (law 5).

`plan` turns a view into the next one; the difference is the commit. It is idempotent (law 4): what it wants is derived
from the view each time, never remembered, so that a leader killed at any line leaves nothing half-done.

Deployments: the first one serves as soon as one replica is ready; a later one takes over in one commit once it has as
many ready as the old one should have, and the old ones drain (law 3). When one fails is judged where replicas break, in
`activator.verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from activator import backends
from activator.demand import IDLE, Load
from activator.lifecycle import DeploymentEvent, ReplicaEvent, after_deployment, after_replica
from activator.views import View
from state.models import Deployment, DeploymentState, Replica, ReplicaState, Service

_ENTERED: Final = (ReplicaState.READY, ReplicaState.UNHEALTHY)
_COMING: Final = (ReplicaState.INTENT, ReplicaState.STARTING)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the store doesn't say. Sets hold replica ids.

    `settled`: every registered worker has reported, so that stopping is allowed. `drained`: every registered worker
    has applied the replica's leaving and has nothing in flight on it. `overdue`: they have applied it, and the drain
    time is over. `rested`: the backoff after its failure is over. `stable`: a replica that serves has been ready for so
    long that earlier failures count no more. `node` runs what has no node yet.
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


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth an event."""

    kind: str
    reason: str
    deployment: str | None = None
    replica: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`view` is what should be stored; None = nothing of the service is left to keep."""

    view: View | None
    notes: tuple[Note, ...] = ()


@dataclass(slots=True)
class _Draft:
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


def plan(view: View, outlook: Outlook, new_id: Callable[[], str]) -> Plan:
    """The next view of a service and what is to be told of it; the same view if nothing is to be done."""
    draft = _Draft(view, outlook, new_id)
    if view.service.deleted_at is not None:
        _delete(draft)
        if not draft.view.replicas:
            return Plan(None, (Note("service.removed", "its last replica is gone"),))
    else:
        _place(draft)
        _switch(draft)
        _release_the_unwanted(draft)
        _forgive(draft)
        _scale(draft)
        draft.view = first_desired(draft.view)
    _stop_the_drained(draft)
    return Plan(draft.view, tuple(draft.notes))


def _delete(draft: _Draft) -> None:
    for replica in draft.view.replicas.values():
        if replica.state not in (ReplicaState.DRAINING, ReplicaState.STOPPING):
            draft.move(replica, ReplicaEvent.RELEASE, "its service was deleted")


def _place(draft: _Draft) -> None:
    """A deployment is built where its replicas will run."""
    latest = draft.view.latest
    if latest is not None and latest.state is DeploymentState.PENDING and latest.node is None:
        draft.view = draft.view.put(replace(latest, node=draft.outlook.node))


def _switch(draft: _Draft) -> None:
    """Make the newest deployment the active one as soon as it can carry the load (rolling, one commit)."""
    view, latest = draft.view, draft.view.latest
    if latest is None or latest.state is not DeploymentState.STARTING:
        return
    ready = sum(r.state is ReplicaState.READY for r in view.of(latest))
    old = view.deployments.get(view.service.active or "")
    if ready < (1 if old is None else rollout_size(view.service, draft.outlook.desired)):
        return
    draft.settle(latest, DeploymentEvent.ACTIVATE)
    if old is not None and old.state is DeploymentState.ACTIVE:
        draft.settle(old, DeploymentEvent.SUPERSEDE)
    desired = max(view.scale.desired, rollout_size(view.service, draft.outlook.desired))
    draft.view = draft.view.put(
        replace(view.service, active=latest.id), replace(view.scale, desired=desired, failures=0, reason=None)
    )
    draft.outlook = replace(draft.outlook, desired=desired)  # it sleeps by its own idle time-out, not by this plan
    draft.note("deployment.active", "its replicas are ready", deployment=latest.id)


def rollout_size(service: Service, desired: int) -> int:
    """Every deployment starts at least one replica to prove that it becomes healthy."""
    return max(1, min(desired, service.max_replicas), service.min_replicas)


def first_desired(view: View) -> View:
    """Before any deployment was active nobody scales: wanted is what the one on its way needs to prove itself, and
    nothing if there is none, because the only one failed."""
    if view.service.active is not None:
        return view
    desired = 0 if view.serving is None else rollout_size(view.service, view.scale.desired)
    return view if view.scale.desired == desired else view.put(replace(view.scale, desired=desired))


def _release_the_unwanted(draft: _Draft) -> None:
    """Replicas of deployments that neither serve nor are on their way."""
    view = draft.view
    wanted = {d.id for d in (view.serving, _rolling(view)) if d is not None}
    for replica in view.replicas.values():
        if replica.deployment in wanted or replica.state in (ReplicaState.DRAINING, ReplicaState.STOPPING):
            continue
        if draft.outlook.settled or replica.state not in _ENTERED:
            draft.move(replica, ReplicaEvent.RELEASE, "its deployment does not serve any more")


def _rolling(view: View) -> Deployment | None:
    latest = view.latest
    return latest if latest is not None and latest.state is DeploymentState.STARTING else None


def _forgive(draft: _Draft) -> None:
    """Let go of failed replicas whose backoff is over. A wake that failed is tried again by the next request."""
    view, outlook = draft.view, draft.outlook
    current = view.serving
    for replica in view.of(current):
        if replica.state is not ReplicaState.FAILED or replica.id not in outlook.rested:
            continue
        if current is not None and current.state is DeploymentState.ACTIVE:
            draft.move(replica, ReplicaEvent.FORGIVE)
            if replica.ready_at is None and view.service.min_replicas == 0 and not outlook.load.busy:
                _give_up_waking(draft)


def _give_up_waking(draft: _Draft) -> None:
    if not any(r.state in backends.ALIVE for r in draft.view.of(draft.view.serving)):
        draft.view = draft.view.put(replace(draft.view.scale, desired=0))


def _scale(draft: _Draft) -> None:
    view, outlook = draft.view, draft.outlook
    serving, rolling = view.serving, _rolling(view)
    if serving is not None and serving.state is DeploymentState.ACTIVE:
        desired = _desired(view, outlook, serving)
        _remember(draft, desired)
        _bring_to(draft, serving, desired)
    if rolling is not None:
        _bring_to(draft, rolling, rollout_size(view.service, outlook.desired))


def _desired(view: View, outlook: Outlook, serving: Deployment) -> int:
    """The autoscaler's word, but for the row of failures: it outlasts the idle time-out, and a wake that was given up
    in this very plan stays so until somebody is held."""
    if view.scale.desired == 0 and view.service.min_replicas == 0 and not outlook.load.busy:
        return 0
    if outlook.desired == 0 and any(r.state is ReplicaState.FAILED for r in view.of(serving)):
        return view.scale.desired
    return outlook.desired


def _remember(draft: _Draft, desired: int) -> None:
    scale = draft.view.scale
    if draft.outlook.stable and scale.failures:
        scale = replace(scale, failures=0, reason=None)
    if scale.desired == desired:
        draft.view = draft.view.put(scale)
        return
    if desired == 0:  # asleep in good health: whatever failed before is over
        draft.note("service.slept", "idle")
        scale = replace(scale, failures=0, reason=None)
    elif scale.desired == 0:
        draft.note("service.woke", "a request is waiting" if draft.outlook.load.held else "it is wanted")
    else:
        draft.note("service.scaled", f"from {scale.desired} to {desired}")
    draft.view = draft.view.put(replace(scale, desired=desired))


def _bring_to(draft: _Draft, deployment: Deployment, target: int) -> None:
    """Call back, start or release until as many are there as are wanted. Who is in backoff keeps his place."""
    own = draft.view.of(deployment)
    broken = deployment.state is DeploymentState.ACTIVE
    present = [r for r in own if r.state in backends.ALIVE or (broken and r.state is ReplicaState.FAILED)]
    missing = target - len(present)
    for replica in _callable(own, draft.outlook.load.replicas)[: max(0, missing)]:
        draft.move(replica, ReplicaEvent.CALL_BACK)
        draft.note("replica.called_back", "it is wanted again", deployment=deployment.id, replica=replica.id)
        missing -= 1
    for _ in range(missing):
        _create(draft, deployment)
    if missing < 0 and draft.outlook.settled:
        for replica in _least_useful(present, draft.outlook.load.replicas)[:-missing]:
            ailing = "its health checks failed" if replica.state is ReplicaState.UNHEALTHY else None
            draft.move(replica, ReplicaEvent.RELEASE, ailing)


def _callable(replicas: Iterable[Replica], load: Mapping[str, int]) -> list[Replica]:
    """Those that drain for no fault of their own, busiest first: it would drain longest."""
    found = [r for r in replicas if r.state is ReplicaState.DRAINING and r.reason is None]
    return sorted(found, key=lambda r: (-load.get(r.id, 0), r.id))


def _create(draft: _Draft, deployment: Deployment) -> None:
    replica = Replica(
        id=draft.new_id(),
        service=draft.view.service.id,
        deployment=deployment.id,
        node=deployment.node or draft.outlook.node,
        state=ReplicaState.INTENT,
        created_at=draft.outlook.now,
    )
    draft.view = draft.view.put(replica)


_USELESS: Final = (ReplicaState.FAILED, ReplicaState.UNHEALTHY, ReplicaState.INTENT, ReplicaState.STARTING)


def _least_useful(replicas: Iterable[Replica], load: Mapping[str, int]) -> list[Replica]:
    """What serves nobody first, then the least busy, the youngest of equals."""

    def use(replica: Replica) -> tuple[int, int]:
        rank = _USELESS.index(replica.state) if replica.state in _USELESS else len(_USELESS)
        return rank, load.get(replica.id, 0)

    return sorted(sorted(replicas, key=lambda r: r.id, reverse=True), key=use)


def _stop_the_drained(draft: _Draft) -> None:
    """Law 3: only what every registered worker let go of, or whose drain time is over."""
    if not draft.outlook.settled:
        return
    for replica in draft.view.replicas.values():
        if replica.state is ReplicaState.DRAINING and replica.id in draft.outlook.drained | draft.outlook.overdue:
            draft.move(replica, ReplicaEvent.STOP)
