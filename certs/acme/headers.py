"""Header fields of answers: Retry-After (RFC 9110 10.2.3), Link (RFC 8288), Replay-Nonce (RFC 8555 6.5.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urljoin

from certs.acme.fields import is_url

LINKS: Final = 10  # of one answer; more are left out
_FIELD: Final = 8192  # characters that are looked at
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
# RFC 9110 5.6.7: the three forms that a recipient has to read.
_DATES: Final = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_LINK: Final = re.compile(r'[\s,]*<([^<>\s]*)>((?:\s*;\s*[\w!#$&+.^`|~-]+\*?(?:\s*=\s*(?:"[^"\\]*"|[^\s",;<>"]+))?)*)')
_REL: Final = re.compile(r';\s*rel\s*=\s*(?:"([^"\\]*)"|([^\s",;<>"]+))', re.IGNORECASE)


def nonce(value: str | None) -> str | None:
    """None if there is none, or one that has to be ignored (RFC 8555 6.5.1)."""
    return value if value is not None and _NONCE.fullmatch(value) else None


def retry_after(value: str | None, now: int) -> float | None:
    """Seconds, never negative; `now` in microseconds. None if there is none or it can't be read."""
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    at = http_date(value, now)
    return None if at is None else max(0.0, (at - now) / 1e6)


def http_date(value: str, now: int) -> int | None:
    """Microseconds since the epoch. A year of two digits is never more than 50 years ahead (RFC 9110 5.6.7)."""
    found = next(filter(None, (form.fullmatch(value) for form in _DATES)), None)
    if found is None:
        return None
    year, this_year = int(found["year"]), datetime.fromtimestamp(now // 1_000_000, UTC).year
    if len(found["year"]) == 2:
        year += this_year // 100 * 100
        year -= 100 if year > this_year + 50 else 0
    month = _MONTHS.index(found["month"]) + 1
    day, hour, minute, second = (int(found[part]) for part in ("day", "hour", "minute", "second"))
    try:
        at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)  # 60 is a leap second
    except ValueError:
        return None
    return int(at.timestamp()) * 1_000_000


def links(values: Iterable[str], relation: str, base: str, *, secure: bool) -> tuple[str, ...]:
    """Targets of the links with this relation, absolute, each once, at most `LINKS`. What is malformed is left out."""
    found: dict[str, None] = {}
    for value in values:
        for target, parameters in _LINK.findall(value[:_FIELD]):
            quoted, token = (_REL.findall(parameters) or [("", "")])[0]
            if relation in (quoted or token).lower().split() and (url := _absolute(base, target, secure)):
                found[url] = None
    return tuple(found)[:LINKS]


def _absolute(base: str, target: str, secure: bool) -> str | None:
    try:
        url = urljoin(base, target)
    except ValueError:
        return None
    return url if is_url(url, secure=secure) else None
