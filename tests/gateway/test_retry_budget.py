"""The budget of retries: a fifth of the last ten seconds' requests, and three a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.retry_budget import RetryBudget


def begin(budget: RetryBudget, now: float, count: int = 1) -> None:
    """As the dispatcher does it."""
    for _ in range(count):
        if now >= budget.turn:
            budget.turn_over(now)
        budget.requests += 1


def granted(budget: RetryBudget, now: float, asked: int) -> int:
    return sum(budget.withdraw(now) for _ in range(asked))


def test_three_a_second_without_any_traffic() -> None:
    budget = RetryBudget()
    assert [granted(budget, 100.0 + second, 10) for second in range(20)] == [3] * 20


def test_a_fifth_of_the_window() -> None:
    budget = RetryBudget()
    begin(budget, 100.0, 1000)
    assert granted(budget, 100.0, 1000) == 200
    assert granted(budget, 100.9, 1000) == 2, "the reserve, not more"
    begin(budget, 105.0, 500)
    assert granted(budget, 105.0, 1000) == 98, "the reserve counts in it"


def test_what_is_older_than_the_window_is_forgotten() -> None:
    budget = RetryBudget()
    begin(budget, 100.0, 1000)
    assert granted(budget, 109.5, 1000) == 200
    budget = RetryBudget()
    begin(budget, 100.0, 1000)
    assert granted(budget, 110.5, 1000) == 3
    assert granted(budget, 10_000.0, 1000) == 3


def test_in_a_steady_stream_of_failures_a_fifth_is_sent_again() -> None:
    budget = RetryBudget()
    retried = 0
    for tick in range(3000):  # 100 requests a second, each failing
        now = 50.0 + tick / 100
        begin(budget, now)
        retried += budget.withdraw(now)
    assert 0.19 <= retried / 3000 <= 0.2 + 3 / 3000


STEPS = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 40), st.integers(0, 40)), max_size=60)


@given(STEPS)
def test_never_more_than_both_allow_and_never_less_than_the_reserve(steps: list[tuple[float, int, int]]) -> None:
    budget = RetryBudget()
    now = 1000.0
    begun: list[tuple[float, int]] = []
    sent: list[tuple[float, int]] = []
    for pause, requests, asked in steps:
        now += pause
        begin(budget, now, requests)
        begun.append((now, requests))
        got = granted(budget, now, asked)
        sent.append((now, got))
        assert got >= min(asked, int(3 * pause) if pause < 1.0 else 3)
        window = sum(count for at, count in begun if at > now - 10.0)
        retries = sum(count for at, count in sent if at > now - 9.0)
        assert retries <= 0.2 * window + 3 * 9 + 3
