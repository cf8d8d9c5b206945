"""What a node's agent finds out about its replicas and builds, as changes of the view. Pure (law 5).

Each function returns the next view, or the same one when the finding is no news (law 4: it may be said twice).

When a replica of a deployment that never was active breaks, the deployment is judged in the same commit: it fails with
the second one that breaks while starting. The first may have met a race (a port taken, a database that was not up yet),
the second says that it is the program, and its owner should not wait for backoffs to hear so. One that was not ready
within `startup_timeout` is not tried again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from activator import backends, rollouts
from activator.lifecycle import DEPLOYMENT, REPLICA, DeploymentEvent, ReplicaEvent
from activator.views import View
from state.models import Deployment, DeploymentState, Reason, Replica, ReplicaState, StartPhases

TRIES: Final = 2
STALE: Final = "what was pushed is deployed already"


def addressed(view: View, replica_id: str, port: int) -> View:
    """The port that it will listen on is stored before it starts (law 4)."""
    replica = view.replicas.get(replica_id)
    if replica is None or replica.state is not ReplicaState.INTENT:
        return view
    return view.put(replace(replica, port=port))


def started(view: View, replica_id: str, host: str, port: int, now: int, phases: StartPhases | None = None) -> View:
    """The driver started it. `phases`: of its start so far."""
    replica = view.replicas.get(replica_id)
    if replica is None or replica.state is not ReplicaState.INTENT:
        return view
    replica = replace(replica, host=host, port=port, started_at=now, phases=phases or replica.phases)
    return view.put(replace(replica, state=ReplicaState.STARTING))


def passed(view: View, replica_id: str, now: int, phases: StartPhases | None = None, *, held: bool = False) -> View:
    """A check saw 200: it takes requests from the next revision on. `phases`: of its start, if this is its end;
    `held`: somebody is held for the service.
    """
    replica = view.replicas.get(replica_id)
    state = None if replica is None else REPLICA.get((replica.state, ReplicaEvent.PASSED))
    if replica is None or state is None:
        return view
    if replica.ready_at is None:
        cold = ends_wake(view, replica, held=held)
        replica = replace(replica, ready_at=now, phases=phases or replica.phases, cold=cold)
    return view.put(replace(replica, state=state, reason=None))


def ends_wake(view: View, replica: Replica, *, held: bool) -> bool:
    """Whether the end of its start, a good or a bad one, is that of a wake: a wake asked for the start, or somebody is
    `held` at its end, and no other replica is ready."""
    asked = held or replica.phases.decide is not None
    return asked and not any(r.state is ReplicaState.READY for r in view.replicas.values() if r.id != replica.id)


def answered(view: View, replica_id: str, first_byte: int) -> View:
    """Somebody who was held for its start has the first byte, so many microseconds after it was ready."""
    replica = view.replicas.get(replica_id)
    if replica is None or replica.phases.first_byte is not None:
        return view
    return view.put(replace(replica, phases=replace(replica.phases, first_byte=first_byte)))


def ailed(view: View, replica_id: str, reason: Reason) -> View:
    return _moved(view, replica_id, ReplicaEvent.AILED, reason)


def condemned(view: View, replica_id: str, reason: Reason, now: int) -> View:
    """It drains and is not called back; the leader puts another in its place. A deployment that was never active fails
    with it: another would turn healthy and ill again, and the rollout never end."""
    replica = view.replicas.get(replica_id)
    after = _moved(view, replica_id, ReplicaEvent.CONDEMNED, reason)
    deployment = None if replica is None else after.deployments.get(replica.deployment)
    if after is view or deployment is None or deployment.state is not DeploymentState.STARTING:
        return after
    return _judged(after, deployment, reason, now, tried_enough=True)


def lost(view: View, replica_id: str) -> View:
    """Nothing runs and nobody knows how it ended (the machine was switched off): replaced, and nobody's fault."""
    return _moved(view, replica_id, ReplicaEvent.LOST, None)


def usurped(view: View, replica_id: str, reason: Reason) -> View:
    """Somebody else listens at its address, which is nobody's fault of its deployment's: no request goes there from
    the next revision on, it is not called back, and another takes its place."""
    replica = view.replicas.get(replica_id)
    draining = replica is not None and replica.state is ReplicaState.DRAINING and replica.reason is not None
    return view if draining else _moved(view, replica_id, ReplicaEvent.USURPED, reason)


def broke(view: View, replica_id: str, reason: Reason, now: int, *, tried_enough: bool = False) -> View:
    """It exited or can't be started (`tried_enough`: another try would take just as long and end the same)."""
    replica = view.replicas.get(replica_id)
    after = _moved(view, replica_id, ReplicaEvent.BROKE, reason)
    if replica is None or after is view or after.replicas[replica_id].state is not ReplicaState.FAILED:
        return after
    deployment = after.deployments.get(replica.deployment)
    if deployment is not None and deployment.state is DeploymentState.STARTING:
        return _judged(after, deployment, reason, now, tried_enough=tried_enough)
    return after.put(replace(after.scale, failures=after.scale.failures + 1, reason=reason.public))


def retry(view: View, replica_id: str) -> str | None:
    """What comes after a replica that failed, in a clause; None: nothing more.

    A wake that failed is not tried again before somebody asks (`activator.planning`): those who were held have gone.
    """
    replica = view.replicas.get(replica_id)
    if replica is None or replica.state is not ReplicaState.FAILED or view.service.deleted_at is not None:
        return None
    deployment = view.deployments.get(replica.deployment)
    if deployment is not None and deployment.state is DeploymentState.STARTING:
        return "tried once more"
    seconds = backends.backoff(replica, view.scale)
    alone = not any(other.state in backends.ALIVE for other in view.of(deployment))
    if replica.ready_at is None and view.service.min_replicas == 0 and alone:
        return f"the next request after {seconds} s tries again"
    return f"tried again in {seconds} s"


def removed(view: View, replica_id: str) -> View:
    """It is gone, and every worker knows: its address may be used again."""
    replica = view.replicas.get(replica_id)
    return view if replica is None or replica.state is not ReplicaState.STOPPING else view.without(replica_id)


def building(view: View, deployment_id: str) -> View:
    return _built(view, deployment_id, DeploymentEvent.BUILD)


def built(view: View, deployment_id: str, source: str, artifact: str, now: int) -> View:
    """`source`: the commit of a repo, the digest of an image.

    A push that turns out to be of what serves already, as it is configured, starts nothing (`stale`).
    """
    after = _built(view, deployment_id, DeploymentEvent.BUILT)
    if after is view:
        return view
    deployment = replace(after.deployments[deployment_id], artifact=artifact)
    of_image = deployment.run.image is not None
    deployment = replace(deployment, digest=source) if of_image else replace(deployment, commit=source)
    return after.put(_cancelled(deployment, now) if _serves(view, deployment) else deployment)


def stale(view: View, deployment_id: str) -> bool:
    """Whether a push turned out to be of what serves already."""
    deployment = view.deployments.get(deployment_id)
    return deployment is not None and deployment.reason == STALE


def _serves(view: View, pushed: Deployment) -> bool:
    active = view.deployments.get(view.service.active or "")
    return pushed.cause == "push" and active is not None and (active.commit, active.run) == (pushed.commit, pushed.run)


def _cancelled(deployment: Deployment, now: int) -> Deployment:
    return replace(deployment, state=DeploymentState.CANCELLED, reason=STALE, finished_at=now)


def unbuilt(view: View, deployment_id: str, reason: Reason, now: int, commit: str | None = None) -> View:
    """It can't become an artifact; `commit` is the one that it would have been made of, if that is known."""
    deployment = view.deployments.get(deployment_id)
    if deployment is None or deployment.state is DeploymentState.STARTING:
        return view
    after = _built(view, deployment_id, DeploymentEvent.FAIL)
    if after is view:
        return view
    failed = after.deployments[deployment_id]
    return _failed(after, replace(failed, commit=commit or failed.commit), reason, now)


def _moved(view: View, replica_id: str, event: ReplicaEvent, reason: Reason | None) -> View:
    replica = view.replicas.get(replica_id)
    state = None if replica is None else REPLICA.get((replica.state, event))
    if replica is None or state is None:
        return view
    return view.put(replace(replica, state=state, reason=None if reason is None else reason.public))


def _built(view: View, deployment_id: str, event: DeploymentEvent) -> View:
    deployment = view.deployments.get(deployment_id)
    state = None if deployment is None else DEPLOYMENT.get((deployment.state, event))
    return view if deployment is None or state is None else view.put(replace(deployment, state=state))


def _failed(view: View, deployment: Deployment, reason: Reason, now: int) -> View:
    failed = replace(
        deployment, state=DeploymentState.FAILED, reason=reason.public, detail=reason.detail, finished_at=now
    )
    return rollouts.first_desired(view.put(failed))


def _judged(view: View, deployment: Deployment, reason: Reason, now: int, *, tried_enough: bool) -> View:
    own = view.of(deployment)
    broken = sum(replica.state is ReplicaState.FAILED for replica in own)
    if broken < TRIES and not tried_enough:
        return view
    return _failed(view.put(*(_released(replica) for replica in own)), deployment, reason, now)


def _released(replica: Replica) -> Replica:
    """Nothing of a failed deployment runs on. One that was in rotation (alone, before the switch) drains first."""
    state = REPLICA.get((replica.state, ReplicaEvent.RELEASE), replica.state)
    in_use = replica.state in backends.ALIVE and state is ReplicaState.DRAINING
    return replace(replica, state=state, reason="its deployment failed" if in_use else replica.reason)
