"""The status of a service as its users see it (SPEC section 2). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from state.models import Deployment, DeploymentState, Replica, ReplicaState, Scale, Service

STATUSES = ("deploying", "failed", "stopped", "degraded", "running")

_STARTING = (ReplicaState.INTENT, ReplicaState.STARTING)


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """`replicas` of a service in the API. Those that stop count as draining, failed ones as unhealthy."""

    desired: int
    ready: int
    starting: int
    unhealthy: int
    draining: int


def replica_counts(replicas: Iterable[Replica], scale: Scale) -> ReplicaCounts:
    states = [replica.state for replica in replicas]
    return ReplicaCounts(
        desired=scale.desired,
        ready=states.count(ReplicaState.READY),
        starting=sum(state in _STARTING for state in states),
        unhealthy=states.count(ReplicaState.UNHEALTHY) + states.count(ReplicaState.FAILED),
        draining=states.count(ReplicaState.DRAINING) + states.count(ReplicaState.STOPPING),
    )


def service_status(
    service: Service,
    deployments: Mapping[str, Deployment],
    replicas: Iterable[Replica],
    scale: Scale,
    *,
    runnable: bool = True,
    lost: Collection[str] = (),
) -> str:
    """`deploying`, `failed`, `stopped`, `degraded` or `running`: the first that fits.

    `runnable`: a live node can run it. `lost`: nodes that are not heard any more; what is in rotation there is still to
    be replaced. A start that takes too long is a failed replica by then, so no clock is needed.
    """
    first = None if service.active is not None else _before_the_first(deployments.get(service.latest))
    if first == "deploying":
        return first
    if not runnable:
        return "failed"
    if first is not None:
        return first
    own = [replica for replica in replicas if replica.deployment == service.active]
    counts = replica_counts(own, scale)
    troubled = scale.failures > 0 and counts.ready < max(1, service.min_replicas)
    if scale.desired == 0 and not troubled:
        return "stopped"
    orphans = any(replica.node in lost and replica.state is ReplicaState.READY for replica in own)
    if counts.unhealthy or troubled or orphans:
        return "degraded"
    if counts.ready == 0 and service.min_replicas == 0:
        return "stopped"  # waking from 0
    if counts.ready + counts.starting < max(1, service.min_replicas):
        return "degraded"
    return "running"


def _before_the_first(latest: Deployment | None) -> str:
    if latest is None or latest.state is DeploymentState.CANCELLED:
        return "stopped"
    return "deploying" if latest.state.in_progress else "failed"
