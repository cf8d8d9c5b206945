"""What workers must know of a service, derived from what is stored of it. Pure.

The answer of SPEC section 3 while nothing is ready is decided here: hold (asleep, starting, restarting soon) or refuse
(failed, deleted, or in the backoff after a wake that failed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from state.models import (
    Backend,
    Deployment,
    DeploymentState,
    Endpoint,
    Phase,
    Replica,
    ReplicaState,
    Scale,
    Service,
    StartPhases,
)

WAKE_BACKOFF_MAX: Final = 60  # seconds
CRASH_BACKOFF_MAX: Final = 300
HELD_BACKOFF_MAX: Final = 5  # a crashed replica that is back sooner is waited for
FAILED_RETRY_AFTER: Final = 30  # nothing happens by itself; a new deployment is on its way at best

IN_ROTATION: Final = ReplicaState.READY
LEAVING: Final = (ReplicaState.UNHEALTHY, ReplicaState.DRAINING)
ALIVE: Final = (ReplicaState.INTENT, ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY)


def doubling(failures: int, most: int) -> int:
    """1, 2, 4 … `most` seconds for the first, second, third … failure in a row."""
    return min(most, 1 << min(max(failures, 1) - 1, 16))


def backoff(replica: Replica, scale: Scale) -> int:
    """Seconds for which a failed replica is not replaced: a start that failed, or a crash of one that was ready."""
    return doubling(scale.failures, WAKE_BACKOFF_MAX if replica.ready_at is None else CRASH_BACKOFF_MAX)


def serving(service: Service, deployments: Mapping[str, Deployment]) -> Deployment | None:
    """The deployment whose replicas take requests: the active one, else the first while it starts."""
    if service.active is not None:
        return deployments.get(service.active)
    latest = deployments.get(service.latest)
    return latest if latest is not None and latest.state.in_progress else None


def derive(
    service: Service, deployments: Mapping[str, Deployment], replicas: Iterable[Replica], scale: Scale
) -> Backend:
    """The backend of a service: endpoints in order of their ids, and what to do when none is ready."""
    known = sorted(replicas, key=lambda replica: replica.id)
    current = serving(service, deployments)
    endpoints = tuple(_endpoint(r, _takes_requests(service, current, r)) for r in known if _listed(current, r))
    refusal = None if any(e.ready for e in endpoints) else _refusal(service, deployments, current, known, scale)
    reason, retry_after = refusal or (None, 1)
    return Backend(
        service=service.id,
        namespace=service.namespace,
        name=service.name,
        phase=Phase.SERVING if refusal is None else Phase.REFUSING,
        reason=reason,
        retry_after=retry_after,
        endpoints=endpoints,
        concurrency=service.scaling.concurrency,
        hold_timeout=service.scaling.hold_timeout,
        affinity=service.scaling.affinity,
        hold_keepalive=service.scaling.hold_keepalive,
        waiting_page=service.scaling.waiting_page,
    )


def _endpoint(replica: Replica, ready: bool) -> Endpoint:
    """The first byte is what workers tell, and no news for them."""
    phases = replica.phases if replica.phases.first_byte is None else replace(replica.phases, first_byte=None)
    told = None if phases == StartPhases() else phases
    return Endpoint(replica.id, replica.host, replica.port, ready, replica.ready_at, told, replica.node)


def _listed(current: Deployment | None, replica: Replica) -> bool:
    """Draining ones are listed for what is in flight on them; ready ones of a rollout wait for the switch."""
    if replica.state is IN_ROTATION:
        return current is not None and replica.deployment == current.id
    return replica.state in LEAVING


def _takes_requests(service: Service, current: Deployment | None, replica: Replica) -> bool:
    in_rotation = replica.state is IN_ROTATION and current is not None and replica.deployment == current.id
    return in_rotation and service.deleted_at is None


def _refusal(
    service: Service,
    deployments: Mapping[str, Deployment],
    current: Deployment | None,
    replicas: Iterable[Replica],
    scale: Scale,
) -> tuple[str, int] | None:
    if service.deleted_at is not None:
        return "deleted", FAILED_RETRY_AFTER
    if current is None:
        return _never_served(deployments.get(service.latest)), FAILED_RETRY_AFTER
    own = [replica for replica in replicas if replica.deployment == current.id]
    if scale.stranded is not None and not any(r.state in ALIVE for r in own):
        return scale.stranded, FAILED_RETRY_AFTER
    broken = [replica for replica in own if replica.state is ReplicaState.FAILED]
    if not broken or current.state is not DeploymentState.ACTIVE or any(r.state in ALIVE for r in own):
        return None
    last = broken[-1]
    seconds = backoff(last, scale)
    if last.ready_at is not None and seconds <= HELD_BACKOFF_MAX:
        return None
    return last.reason or "its replica failed", seconds


def _never_served(latest: Deployment | None) -> str:
    if latest is None:
        return "it has no deployment"
    return latest.reason or f"its deployment is {latest.state}"
