"""What should be true of a service next, given what is stored of it and what is known at this moment. Pure (law 5).

`plan` turns a view into the next one; the difference is the commit. It is idempotent (law 4): what it wants is derived
from the view each time, never remembered, so that a leader killed at any line leaves nothing half-done.

How one deployment follows another is in `activator.rollouts`; when one fails is judged where replicas break, in
`activator.verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from activator import absences, backends, rollouts
from activator.draft import Draft
from activator.draft import Note as Note
from activator.draft import Outlook as Outlook
from activator.lifecycle import ReplicaEvent
from activator.views import View
from state.models import Deployment, DeploymentState, Replica, ReplicaState, StartPhases


@dataclass(frozen=True, slots=True)
class Plan:
    """`view` is what should be stored; None = nothing of the service is left to keep."""

    view: View | None
    notes: tuple[Note, ...] = ()


def plan(view: View, outlook: Outlook, new_id: Callable[[], str]) -> Plan:
    """The next view of a service and what is to be told of it; the same view if nothing is to be done."""
    draft = Draft(view, outlook, new_id)
    if view.service.deleted_at is not None:
        _delete(draft)
        if not draft.view.replicas:
            return Plan(None, (Note("service.removed", "its last replica is gone"),))
    else:
        absences.tell(draft)
        rollouts.begin_what_is_queued(draft)
        rollouts.place(draft)
        absences.begin_anew(draft)
        rollouts.switch(draft)
        _release_the_unwanted(draft)
        _forgive(draft)
        _scale(draft)
        _answer_the_owner(draft)
        absences.strand(draft)
        rollouts.forget_the_oldest(draft)
        draft.view = rollouts.first_desired(draft.view)
    _stop_the_drained(draft)
    absences.forget(draft)
    return Plan(draft.view, tuple(draft.notes))


def _delete(draft: Draft) -> None:
    for replica in draft.view.replicas.values():
        if replica.state not in (ReplicaState.DRAINING, ReplicaState.STOPPING):
            _release(draft, replica, "its service was deleted", "its service was deleted")


def _release(draft: Draft, replica: Replica, told: str, reason: str | None) -> None:
    """It leaves: by draining if it takes requests, at once if it never did. With a `reason` it is not called back."""
    draft.move(replica, ReplicaEvent.RELEASE, reason)
    if draft.view.replicas[replica.id].state is ReplicaState.DRAINING:
        draft.note("replica.draining", told, deployment=replica.deployment, replica=replica.id)
    else:
        draft.note("replica.stopping", told, deployment=replica.deployment, replica=replica.id)


def _release_the_unwanted(draft: Draft) -> None:
    """Replicas of deployments that neither serve nor are on their way."""
    view = draft.view
    wanted = {d.id for d in (view.serving, rollouts.rolling(view)) if d is not None}
    for replica in view.replicas.values():
        if replica.deployment in wanted or replica.state in (ReplicaState.DRAINING, ReplicaState.STOPPING):
            continue
        if draft.outlook.settled or replica.state not in absences.ENTERED:
            why = "its deployment does not serve any more"
            _release(draft, replica, why, why)


def _forgive(draft: Draft) -> None:
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


def _give_up_waking(draft: Draft) -> None:
    if not any(r.state in backends.ALIVE for r in draft.view.of(draft.view.serving)):
        scale = draft.view.scale
        draft.view = draft.view.put(replace(scale, desired=0))
        draft.note("service.wake_failed", f"{scale.reason or 'its replica failed'}; the next request tries again")


def _scale(draft: Draft) -> None:
    view, outlook = draft.view, draft.outlook
    serving, rolling = view.serving, rollouts.rolling(view)
    if serving is not None and serving.state is DeploymentState.ACTIVE:
        desired = _desired(view, outlook, serving)
        _remember(draft, desired)
        _bring_to(draft, serving, desired)
    if rolling is not None:
        _bring_to(draft, rolling, rollouts.rollout_target(view, outlook.desired))


def _desired(view: View, outlook: Outlook, serving: Deployment) -> int:
    """The autoscaler's word, but for two things. Its owner's: what he put to sleep is woken by who is held since, only.
    And the row of failures: it outlasts the idle time-out, and a wake that was given up in this very plan stays so
    until somebody is held (and no replica is reserved while failures are in a row)."""
    if view.scale.asleep and view.service.min_replicas == 0 and not outlook.called:
        return 0
    if view.scale.desired == 0 and view.service.min_replicas == 0 and not (outlook.load.busy or outlook.reserved):
        return 0
    if outlook.desired == 0 and any(r.state is ReplicaState.FAILED for r in view.of(serving)):
        return view.scale.desired
    return outlook.desired


def _remember(draft: Draft, desired: int) -> None:
    scale = draft.view.scale
    why = draft.outlook.why if desired == draft.outlook.desired else None
    if draft.outlook.stable and scale.failures:
        scale = replace(scale, failures=0, reason=None)
    if scale.desired == desired:
        draft.view = draft.view.put(scale)
        return
    if desired == 0:  # asleep in good health: whatever failed before is over
        draft.note("service.slept", why or "idle")
        scale = replace(scale, failures=0, reason=None)
    elif scale.desired == 0:
        draft.note("service.woke", "a request is waiting" if draft.outlook.load.held else why or "it is wanted")
    else:
        draft.note("service.scaled", f"from {scale.desired} to {desired}" + (f": {why}" if why else ""))
    draft.view = draft.view.put(replace(scale, desired=desired, asleep=scale.asleep and desired == 0))


def _bring_to(draft: Draft, deployment: Deployment, target: int) -> None:
    """Call back, start or release until as many are there as are wanted. Who is in backoff keeps his place, who is on
    a lost node, or on one that stops, his until another is ready."""
    own, absent = draft.view.of(deployment), draft.outlook.absent
    present = absences.present(own, absent)
    if deployment.state is DeploymentState.ACTIVE:
        present += [r for r in own if r.state is ReplicaState.FAILED]
    missing = target - len(present)
    for replica in _callable([r for r in own if r.node not in absent], draft.outlook.load.replicas)[: max(0, missing)]:
        draft.move(replica, ReplicaEvent.CALL_BACK)
        draft.note("replica.called_back", "it is wanted again", deployment=deployment.id, replica=replica.id)
        missing -= 1
    for _ in range(missing):
        _create(draft, deployment)
    if missing < 0 and draft.outlook.settled:
        for replica in _least_useful(present, draft.outlook.load.replicas)[:-missing]:
            ailing = "its health checks failed" if replica.state is ReplicaState.UNHEALTHY else None
            _release(draft, replica, ailing or f"{target} of {len(present)} are wanted", ailing)
    replaced = sum(r.state is ReplicaState.READY for r in present) >= target
    for replica in own:
        leaves = replica.node in absent if replaced else replica.node in draft.outlook.evicting
        if leaves and replica.state in absences.ENTERED:
            absences.release(draft, replica, replaced=replaced and target > 0)


def _callable(replicas: Iterable[Replica], load: Mapping[str, int]) -> list[Replica]:
    """Those that drain for no fault of their own, busiest first: it would drain longest."""
    found = [r for r in replicas if r.state is ReplicaState.DRAINING and r.reason is None]
    return sorted(found, key=lambda r: (-load.get(r.id, 0), r.id))


def _create(draft: Draft, deployment: Deployment) -> None:
    """Nothing, while no node is known to live that can run it."""
    node = draft.place_of(deployment)
    if not node:
        return
    replica = Replica(
        id=draft.new_id(),
        service=draft.view.service.id,
        deployment=deployment.id,
        node=node,
        state=ReplicaState.INTENT,
        created_at=draft.outlook.now,
        phases=StartPhases(decide=_decided(draft)),
    )
    draft.view = draft.view.put(replica)


def _decided(draft: Draft) -> int | None:
    """Microseconds since the wake that asks for a replica, whoever's it was; the first one's, if both woke it."""
    outlook, woken_at = draft.outlook, draft.view.scale.woken_at
    owners = None if woken_at is None else max(0, outlook.now - woken_at)
    return max((waited for waited in (outlook.waited, owners) if waited is not None), default=None)


def _answer_the_owner(draft: Draft) -> None:
    """What he asked for by waking it is on its way, or not wanted any more."""
    view = draft.view
    if view.scale.woken_at is None:
        return
    if view.scale.desired == 0 or any(r.state in backends.ALIVE for r in view.of(view.serving)):
        draft.view = view.put(replace(view.scale, woken_at=None))


_USELESS: Final = (ReplicaState.FAILED, ReplicaState.UNHEALTHY, ReplicaState.INTENT, ReplicaState.STARTING)


def _least_useful(replicas: Iterable[Replica], load: Mapping[str, int]) -> list[Replica]:
    """What serves nobody first, then the least busy, the youngest of equals."""

    def use(replica: Replica) -> tuple[int, int]:
        rank = _USELESS.index(replica.state) if replica.state in _USELESS else len(_USELESS)
        return rank, load.get(replica.id, 0)

    return sorted(sorted(replicas, key=lambda r: r.id, reverse=True), key=use)


def _stop_the_drained(draft: Draft) -> None:
    """Law 3: only what every registered worker let go of, or whose drain time is over."""
    if not draft.outlook.settled:
        return
    for replica in draft.view.replicas.values():
        if replica.state is ReplicaState.DRAINING and replica.id in draft.outlook.drained | draft.outlook.overdue:
            draft.move(replica, ReplicaEvent.STOP)
            if replica.id not in draft.outlook.drained:
                why = "what was in flight did not end within the drain time"
                draft.note("replica.cut", why, deployment=replica.deployment, replica=replica.id)
