"""When requests are expected, by what was so in the weeks before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from activator.forecast import LOOK_AGAIN, REMEMBERED, WEEK, expected, lead, noted, reserved, wait
from state.codec import decode, encode
from state.models import History, Scale

HOUR = 3_600_000_000
MONDAY = 2700 * WEEK  # an hour


def told(*hours: int, start: float | None = None) -> History:
    history: History | None = None
    for hour in hours:
        history = noted(history, hour * HOUR + 7, start)
    assert history is not None
    return history


def test_one_week_is_enough_for_a_first_forecast() -> None:
    history = told(MONDAY, MONDAY + 9, MONDAY + 33)
    assert not any(expected(history, MONDAY + hour) for hour in range(WEEK))
    assert [hour for hour in range(WEEK) if expected(history, MONDAY + WEEK + hour)] == [0, 9, 33]


def test_more_than_half_of_the_weeks_that_are_known() -> None:
    weeks = [MONDAY + WEEK * week + 9 for week in range(6)]
    assert not expected(told(MONDAY, weeks[0], weeks[1] + 1), weeks[2])  # one of two
    assert expected(told(MONDAY, weeks[0], weeks[1], weeks[2] + 1), weeks[3])  # two of three
    assert not expected(told(MONDAY, weeks[0], weeks[1], weeks[3] + 1), weeks[4])  # two of four
    assert expected(told(MONDAY, weeks[0], weeks[1], weeks[3], weeks[3] + 1), weeks[4])


def test_what_is_over_is_forgotten() -> None:
    history = told(*(MONDAY + WEEK * week + 9 for week in range(6)))
    ahead = [expected(history, MONDAY + WEEK * week + 9) for week in range(6, 12)]
    assert ahead == [True, True, False, False, False, False]


def test_the_present_hour_says_nothing_of_itself() -> None:
    history = told(MONDAY, MONDAY + WEEK + 9)
    assert not expected(history, MONDAY + WEEK + 9)


def test_it_is_woken_ahead_by_its_own_start() -> None:
    history = told(MONDAY, MONDAY + 9, start=40.0)
    assert lead(history) == 60.0
    nine = (MONDAY + WEEK + 9) * HOUR
    assert not reserved(history, nine - 61_000_000)
    assert wait(history, nine - 61_000_000) == 1.0
    assert reserved(history, nine - 60_000_000)
    assert reserved(history, nine + HOUR - 1)
    assert not reserved(history, nine + HOUR)
    assert lead(told(MONDAY)) == 5.0
    assert not reserved(None, nine)


def test_starts_count_quickly_up_and_slowly_down() -> None:
    history = told(MONDAY, start=10.0)
    assert noted(history, MONDAY * HOUR, 90.0).start_ms == 90_000
    assert noted(history, MONDAY * HOUR, 5.0).start_ms == 9_000
    assert noted(history, MONDAY * HOUR, None).start_ms == 10_000


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    history = told(MONDAY, MONDAY + 9)
    assert noted(history, (MONDAY + 3) * HOUR, None) == history


def test_what_is_stored_is_small_and_read_back() -> None:
    scale = Scale(history=told(*range(MONDAY, MONDAY + 1000, 7), start=12.3456))
    assert decode(Scale, encode(scale)) == scale
    assert len(encode(scale)) < 300
    damaged = History(MONDAY, MONDAY, "0")
    assert not expected(damaged, MONDAY + WEEK)
    assert len(noted(damaged, MONDAY * HOUR, None).weeks) == WEEK


@given(st.sets(st.integers(0, 6 * WEEK), min_size=1), st.integers(0, WEEK - 1))
def test_it_is_what_counting_weeks_says(busy: set[int], later: int) -> None:
    history = told(*(MONDAY + hour for hour in sorted(busy)))
    hour = max(busy) + 1 + later
    known = min(REMEMBERED, (hour - min(busy)) // WEEK)
    hits = sum(hour - WEEK * week in busy for week in range(1, known + 1))
    assert expected(history, MONDAY + hour) == (known > 0 and hits * 2 > known)


@given(st.sets(st.integers(0, 3 * WEEK), min_size=1), st.integers(0, 5 * WEEK * 3600), st.floats(0.1, 5000))
def test_whoever_waits_as_told_misses_no_hour(busy: set[int], second: int, start: float) -> None:
    history = told(*(MONDAY + hour for hour in sorted(busy)), start=start)
    now = MONDAY * HOUR + second * 1_000_000
    pause = wait(history, now)
    assert 0 < pause <= LOOK_AGAIN
    if not reserved(history, now):
        assert not reserved(history, now + round(pause * 1e6) - 1_000)
