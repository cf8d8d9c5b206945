"""How many replicas each signal asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.signals import Averages, Signals, Spec, Want, by_utilization, concurrency_per_replica, urgent, wanted

SPEC = Spec(0, 100, target_concurrency=10, scale_down_delay=60, idle_timeout=300)
QUIET = Signals(True, Averages(), ready=2)


@pytest.mark.parametrize(
    ("target", "limit", "expected"), [(100, 0, 100), (100, 10, 7), (10, 10, 7), (9, 10, 9), (100, 1, 1)]
)
def test_a_hard_limit_leaves_room_for_bursts_unless_another_target_is_set(
    target: int, limit: int, expected: float
) -> None:
    assert concurrency_per_replica(target, limit) == pytest.approx(expected)


def test_a_rate_counts_against_its_target_only() -> None:
    told = replace(QUIET, rate=Averages(stable=95.0, panic=310.0))
    assert wanted(SPEC, told, 2).count == 0
    spec = replace(SPEC, target_rate=30)
    assert wanted(spec, told, 2) == Want(4, "95.0 requests per second over 60 s")
    assert urgent(spec, told) == Want(11, "310.0 requests per second over 6 s")


def test_a_queue_delay_multiplies_what_is_ready() -> None:
    spec = replace(SPEC, target_queue_delay=0.5)
    told = replace(QUIET, queue_delay=1.2, held=500)
    assert wanted(SPEC, told, 2).count == 0
    assert wanted(spec, told, 2) == Want(5, "requests are held for 1.2 s")
    assert urgent(spec, told).count == 0


@pytest.mark.parametrize(("ready", "held", "count"), [(0, 1, 1), (0, 25, 3), (2, 1, 3), (2, 0, 2)])
def test_a_delay_that_grows_during_a_start_asks_for_no_more_than_take_who_is_held(
    ready: int, held: int, count: int
) -> None:
    spec = replace(SPEC, target_queue_delay=0.5)
    assert wanted(spec, replace(QUIET, ready=ready, held=held, queue_delay=90.0), 1).count == count


def test_the_largest_count_wins_and_names_its_signal() -> None:
    spec = replace(SPEC, target_rate=10, target_queue_delay=1, target_gpu_utilization=50)
    told = Signals(True, Averages(25, 0), 2, rate=Averages(39, 0), queue_delay=1.0, held=9, gpu_utilization=100)
    assert wanted(spec, told, 2) == Want(4, "39.0 requests per second over 60 s")
    assert wanted(spec, replace(told, gpu_utilization=40), 2).count == 4
    assert wanted(spec, replace(told, rate=Averages(30, 0)), 2) == Want(4, "GPU utilization is 100 %, its target 50 %")


def test_gpu_utilization_counts_while_busy_only() -> None:
    spec = replace(SPEC, target_gpu_utilization=10)
    told = replace(QUIET, gpu_utilization=100.0)
    assert wanted(spec, told, 2).count == 20
    assert wanted(spec, replace(told, busy=False), 2).count == 0
    assert wanted(spec, replace(told, gpu_utilization=None), 2).count == 0


@pytest.mark.parametrize(
    ("value", "target", "ready", "count"),
    [
        (100, 10, 1, 10),
        (87, 10, 3, 27),
        (35, 10, 2, 7),
        (4, 10, 5, 2),
        (100, 95, 1, 2),
        (98, 95, 40, 42),
        (96, 95, 40, 40),  # within the tolerance
        (80, 95, 10, 9),
        (47, 95, 2, 1),
        (0, 95, 3, 0),
        (70, 70, 3, 3),
        (76, 70, 3, 3),
        (78, 70, 3, 4),
        (64, 70, 20, 20),
        (62, 70, 20, 18),
    ],
)
def test_utilization_by_the_formula(value: float, target: float, ready: int, count: int) -> None:
    assert by_utilization(value, target, ready, ready) == count


@given(st.floats(0, 100), st.sampled_from([10, 95]), st.integers(1, 50))
def test_beyond_the_tolerance_it_is_the_formula(value: float, target: int, ready: int) -> None:
    upwards = min(0.1, (100 / target - 1) / 2)
    count = by_utilization(value, target, ready, ready)
    if 0.9 <= value / target <= 1 + upwards:
        assert count == ready
    else:
        assert count == math.ceil(ready * value / target - 1e-9)


def test_replicas_that_start_count_as_idle_where_more_are_needed() -> None:
    assert by_utilization(100, 50, ready=1, desired=2) == 2
    assert by_utilization(100, 10, ready=1, desired=3) == 10
    assert by_utilization(100, 32, ready=1, desired=3) == 3  # four by the bare formula, but near the target when shared
    assert by_utilization(60, 70, ready=1, desired=3) == 1


@given(st.floats(0, 100), st.floats(0, 100), st.integers(10, 95), st.integers(0, 30), st.integers(1, 30))
def test_more_utilization_never_asks_for_fewer(one: float, other: float, target: int, ready: int, desired: int) -> None:
    low, high = sorted((one, other))
    assert by_utilization(low, target, ready, desired) <= by_utilization(high, target, ready, desired)
