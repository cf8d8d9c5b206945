"""The tables of lives: what is reachable, and from where there is no way back."""

from __future__ import annotations

import pytest

from activator.lifecycle import (
    DEPLOYMENT,
    REPLICA,
    DeploymentEvent,
    IllegalTransition,
    ReplicaEvent,
    after_deployment,
    after_replica,
)
from state.models import DeploymentState as D
from state.models import ReplicaState as R


def reachable(start: object, table: object) -> set[object]:
    found, fresh = {start}, {start}
    while fresh:
        fresh = {after for (before, _), after in table.items() if before in fresh} - found  # type: ignore[attr-defined]
        found |= fresh
    return found


def test_every_state_is_reached() -> None:
    assert reachable(R.INTENT, REPLICA) == set(R)
    assert reachable(D.PENDING, DEPLOYMENT) == set(D)


def test_what_stops_never_comes_back() -> None:
    assert reachable(R.STOPPING, REPLICA) == {R.STOPPING}
    for over in (D.FAILED, D.CANCELLED, D.SUPERSEDED):
        assert reachable(over, DEPLOYMENT) == {over}


@pytest.mark.parametrize("state", [R.READY, R.UNHEALTHY])
def test_one_in_rotation_stops_only_by_draining_or_its_own_end(state: R) -> None:
    ways = {event for (before, event), after in REPLICA.items() if before is state and after is R.STOPPING}
    assert ways == {ReplicaEvent.LOST}
    assert after_replica(state, ReplicaEvent.RELEASE) is R.DRAINING


def test_a_draining_one_is_called_back_until_it_stops() -> None:
    assert after_replica(R.DRAINING, ReplicaEvent.CALL_BACK) is R.READY
    with pytest.raises(IllegalTransition, match="stopping"):
        after_replica(R.STOPPING, ReplicaEvent.CALL_BACK)


def test_an_illegal_deployment_event_is_told() -> None:
    with pytest.raises(IllegalTransition, match="failed"):
        after_deployment(D.FAILED, DeploymentEvent.ACTIVATE)
