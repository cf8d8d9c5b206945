"""Averages of levels over time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.averages import Average


@given(
    st.lists(st.tuples(st.floats(0.01, 20), st.floats(0, 1000)), min_size=1, max_size=100),
    st.floats(0.5, 60),
)
def test_an_average_is_the_integral_over_the_span(steps: list[tuple[float, float]], span: float) -> None:
    now, average, history = 0.0, Average(0.0), [(0.0, 0.0)]
    for pause, level in steps:
        now += pause
        average.observe(level, now)
        history.append((now, level))
    now += 1.0
    history.append((now, history[-1][1]))  # the last one holds
    start, area = max(0.0, now - span), 0.0
    for (begin, low), (end, high) in pairwise(history):
        if end > start:
            cut = max(begin, start)
            at_cut = low + (high - low) * (cut - begin) / (end - begin)
            area += (at_cut + high) / 2 * (end - cut)
    got = average.over(span, now)
    most = max(level for _, level in history)
    assert 0 <= got <= most + 1e-6
    # points are kept a quarter of a second apart; between them, and within a long ramp, the area is shared out evenly
    longest = max(0.25, *(end - begin for (begin, _), (end, _) in pairwise(history) if begin < start < end), 0.25)
    assert got == pytest.approx(area / (now - start), abs=most * longest / min(span, now) + 1e-6)
    assert len(average._points) < 300


def test_a_level_that_grows_is_not_behind_by_a_report() -> None:
    average = Average(0.0)
    for second in range(11):
        average.observe(10.0 * second, float(second))
    assert average.over(6.0, 10.0) == pytest.approx(70.0)
    assert average.over(60.0, 10.0) == pytest.approx(50.0)


def test_the_last_level_holds() -> None:
    average = Average(0.0)
    average.observe(4.0, 0.0)
    assert average.over(6.0, 0.0) == 4.0
    assert average.over(6.0, 30.0) == pytest.approx(4.0)
