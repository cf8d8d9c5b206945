"""When a service is expected to have requests, from its own history by hour of the week. Pure (law 5).

For each of the 168 hours it is remembered in which of the last weeks there was a request. An hour is expected to be
busy if it was so in more than half of the weeks that are known, four at most: one week is enough for a first forecast.
While an hour is expected, and before it for as long as the service takes to start, one replica is kept
(`Spec.reserve`). A service that sleeps costs nothing meanwhile: `wait` says when to look again.

Hours are of the wall clock in UTC, counted since the epoch; times are microseconds, as they are stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from state.models import History

WEEK: Final = 168  # hours
REMEMBERED: Final = 4  # weeks before the present one
LOOK_AGAIN: Final = 3600.0  # seconds: a wall clock may be set
MARGIN: Final = 1.5  # a start may take longer than the last ones
AT_LEAST: Final = 5.0  # seconds ahead of the hour
_HOUR: Final = 3_600_000_000
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_MASK: Final = (1 << (REMEMBERED + 1)) - 1


def hour_of(time: int) -> int:
    return time // _HOUR


def noted(history: History | None, active_at: int, start: float | None) -> History:
    """It had a request at `active_at`, and a replica took `start` seconds until it was ready, if one is known."""
    hour = hour_of(active_at)
    known = history if history is not None and len(history.weeks) == WEEK else History(hour, hour, "0" * WEEK)
    if hour >= known.hour:
        weeks = _advanced(known, hour)
        place = hour % WEEK
        digit = _DIGITS[int(weeks[place], 32) | 1]
        known = replace(known, hour=hour, weeks=weeks[:place] + digit + weeks[place + 1 :])
    return known if start is None else replace(known, start_ms=_smoothed(known.start_ms, start))


def _advanced(history: History, hour: int) -> str:
    """The weeks with a new place for each hour that has begun since."""
    digits = [int(digit, 32) for digit in history.weeks]
    for passed in range(max(history.hour, hour - WEEK * (REMEMBERED + 1)) + 1, hour + 1):
        digits[passed % WEEK] = digits[passed % WEEK] << 1 & _MASK
    return "".join(_DIGITS[digit] for digit in digits)


def _smoothed(known: int | None, start: float) -> int:
    """Quickly up, slowly down: who is woken too late has waited for nothing."""
    told = round(start * 1000)
    return told if known is None else max(told, round(0.8 * known + 0.2 * told))


def expected(history: History, hour: int) -> bool:
    """Whether requests are expected in that hour."""
    weeks = min(REMEMBERED, (hour - history.began) // WEEK)
    if weeks < 1 or len(history.weeks) != WEEK:
        return False
    begun = 0 if hour <= history.hour else (hour - history.hour - 1) // WEEK + 1
    bits = int(history.weeks[hour % WEEK], 32) << begun & _MASK
    before = bits >> 1 & ((1 << weeks) - 1)
    return before.bit_count() * 2 > weeks


def lead(history: History) -> float:
    """Seconds by which it is woken ahead of an hour."""
    return max(AT_LEAST, MARGIN * (history.start_ms or 0) / 1000)


def reserved(history: History | None, now: int) -> bool:
    """Whether a replica is kept now, requests or not."""
    if history is None:
        return False
    ahead = now + round(lead(history) * 1e6)
    return any(expected(history, hour) for hour in range(hour_of(now), hour_of(ahead) + 1))


def wait(history: History, now: int) -> float:
    """Seconds until `reserved` may become true, `LOOK_AGAIN` at most; of a service that is not."""
    ahead = now + round(lead(history) * 1e6)
    return min(LOOK_AGAIN, ((hour_of(ahead) + 1) * _HOUR - ahead) / 1e6)
