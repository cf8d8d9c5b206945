"""Times of the API: ISO 8601 in UTC with `Z` outwards, any offset inwards; microseconds since the epoch inside."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FULL: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)")


def iso(at: int) -> str:
    """`2026-03-18T12:00:00.000001Z`: always with microseconds, so that texts sort as times do."""
    seconds, microseconds = divmod(at, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@functools.lru_cache(maxsize=1024)  # lines of logs come many to a second
def _second(at: int) -> str:
    return (_EPOCH + timedelta(seconds=at)).strftime("%Y-%m-%dT%H:%M:%S")


def parse(text: str) -> int:
    """A time with an offset. Raises ValueError."""
    # in a query, the + of an offset arrives as a space when it was not percent-encoded
    text = re.sub(r" (\d\d:?\d\d)\Z", r"+\1", text.strip())
    if not _FULL.fullmatch(text):
        raise ValueError("must be a time with an offset, such as 2026-03-18T12:00:00Z")
    try:
        return (datetime.fromisoformat(text.upper().replace(" ", "T")) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise ValueError("is no time of the calendar") from error


def expiry(text: str, now: int) -> int:
    """A span from now (`90d`; units s m h d w) or a time. Raises ValueError."""
    if match := _SPAN.fullmatch(text):
        at = now + int(match[1]) * _UNITS[match[2]] * 1_000_000
    else:
        try:
            at = parse(text)
        except ValueError as error:
            raise ValueError("must be a span such as 90d or a time such as 2027-03-18T12:00:00Z") from error
    try:
        iso(at)
    except OverflowError as error:
        raise ValueError("is too far in the future") from error
    return at
