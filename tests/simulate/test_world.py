"""The simulated world: no request is lost or served twice, no replica takes more than it may, and all is repeatable."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate.policies import Report
from simulate.runs import POLICIES, play
from simulate.traces import TRACES, Trace
from simulate.world import FORWARD, WAKE, Model, Request, World


class Fixed:
    """A policy that wants the same number, and tells what it heard."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reports: list[Report] = []

    def hear(self, report: Report, now: float) -> None:
        self.reports.append(report)

    def desired(self, report: Report, ready: int, desired: int, now: float) -> int:
        return self.count

    def forget(self, now: float) -> float | None:
        return None


def world(count: int, *, seconds: float = 60.0, **fields: float) -> tuple[World, Fixed]:
    model = Model(lambda _: 2.0, **{"concurrency": 1, "max_replicas": 10, **fields})  # type: ignore[arg-type]
    policy = Fixed(count)
    return World(model, policy, seconds, 1), policy


def at(*moments: float, work: float = 1.0) -> Iterator[Request]:
    return (Request(moment, work) for moment in moments)


def test_the_first_waits_for_the_start_and_the_next_in_order() -> None:
    outcome = world(1)[0].run(at(0.5, 0.6, 0.7))
    start = WAKE + 2.0 + FORWARD
    assert outcome.waits == pytest.approx([start, start + 0.9, start + 1.8])
    assert (outcome.starts, outcome.cold_starts, outcome.failed) == (1, 1, 0)
    assert outcome.replica_seconds == pytest.approx(60.0 - 0.5 - WAKE)


def test_two_replicas_share_and_a_third_request_waits_for_the_first_that_is_free() -> None:
    outcome = world(2)[0].run(at(0.0, 10.0, 10.2, 10.3))
    assert outcome.waits == pytest.approx([WAKE + 2.0 + FORWARD, 0.0, 0.0, 0.7])


def test_who_waits_too_long_or_finds_the_room_full_has_failed() -> None:
    outcome = world(0, hold_timeout=5.0, hold_limit=2)[0].run(at(0.0, 0.1, 0.2))
    assert (outcome.failed, outcome.waits) == (3, [])


def test_reports_tell_levels_means_and_how_long_the_oldest_waits() -> None:
    told = world(1)
    told[0].run(at(0.5, 0.5))
    first, *_ = told[1].reports
    assert (first.in_flight, first.held, first.requests) == (0, 2, 2)
    assert first.mean == pytest.approx(2.0)
    assert first.oldest == pytest.approx(0.5)
    assert told[1].reports[3].mean == pytest.approx((2 * (3.53 - 3.0) + 1 * (4.0 - 3.53)), abs=0.01)


@settings(max_examples=60)
@given(
    st.sampled_from(list(POLICIES)),
    st.lists(st.tuples(st.floats(0, 200), st.floats(0.01, 30)), min_size=1, max_size=150),
    st.integers(1, 5),
    st.floats(0.1, 100),
)
def test_every_request_is_answered_or_failed(
    policy: str, wanted: list[tuple[float, float]], concurrency: int, start: float
) -> None:
    model = Model(lambda _: start, concurrency, 6)
    trace = dataclasses.replace(TRACES[0], model=model, seconds=200.0)
    requests = [Request(*one) for one in sorted(wanted)]
    outcome = World(model, POLICIES[policy](trace), 200.0, 1).run(iter(requests))
    assert len(outcome.waits) + outcome.failed == len(requests)
    assert all(0 <= wait <= model.hold_timeout + 1.0 for wait in outcome.waits)
    assert all(sample.ready <= sample.replicas for sample in outcome.samples)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(0.01, 10)), min_size=1, max_size=80),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_no_replica_takes_more_than_it_may(wanted: list[tuple[float, float]], count: int, concurrency: int) -> None:
    made, policy = world(count, concurrency=concurrency)
    made.run(Request(*one) for one in sorted(wanted))
    assert all(told.in_flight <= count * concurrency for told in policy.reports)
    assert all(told.held == 0 or told.in_flight == count * concurrency for told in policy.reports[4:])


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_requests_come_at_their_rate_and_the_same_each_time(trace: Trace) -> None:
    short = dataclasses.replace(trace, seconds=min(trace.seconds, 1800.0))
    once, again = list(short.requests()), list(short.requests())
    assert once == again
    assert [one.at for one in once] == sorted(one.at for one in once)
    expected = sum(short.rate(second + 0.5) for second in range(int(short.seconds)))
    assert len(once) == pytest.approx(expected, abs=5 * expected**0.5 + 1)
    assert all(short.rate(Random(1).uniform(0, short.seconds)) <= short.most for _ in range(100))


def test_an_outcome_is_the_same_each_time() -> None:
    trace = dataclasses.replace(TRACES[0], seconds=300.0)
    for make in POLICIES.values():
        assert play(trace, make(trace)) == play(trace, make(trace))
