"""The offered load: what is held counts by what it takes to serve it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.offered import Offered


def fed(*reports: tuple[int, int, int], work: float | None = None) -> tuple[Offered, float]:
    """One (in flight, held, ended) a second, from second 0 on, when the oldest came."""
    load = Offered(0.0, reports[0][2], work)
    for second, report in enumerate(reports):
        in_flight, held, ended = report
        since = second if held else 0
        load.observe(in_flight, held, float(since), ended, float(second))
    return load, float(len(reports) - 1)


def test_without_waiting_it_is_what_is_in_flight() -> None:
    load, now = fed(*[(4, 0, 8 * second) for second in range(61)])
    assert load.over(60.0, now) == pytest.approx(4.0)
    assert load.over(6.0, now) == pytest.approx(4.0)
    assert load.work == pytest.approx(0.5)


def test_as_long_as_the_work_is_not_known_it_is_what_is_in_flight_and_held() -> None:
    load, now = fed(*[(0, 2 * second, 0) for second in range(91)])
    assert load.work is None
    assert load.over(6.0, now) == pytest.approx(174.0)


def test_held_requests_of_a_second_each_need_few_places() -> None:
    """Two a second during a start of 90 s: two places, and ten for the backlog, which is gone 18 s later."""
    load, now = fed(*[(0, 2 * second, 0) for second in range(91)], work=1.0)
    assert load.over(6.0, now) == pytest.approx(12.0)


def test_a_backlog_that_came_quickly_is_served_quickly() -> None:
    load, now = fed(*[(0, 20 * second, 0) for second in range(6)], work=0.5)
    assert load.over(2.0, now) == pytest.approx(20 * 0.5 + 80 * 0.5 / 2, rel=0.01)


def test_held_requests_that_take_long_need_a_place_each() -> None:
    load, now = fed(*[(0, second, 0) for second in range(91)], work=60.0)
    assert load.over(6.0, now) == pytest.approx(87.0)


def test_a_burst_counts_by_its_arrivals_before_its_backlog_has_grown() -> None:
    calm = [(1, 0, 2 * second) for second in range(60)]
    burst = [(5, 98 * second, 118 + 10 * second) for second in range(1, 5)]
    load, now = fed(*calm, *burst, work=0.5)
    assert load.over(6.0, now) > 30


def test_requests_that_take_longer_than_they_did_are_noticed_though_few_end() -> None:
    load, now = fed(*[(4, 3 * second, second // 30) for second in range(61)], work=0.5)
    assert load.work is not None
    assert load.work >= 4 * 60 / 3
    assert load.over(6.0, now) == pytest.approx(4 + 171, abs=8)


def test_a_worker_that_is_gone_takes_its_requests_along() -> None:
    load, now = fed(*[(50, 0, second) for second in range(10)], *[(0, 0, 9)] * 10, work=1.0)
    assert load.over(6.0, now) == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 500), st.integers(0, 40)), min_size=1, max_size=90),
    st.none() | st.floats(0.001, 300),
    st.sampled_from([6.0, 60.0]),
)
def test_never_more_than_the_level_nor_less_than_what_is_in_flight(
    seconds: list[tuple[int, int, int]], work: float | None, span: float
) -> None:
    ended, reports = 0, []
    for in_flight, held, more in seconds:
        ended += more
        reports.append((in_flight, held, ended))
    load, now = fed(*reports, work=work)
    got = load.over(span, now)
    assert got <= max(in_flight + held for in_flight, held, _ in reports) + 1e-6
    assert got >= min(in_flight for in_flight, _, _ in reports) - 1e-6
    assert load.work is None or load.work >= 0
