"""Rates from counters: over restarts of workers and of control, in turns, and never from what was long ago."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.traffic import Had, Rate, Traffic, had


def test_counters_as_they_come() -> None:
    counters = {"requests": {"200": 4, "503": 1}, "hold": {"-12": 2, "30": 1}, "hold_sum": 3.5, "bytes_in": 9}
    assert had(counters) == Had(5, 3, 3.5)
    assert had({}) == Had()


def test_only_what_grew_while_we_listened_counts() -> None:
    traffic = Traffic()
    assert traffic.count("old", {"a": Had(1000)}, newborn=False) == set()
    assert traffic.of("a") == Had()
    assert traffic.count("old", {"a": Had(1010, 3, 0.5), "b": Had(7)}, newborn=False) == {"a", "b"}
    assert traffic.of("a") == Had(10, 3, 0.5)
    assert traffic.of("b") == Had()  # whether that has just happened is not known
    traffic.count("old", {"b": Had(9)}, newborn=False)
    assert traffic.of("b") == Had(2)


def test_a_worker_that_began_while_we_listened_is_believed_from_its_first_word() -> None:
    traffic = Traffic()
    traffic.count("new", {"a": Had(5)}, newborn=True)
    traffic.count("new", {"b": Had(3)}, newborn=False)
    assert (traffic.of("a"), traffic.of("b")) == (Had(5), Had(3))


def test_a_restarted_worker_neither_takes_back_nor_counts_again() -> None:
    traffic = Traffic()
    traffic.count("w.1", {"a": Had(100)}, newborn=True)
    traffic.leave("w.1")
    traffic.count("w.2", {"a": Had(2)}, newborn=True)
    traffic.count("w.2", {"a": Had(1)}, newborn=True)  # what goes back has begun anew, whatever it is
    traffic.count("w.2", {"a": Had(4)}, newborn=True)
    assert traffic.of("a") == Had(105)
    traffic.forget("a")
    assert traffic.of("a") == Had()


def test_a_steady_rate() -> None:
    rate = Rate(Had(50), 0.0)
    for second in range(1, 121):
        rate.observe(Had(50 + 30 * second), float(second))
    assert rate.requests(60) == pytest.approx(30)
    assert rate.requests(6) == pytest.approx(30)
    rate.observe(Had(50 + 30 * 120), 126.0)
    assert rate.requests(6) == 0
    assert rate.requests(60) == pytest.approx(27)


def test_a_first_batch_is_no_burst() -> None:
    rate = Rate(Had(), 0.0)
    rate.observe(Had(12), 0.01)
    assert rate.requests(60) == rate.requests(6) == 2


def test_the_mean_wait_is_over_all_requests() -> None:
    rate = Rate(Had(), 0.0)
    assert rate.wait(6) == 0
    rate.observe(Had(10, 5, 2.0), 1.0)
    assert rate.wait(6) == pytest.approx(0.2)
    rate.observe(Had(10, 9, 10.0), 2.0)  # long streams: let go, and not ended
    assert rate.wait(6) == pytest.approx(1.0)
    rate.observe(Had(10, 9, 10.0), 9.0)
    assert rate.wait(6) == 0


@given(st.lists(st.tuples(st.floats(0.001, 20), st.integers(0, 1000)), min_size=1, max_size=300))
def test_a_rate_is_never_negative_and_bounded_in_memory(steps: list[tuple[float, int]]) -> None:
    now, total = 0.0, 0
    rate = Rate(Had(), now)
    for seconds, more in steps:
        now, total = now + seconds, total + more
        rate.observe(Had(total), now)
        assert 0 <= rate.requests(60) <= total / 6
        assert len(rate._points) <= 60 / 0.25 + 3
