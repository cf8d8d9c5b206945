"""The lives of replicas and deployments as tables (law 5): `{(state, event): state}`. What is not in them is illegal.

A replica that was never in rotation goes straight to `stopping`; one that was goes by `draining`, from which it can be
called back until somebody wins the change to `stopping` (law 3). From `stopping` the only way is removal.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from state.models import DeploymentState as D
from state.models import ReplicaState as R


class IllegalTransition(Exception):
    """The event does not exist in that state: whoever asked looked at something old."""


class ReplicaEvent(enum.StrEnum):
    STARTED = "started"  # the driver has started it
    PASSED = "passed"  # a probe saw 200
    AILED = "ailed"  # 3 checks in a row failed
    CONDEMNED = "condemned"  # 6 checks in a row failed: to be replaced
    BROKE = "broke"  # it exited, or was not ready in time
    RELEASE = "release"  # it is not wanted any more
    CALL_BACK = "call back"  # it is wanted again
    STOP = "stop"  # drained, or the drain time is over
    FORGIVE = "forgive"  # the backoff after its failure is over
    LOST = "lost"  # nothing runs and nobody knows how it ended
    USURPED = "usurped"  # somebody else listens at its address


class DeploymentEvent(enum.StrEnum):
    BUILD = "build"
    BUILT = "built"
    ACTIVATE = "activate"
    FAIL = "fail"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"
    MOVE = "move"  # its node was lost: another begins anew with it


REPLICA: Final[Mapping[tuple[R, ReplicaEvent], R]] = MappingProxyType(
    {
        (R.INTENT, ReplicaEvent.STARTED): R.STARTING,
        (R.STARTING, ReplicaEvent.PASSED): R.READY,
        (R.UNHEALTHY, ReplicaEvent.PASSED): R.READY,
        (R.READY, ReplicaEvent.AILED): R.UNHEALTHY,
        (R.UNHEALTHY, ReplicaEvent.CONDEMNED): R.DRAINING,
        (R.INTENT, ReplicaEvent.BROKE): R.FAILED,
        (R.STARTING, ReplicaEvent.BROKE): R.FAILED,
        (R.READY, ReplicaEvent.BROKE): R.FAILED,
        (R.UNHEALTHY, ReplicaEvent.BROKE): R.FAILED,
        (R.DRAINING, ReplicaEvent.BROKE): R.STOPPING,
        (R.INTENT, ReplicaEvent.RELEASE): R.STOPPING,
        (R.STARTING, ReplicaEvent.RELEASE): R.STOPPING,
        (R.READY, ReplicaEvent.RELEASE): R.DRAINING,
        (R.UNHEALTHY, ReplicaEvent.RELEASE): R.DRAINING,
        (R.FAILED, ReplicaEvent.RELEASE): R.STOPPING,
        (R.DRAINING, ReplicaEvent.CALL_BACK): R.READY,
        (R.DRAINING, ReplicaEvent.STOP): R.STOPPING,
        (R.FAILED, ReplicaEvent.FORGIVE): R.STOPPING,
        (R.STARTING, ReplicaEvent.LOST): R.STOPPING,
        (R.READY, ReplicaEvent.LOST): R.STOPPING,
        (R.UNHEALTHY, ReplicaEvent.LOST): R.STOPPING,
        (R.DRAINING, ReplicaEvent.LOST): R.STOPPING,
        (R.STARTING, ReplicaEvent.USURPED): R.STOPPING,
        (R.READY, ReplicaEvent.USURPED): R.DRAINING,
        (R.UNHEALTHY, ReplicaEvent.USURPED): R.DRAINING,
        (R.DRAINING, ReplicaEvent.USURPED): R.DRAINING,
    }
)

DEPLOYMENT: Final[Mapping[tuple[D, DeploymentEvent], D]] = MappingProxyType(
    {
        (D.PENDING, DeploymentEvent.BUILD): D.BUILDING,
        (D.BUILDING, DeploymentEvent.BUILT): D.STARTING,
        (D.STARTING, DeploymentEvent.ACTIVATE): D.ACTIVE,
        (D.PENDING, DeploymentEvent.FAIL): D.FAILED,
        (D.BUILDING, DeploymentEvent.FAIL): D.FAILED,
        (D.STARTING, DeploymentEvent.FAIL): D.FAILED,
        (D.ACTIVE, DeploymentEvent.SUPERSEDE): D.SUPERSEDED,
        (D.PENDING, DeploymentEvent.CANCEL): D.CANCELLED,
        (D.BUILDING, DeploymentEvent.CANCEL): D.CANCELLED,
        (D.STARTING, DeploymentEvent.CANCEL): D.CANCELLED,
        (D.PENDING, DeploymentEvent.MOVE): D.PENDING,
        (D.BUILDING, DeploymentEvent.MOVE): D.PENDING,
        (D.STARTING, DeploymentEvent.MOVE): D.STARTING,
    }
)


def after_replica(state: R, event: ReplicaEvent) -> R:
    """Raises IllegalTransition."""
    try:
        return REPLICA[state, event]
    except KeyError:
        raise IllegalTransition(f"a replica that is {state} can't take {event!r}") from None


def after_deployment(state: D, event: DeploymentEvent) -> D:
    """Raises IllegalTransition."""
    try:
        return DEPLOYMENT[state, event]
    except KeyError:
        raise IllegalTransition(f"a deployment that is {state} can't take {event!r}") from None
