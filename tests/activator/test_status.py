"""The status of SPEC section 2, the first that fits; and the backend's phase beside it."""

from __future__ import annotations

from typing import Any

import pytest
from samples import deployment, replica, service, view

from activator.status import ReplicaCounts, replica_counts, service_status
from activator.views import View
from state.models import DeploymentState as D
from state.models import Phase, Scale
from state.models import ReplicaState as R

NEW = {"of": service(active=None)}
ONE = Scale(desired=1)


@pytest.mark.parametrize(
    ("expected", "seen"),
    [
        ("deploying", view(**NEW, deployments=[deployment(state=D.PENDING)])),
        ("deploying", view(**NEW, deployments=[deployment(state=D.BUILDING)])),
        ("deploying", view(replica("a", R.FAILED), **NEW, deployments=[deployment(state=D.STARTING)], scale=ONE)),
        ("failed", view(**NEW, deployments=[deployment(state=D.FAILED)])),
        ("stopped", view(**NEW, deployments=[deployment(state=D.CANCELLED)])),
        ("stopped", view(scale=Scale(desired=0))),
        ("stopped", view(replica("a", R.DRAINING), scale=Scale(desired=0))),
        ("stopped", view(replica("a", R.STARTING), scale=ONE)),
        ("degraded", view(replica("a", R.FAILED), scale=Scale(desired=1, failures=1))),
        ("degraded", view(scale=Scale(desired=0, failures=1))),
        ("degraded", view(replica("a", R.STARTING), scale=Scale(desired=1, failures=1))),
        ("degraded", view(replica("a"), replica("b", R.UNHEALTHY), scale=Scale(desired=2))),
        ("degraded", view(replica("a", R.FAILED, ready_at=1), replica("b"), scale=Scale(desired=2, failures=1))),
        ("degraded", view(replica("a"), of=service(min_replicas=2), scale=Scale(desired=2))),
        ("running", view(replica("a"), scale=ONE)),
        ("running", view(replica("a"), scale=Scale(desired=1, failures=2))),
        ("running", view(replica("a"), replica("b", R.STARTING), scale=Scale(desired=2))),
        ("running", view(replica("a", R.STARTING), of=service(min_replicas=1), scale=ONE)),
        (
            "running",
            view(replica("a"), of=service(latest="d2"), deployments=[deployment(), deployment("d2", D.FAILED)]),
        ),
    ],
)
def test_the_first_that_fits(expected: str, seen: View) -> None:
    assert service_status(seen.service, seen.deployments, seen.replicas.values(), seen.scale) == expected


def test_what_no_node_can_run_has_failed() -> None:
    seen = view(replica("a"))
    assert service_status(seen.service, seen.deployments, (), seen.scale, runnable=False) == "failed"


def test_counts() -> None:
    every = [replica(state.value, state) for state in R]
    assert replica_counts(every, Scale(desired=4)) == ReplicaCounts(4, 1, 2, 2, 2)


@pytest.mark.parametrize(
    ("changes", "phase", "reason"),
    [
        ({}, Phase.SERVING, None),
        ({"deleted_at": 9}, Phase.REFUSING, "deleted"),
        ({"active": None, "latest": "gone"}, Phase.REFUSING, "it has no deployment"),
    ],
)
def test_a_service_without_replicas(changes: dict[str, Any], phase: Phase, reason: str | None) -> None:
    backend = view(of=service(**changes)).derived()
    assert (backend.phase, backend.reason, backend.endpoints) == (phase, reason, ())


def test_draining_and_ill_ones_are_listed_and_take_nothing_new() -> None:
    seen = view(replica("a"), replica("b", R.DRAINING), replica("c", R.UNHEALTHY), replica("d", R.STOPPING))
    assert [(e.id, e.ready) for e in seen.derived().endpoints] == [("a", True), ("b", False), ("c", False)]


def test_a_deleted_service_takes_nothing_new() -> None:
    backend = view(replica("a"), of=service(deleted_at=9)).derived()
    assert [(e.id, e.ready) for e in backend.endpoints] == [("a", False)]
