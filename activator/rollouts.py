"""From one deployment to the next: placing, switching, what waits behind it, and how many are kept. Pure (law 5).

The first deployment serves as soon as one replica is ready. A later one takes over in one commit, once it has as many
ready as the service should have and no fewer than serve now; from then on the old ones drain (law 3). Until then, and
if it fails or is cancelled, the old ones serve.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from activator import absences
from activator.draft import Draft
from activator.lifecycle import DeploymentEvent
from activator.views import View
from state.models import Deployment, DeploymentState, ReplicaState, Service

KEPT: Final = 20  # deployments of a service, the newest


def begin_what_is_queued(draft: Draft) -> None:
    """A push that came during a deployment: once that has ended, however it did, the branch's head is deployed, unless
    the commit that was pushed is what that took, or what serves."""
    view, latest = draft.view, draft.view.latest
    if not view.service.queued or latest is None or latest.state.in_progress:
        return
    service = replace(view.service, queued=False, pushed=None)
    if (taken := _that_took(view, view.service.pushed)) is not None:
        draft.view = view.put(service)
        reason = f"{view.service.pushed}, which was pushed, is what this deployment took: nothing is started"
        draft.note("push.settled", reason, deployment=taken.id)
        return
    now = draft.outlook.now
    deployment = Deployment(
        draft.new_id(), service.id, DeploymentState.PENDING, service.run, created_at=now, cause="push"
    )
    draft.view = view.put(deployment, replace(service, latest=deployment.id, updated_at=now))
    draft.note("deployment.created", "its branch was pushed to", deployment=deployment.id)


def _that_took(view: View, commit: str | None) -> Deployment | None:
    """The newest deployment or the one that serves, if it is of this commit."""
    candidates = (view.latest, view.deployments.get(view.service.active or ""))
    return next((d for d in candidates if d is not None and commit is not None and d.commit == commit), None)


def place(draft: Draft) -> None:
    """A deployment is built where its replicas will run; it fails if they can't. If that node is lost, or stops,
    another begins anew with it."""
    latest = draft.view.latest
    if latest is None or not latest.state.in_progress:
        return
    if latest.node is not None and latest.node in draft.outlook.absent:
        _place(draft, latest, absences.cause(latest.node, draft.outlook))
    elif latest.node is None or draft.outlook.unfit is not None:
        _place(draft, latest, None)


def _place(draft: Draft, deployment: Deployment, lost: str | None) -> None:
    """`lost`: what befell the node that had it."""
    unfit, node = draft.outlook.unfit, draft.outlook.node
    if unfit is not None:
        reason = unfit if lost is None else f"{lost}, and no other can run it: {unfit}"
        draft.settle(deployment, DeploymentEvent.FAIL, reason)
        draft.note("deployment.failed", reason, deployment=deployment.id)
    elif lost is None and node:
        draft.view = draft.view.put(replace(deployment, node=node))
    elif node:
        draft.settle(deployment, DeploymentEvent.MOVE)
        draft.view = draft.view.put(replace(draft.view.deployments[deployment.id], node=node))
        draft.note("deployment.moved", f"{lost}: node {node} goes on with it", deployment=deployment.id)


def switch(draft: Draft) -> None:
    """Make the newest deployment the active one as soon as it can carry the load (one commit)."""
    view, latest = draft.view, rolling(draft.view)
    if latest is None:
        return
    ready = sum(r.state is ReplicaState.READY for r in absences.present(view.of(latest), draft.outlook.absent))
    old = view.deployments.get(view.service.active or "")
    if ready < (1 if old is None else rollout_target(view, draft.outlook.desired)):
        return
    draft.settle(latest, DeploymentEvent.ACTIVATE)
    if old is not None and old.state is DeploymentState.ACTIVE:
        draft.settle(old, DeploymentEvent.SUPERSEDE)
    desired = max(view.scale.desired, rollout_size(view.service, draft.outlook.desired))
    draft.view = draft.view.put(
        replace(view.service, active=latest.id),
        replace(view.scale, desired=desired, failures=0, reason=None, asleep=False),
    )
    draft.outlook = replace(draft.outlook, desired=desired)  # it sleeps by its own idle time-out, not by this plan
    draft.note("deployment.active", "its replicas are ready", deployment=latest.id)


def rolling(view: View) -> Deployment | None:
    """The deployment that starts replicas to become the active one."""
    latest = view.latest
    return latest if latest is not None and latest.state is DeploymentState.STARTING else None


def rollout_size(service: Service, desired: int) -> int:
    """Every deployment starts at least one replica to prove that it becomes healthy."""
    return max(1, min(desired, service.max_replicas), service.min_replicas)


def rollout_target(view: View, desired: int) -> int:
    """How many replicas a rollout starts, and needs ready: what serves now is never replaced by less, as far as
    `max_replicas` allows."""
    old = view.deployments.get(view.service.active or "")
    serve_now = 0 if old is None else min(_ready(view, old), view.service.max_replicas)
    return max(rollout_size(view.service, desired), serve_now)


def first_desired(view: View) -> View:
    """Before any deployment was active nobody scales: wanted is what the one on its way needs to prove itself, and
    nothing if there is none, because the only one failed."""
    if view.service.active is not None:
        return view
    desired = 0 if view.serving is None else rollout_size(view.service, view.scale.desired)
    return view if view.scale.desired == desired else view.put(replace(view.scale, desired=desired))


def forget_the_oldest(draft: Draft) -> None:
    """Their records go, and with them what agents keep for them; never one that serves, is the newest or has replicas
    left."""
    view = draft.view
    if len(view.deployments) <= KEPT:
        return
    by_age = sorted(view.deployments.values(), key=lambda d: (d.created_at, d.id), reverse=True)
    used = {view.service.active, view.service.latest} | {r.deployment for r in view.replicas.values()}
    draft.view = view.without_deployments(d.id for d in by_age[KEPT:] if d.id not in used)


def _ready(view: View, deployment: Deployment) -> int:
    return sum(r.state is ReplicaState.READY for r in view.of(deployment))
