"""Averages of levels over time."""

from __future__ import annotations

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
    start, area = max(0.0, now - span), 0.0
    for (begin, level), (end, _) in zip(history, [*history[1:], (now, 0.0)], strict=True):
        area += level * max(0.0, end - max(begin, start))
    got = average.over(span, now)
    assert 0 <= got <= max(level for _, level in history) + 1e-6
    # points are kept a quarter of a second apart, so that much of the oldest level may be shared out evenly
    slack = 0.25 * max(level for _, level in history) / min(span, now)
    assert got == pytest.approx(area / (now - start), abs=slack + 1e-6)
    assert len(average._points) < 300
