"""JSON from an ACME server, read strictly (RFC 8555 7.1): every wrong shape is a BadAnswer.

What is read is bounded: strings by length and to printable characters (they end in logs and in the API), lists by
count, URLs to `https:` unless the directory itself is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from yarl import URL

from certs.acme.errors import BadAnswer

TEXT: Final = 1000  # characters of a sentence; more is cut off
_URL: Final = 2048
_LIST: Final = 100  # names of an order, challenges of an authorization
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_URI: Final = re.compile(
    rf"(https?)://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?"
    r"(?:/[A-Za-z0-9._~:/@!$&'()*+,;=%-]*)?(?:\?[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?"
)


def printable(text: str, bound: int = TEXT) -> str:
    """One line of at most `bound` characters, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:bound])


def is_url(text: str, *, secure: bool) -> bool:
    """Absolute, as it can be sent unchanged, without user or fragment; `secure`: and `https:`."""
    found = _URI.fullmatch(text) if len(text) <= _URL else None
    if found is None or (secure and found[1] != "https"):
        return False
    try:
        return URL(text, encoded=True).host is not None
    except ValueError:  # a port or an address that is none
        return False


def moment(text: str) -> int:
    """RFC 3339, in microseconds since the epoch. Raises ValueError."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not a time of RFC 3339")
    whole, fraction, offset = found.groups()
    try:
        seconds = datetime.fromisoformat(whole.upper() + offset.upper().replace("Z", "+00:00"))
        return (seconds - _EPOCH) // _MICROSECOND + int((fraction or "0").ljust(6, "0")[:6])
    except OverflowError as error:
        raise ValueError("not a time of the calendar") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def parse(body: bytes) -> Any:
    """RFC 8259 and no more: no NaN, no member twice. Raises ValueError."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@dataclass(frozen=True, slots=True)
class Fields:
    """The members of an object; `what` names it in errors. A member that is null counts as absent.

    Every method raises BadAnswer for a member of another shape, and those that don't say `| None` if there is none.
    """

    values: dict[str, Any]
    what: str
    secure: bool

    @classmethod
    def of(cls, value: object, what: str, *, secure: bool) -> Fields:
        if not isinstance(value, dict):
            raise BadAnswer(f"{what} is not a JSON object")
        return cls(value, what, secure)

    def bad(self, name: str, wanted: str) -> BadAnswer:
        return BadAnswer(f"{name!r} of {self.what} is not {wanted}")

    def optional_text(self, name: str, bound: int = TEXT) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.bad(name, "a string")
        return None if value is None else printable(value, bound)

    def text(self, name: str) -> str:
        value = self.optional_text(name)
        if value is None:
            raise BadAnswer(f"{self.what} has no {name!r}")
        return value

    def choice(self, name: str, known: Collection[str]) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or value not in known:
            raise self.bad(name, "one of " + ", ".join(known))
        return value

    def flag(self, name: str) -> bool:
        """Absent is false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return bool(value)

    def optional_url(self, name: str) -> str | None:
        value = self.values.get(name)
        return None if value is None else self._url(name, value)

    def url(self, name: str) -> str:
        return self._url(name, self.values.get(name))

    def urls(self, name: str) -> tuple[str, ...]:
        return tuple(self._url(name, value) for value in self._list(name))

    def optional_moment(self, name: str) -> int | None:
        """Microseconds since the epoch."""
        value = self.values.get(name)
        try:
            return None if value is None else moment(value)
        except (ValueError, TypeError):
            raise self.bad(name, "a time of RFC 3339") from None

    def moment(self, name: str) -> int:
        value = self.optional_moment(name)
        if value is None:
            raise BadAnswer(f"{self.what} has no {name!r}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Absent is empty."""
        values = self._list(name) if self.values.get(name) is not None else []
        if not all(isinstance(value, str) for value in values):
            raise self.bad(name, "a list of strings")
        return tuple(printable(value) for value in values)

    def optional_member(self, name: str) -> Fields | None:
        value = self.values.get(name)
        return None if value is None else Fields.of(value, f"{name!r} of {self.what}", secure=self.secure)

    def member(self, name: str) -> Fields:
        return Fields.of(self.values.get(name), f"{name!r} of {self.what}", secure=self.secure)

    def members(self, name: str) -> tuple[Fields, ...]:
        return tuple(Fields.of(v, f"{name!r} of {self.what}", secure=self.secure) for v in self._list(name))

    def _list(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > _LIST:
            raise self.bad(name, f"a list of {_LIST} at most")
        return value

    def _url(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not is_url(value, secure=self.secure):
            raise self.bad(name, "an https: URL" if self.secure else "a URL")
        return value
