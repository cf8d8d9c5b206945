"""Percentiles from log-spaced buckets are within 2 % of the exact ones, however histograms are split and merged."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.histogram import bucket, count
from state import buckets
from state.buckets import GROWTH, add, middle, percentiles

seconds = st.floats(1e-6, 1e6)


def exact(values: list[float], percent: int) -> float:
    return sorted(values)[math.ceil(percent * len(values) / 100) - 1]


@given(seconds)
def test_a_bucket_stands_for_what_is_in_it(value: float) -> None:
    assert abs(middle(bucket(value)) - value) <= 0.02 * value


def test_the_error_is_the_least_that_such_buckets_can_have() -> None:
    lower, upper = GROWTH**6, GROWTH**7
    assert math.isclose(middle(7) / lower - 1, 1 - middle(7) / upper)


@given(st.lists(seconds, min_size=1, max_size=200), st.integers(1, 7))
def test_percentiles_of_merged_histograms_are_within_two_percent(values: list[float], parts: int) -> None:
    merged: dict[int, int] = {}
    for part in range(parts):
        histogram: dict[int, int] = {}
        for value in values[part::parts]:
            count(histogram, value)
        add(merged, histogram)
    wanted = (1, 50, 95, 99, 100)
    for percent, found in zip(wanted, percentiles(merged, wanted), strict=True):
        value = exact(values, percent)
        assert abs(found - value) <= 0.02 * value


def test_of_nothing_percentiles_are_zero() -> None:
    assert percentiles({}, (50, 95, 99)) == [0.0, 0.0, 0.0]


def test_ranks_are_whole_numbers_and_no_floats() -> None:
    """0.07 * 100 is a little more than 7: the nearest rank would be one too high."""
    histogram = dict.fromkeys(range(100), 1)
    assert percentiles(histogram, range(1, 101)) == [middle(index) for index in range(100)]


@given(st.floats(0, 1e5))
def test_both_ways_to_a_bucket_agree(seconds: float) -> None:
    assert buckets.bucket(seconds) == bucket(seconds)
