"""Budgets: never more than their number in any span, whatever order the moments come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certs.budget import ACCOUNT_ORDERS, DUPLICATES, FAILED_VALIDATIONS, HOUR, Budget

NOW = 1_900_000_000 * 1_000_000


@given(st.integers(1, 5), st.lists(st.integers(0, 40), max_size=60))
def test_no_span_has_more_than_the_budget(most: int, pauses: list[int]) -> None:
    budget, done, kept, now = Budget(most, 100), list[int](), (), 0
    for pause in pauses:
        now += pause
        if budget.room_at(kept, now) <= now:
            done.append(now)
            kept = budget.noted(kept, now)
        assert len(kept) <= most
        assert sum(moment > now - budget.span for moment in done) <= most


@given(st.lists(st.integers(0, 300), max_size=20))
def test_there_is_room_when_it_says_so_and_not_before(moments: list[int]) -> None:
    budget, now = Budget(3, 100), 300
    room = budget.room_at(moments, now)
    if room > now:
        assert budget.room_at(moments, room) == room
        assert budget.room_at(moments, room - 1) > room - 1


def test_a_clock_that_was_ahead_blocks_for_one_span_at_most() -> None:
    ahead = (NOW + 1000 * HOUR,) * 4
    assert FAILED_VALIDATIONS.room_at(ahead, NOW) == NOW + HOUR
    assert FAILED_VALIDATIONS.noted(ahead, NOW) == (NOW,) * 4


def test_below_the_limits_of_lets_encrypt() -> None:
    assert ACCOUNT_ORDERS.most < 300
    assert DUPLICATES.most < 5
    assert FAILED_VALIDATIONS.most < 5
