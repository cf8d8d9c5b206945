"""What an agent finds out: said twice it changes nothing, and a deployment that can't start fails soon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import deployment, replica, service, view

from activator import verdicts
from activator.views import View
from state.codec import encode
from state.models import Deployment, Phase, Reason, RunSpec, Scale, StartPhases
from state.models import DeploymentState as D
from state.models import ReplicaState as R

BOOM = Reason("boom", "last line of its log: DB=postgres://u:p@db")

FINDINGS: dict[str, Callable[[View], View]] = {
    "addressed": lambda v: verdicts.addressed(v, "a", 2000),
    "started": lambda v: verdicts.started(v, "a", "127.0.0.1", 2000, 9),
    "passed": lambda v: verdicts.passed(v, "a", 9),
    "ailed": lambda v: verdicts.ailed(v, "a", Reason("ill")),
    "condemned": lambda v: verdicts.condemned(v, "a", Reason("ill"), 9),
    "lost": lambda v: verdicts.lost(v, "a"),
    "usurped": lambda v: verdicts.usurped(v, "a", Reason("taken")),
    "broke": lambda v: verdicts.broke(v, "a", BOOM, 9),
    "removed": lambda v: verdicts.removed(v, "a"),
    "building": lambda v: verdicts.building(v, "d1"),
    "built": lambda v: verdicts.built(v, "d1", "c0", "ref", 7),
    "unbuilt": lambda v: verdicts.unbuilt(v, "d1", Reason("no branch"), 9),
}


@given(st.sampled_from(list(R)), st.sampled_from(list(D)), st.sampled_from(sorted(FINDINGS)))
def test_said_twice_it_changes_nothing(state: R, of: D, finding: str) -> None:
    before = view(replica("a", state), deployments=[deployment(state=of)])
    once = FINDINGS[finding](before)
    assert FINDINGS[finding](once) == once


@pytest.mark.parametrize("finding", sorted(FINDINGS))
def test_nothing_is_found_out_about_what_is_gone(finding: str) -> None:
    before = view(deployments=[])
    assert FINDINGS[finding](before) is before


def test_the_way_to_readiness_reaches_the_workers_at_its_end() -> None:
    before = view(replica("a", R.INTENT, port=0))
    running = FINDINGS["started"](FINDINGS["addressed"](before))
    assert running.derived() == before.derived()
    (endpoint,) = FINDINGS["passed"](running).derived().endpoints
    assert (endpoint.port, endpoint.ready) == (2000, True)


@pytest.mark.parametrize(
    ("decide", "held", "beside", "cold"),
    [
        (None, False, R.STARTING, False),  # a deployment, `min_replicas`
        (None, True, R.STARTING, True),  # somebody came while it started
        (5, False, R.STARTING, True),  # who asked for it has gone
        (5, True, R.READY, False),
    ],
)
def test_a_start_is_cold_if_it_ends_a_wake(decide: int | None, held: bool, beside: R, cold: bool) -> None:
    before = view(replica("a", R.STARTING, phases=StartPhases(decide=decide)), replica("b", beside))
    after = verdicts.passed(before, "a", 9, StartPhases(decide=decide, ready=7), held=held)
    assert after.replicas["a"].cold is cold
    assert verdicts.ends_wake(before, before.replicas["a"], held=held) is cold


def first_try() -> View:
    return view(
        replica("a", R.STARTING), of=service(active=None), deployments=[deployment(state=D.STARTING)], scale=Scale(1)
    )


def test_a_first_break_while_starting_is_forgiven_and_the_second_is_not() -> None:
    once = verdicts.broke(first_try(), "a", Reason("exited with code 3"), 9)
    assert once.deployments["d1"].state is D.STARTING
    assert once.scale.failures == 0
    assert once.derived().phase is Phase.SERVING
    twice = verdicts.broke(
        once.put(replica("b", R.STARTING)), "b", Reason("exited with code 4", "last line of its log: s3cret"), 9
    )
    failed = twice.deployments["d1"]
    assert (failed.state, failed.reason, failed.finished_at) == (D.FAILED, "exited with code 4", 9)
    assert failed.explanation == "exited with code 4; last line of its log: s3cret"
    assert {r.state for r in twice.replicas.values()} == {R.STOPPING}
    backend = twice.derived()
    assert (backend.phase, backend.reason) == (Phase.REFUSING, "exited with code 4")
    assert twice.scale.desired == 0


def test_a_start_that_took_too_long_is_not_tried_again() -> None:
    after = verdicts.broke(first_try(), "a", Reason("nothing listened"), 9, tried_enough=True)
    assert after.deployments["d1"].state is D.FAILED


def test_what_served_drains_when_its_deployment_fails() -> None:
    before = first_try().put(replica("b", R.FAILED), replica("c", R.READY))
    after = verdicts.broke(before, "a", BOOM, 9)
    assert {i: r.state for i, r in after.replicas.items()} == {"a": R.STOPPING, "b": R.STOPPING, "c": R.DRAINING}
    assert after.replicas["c"].reason == "its deployment failed"


def test_a_failed_wake_counts_and_is_refused_with_a_doubling_backoff() -> None:
    before = view(replica("a", R.STARTING), scale=Scale(desired=1, failures=3))
    after = verdicts.broke(before, "a", BOOM, 9)
    assert after.scale == Scale(desired=1, failures=4, reason="boom")
    backend = after.derived()
    assert (backend.phase, backend.reason, backend.retry_after) == (Phase.REFUSING, "boom", 8)


@pytest.mark.parametrize(("failures", "phase"), [(0, Phase.SERVING), (2, Phase.SERVING), (3, Phase.REFUSING)])
def test_a_crash_is_waited_for_while_the_backoff_is_short(failures: int, phase: Phase) -> None:
    before = view(replica("a"), scale=Scale(desired=1, failures=failures))
    assert verdicts.broke(before, "a", BOOM, 9).derived().phase is phase


def test_one_that_ends_while_it_drains_is_nobodys_fault() -> None:
    after = verdicts.broke(view(replica("a", R.DRAINING)), "a", BOOM, 9)
    assert after.replicas["a"].state is R.STOPPING
    assert after.scale.failures == 0


def test_a_build_that_failed_tells_of_which_commit_and_nothing_is_wanted() -> None:
    before = view(of=service(active=None), deployments=[deployment(state=D.BUILDING)], scale=Scale(desired=1))
    after = verdicts.unbuilt(before, "d1", Reason("the build failed", "boom"), 9, "c0")
    failed = after.deployments["d1"]
    assert (failed.commit, failed.reason, failed.detail, failed.finished_at) == ("c0", "the build failed", "boom", 9)
    assert after.scale.desired == 0
    assert (after.derived().phase, after.derived().reason) == (Phase.REFUSING, "the build failed")
    pinned = before.put(deployment(state=D.BUILDING, commit="c1"))
    assert verdicts.unbuilt(pinned, "d1", Reason("gone"), 9).deployments["d1"].commit == "c1"


def test_a_redeploy_that_fails_leaves_what_is_wanted() -> None:
    deployments = [deployment("d1"), deployment("d2", D.BUILDING)]
    before = view(replica("a"), of=service(latest="d2"), deployments=deployments, scale=Scale(desired=1))
    assert verdicts.unbuilt(before, "d2", BOOM, 9).scale == Scale(desired=1)


def test_no_detail_reaches_the_workers() -> None:
    served = verdicts.broke(view(replica("a", R.STARTING), scale=Scale(desired=1)), "a", BOOM, 9)
    never = verdicts.broke(first_try(), "a", BOOM, 9, tried_enough=True)
    for after in (served, never):
        assert after.derived().phase is Phase.REFUSING
        assert "postgres" not in encode(after.derived()).decode()
    assert "postgres" in encode(never.deployments["d1"]).decode()


def test_what_was_built_is_a_commit_or_a_digest() -> None:
    of_repo = verdicts.built(view(deployments=[deployment(state=D.BUILDING)]), "d1", "c0ffee", "ref", 7)
    assert (of_repo.deployments["d1"].commit, of_repo.deployments["d1"].digest) == ("c0ffee", None)
    image = replace(deployment(state=D.BUILDING), run=RunSpec(image="acme/app:1"))
    of_image = verdicts.built(view(deployments=[image]), "d1", "sha256:ab", "ref", 7).deployments["d1"]
    assert (of_image.commit, of_image.digest, of_image.artifact) == (None, "sha256:ab", "ref")


def test_a_push_of_what_serves_starts_nothing() -> None:
    active, owner = deployment(commit="c0ffee"), service(latest="d2")

    def after(**pushed: Any) -> Deployment:
        waiting = deployment("d2", D.BUILDING, **{"cause": "push", **pushed})
        return verdicts.built(view(of=owner, deployments=[active, waiting]), "d2", "c0ffee", "ref", 7).deployments["d2"]

    assert (after().state, after().reason, after().finished_at) == (D.CANCELLED, verdicts.STALE, 7)
    assert after(cause="redeploy").state is D.STARTING  # its owner asked for it
    changed = replace(deployment("d2", D.BUILDING, cause="push"), run=replace(active.run, port=1))
    before = view(of=owner, deployments=[active, changed])
    assert verdicts.built(before, "d2", "c0ffee", "ref", 7).deployments["d2"].state is D.STARTING
    assert verdicts.built(before, "d2", "another", "ref", 7).deployments["d2"].state is D.STARTING
