"""Reading requests: query parameters and JSON bodies. Unknown and repeated parameters are named, all at once (400)."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import web

from control.contract import times
from control.contract.problem import FieldError, Problem, bad_request

T = TypeVar("T")

BODY_LIMIT: Final = 1 << 20  # bytes
MEMBERS: Final = 500  # of an object in a body; the largest that is taken, an environment, has 256
_VALUES: Final = 10_000  # objects and integers in a body
_DIGITS: Final = 30  # of an integer that are looked at
_BODY_TIMEOUT: Final = 30.0  # seconds for the whole body
BROKEN: Final = (web.RequestPayloadError, OSError)  # a body that ends wrongly, or whose sender has left
_WHOLE: Final = re.compile(r"[0-9]+")
_LARGEST: Final = 10**18 - 1  # of what has no bound of its own: fits where 64 bits are the most


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a parameter's text, or raises ValueError; `schema` says in JSON Schema what it takes."""

    read: Callable[[str], Any]
    schema: Mapping[str, Any]

    def __call__(self, text: str) -> Any:
        return self.read(text)


def whole(low: int, high: int | None = None) -> Reader:
    """Integers within bounds. Without an upper one, those of more than 18 digits count as the largest with 18."""
    bounds = f"from {low} to {high}" if high is not None else f"of {low} or more"

    def read(text: str) -> int:
        number = _integer(text.lstrip("0") or "0") if _WHOLE.fullmatch(text) else None
        if number is None or number < low or (high is not None and number > high):
            raise ValueError(f"must be an integer {bounds}")
        return min(number, _LARGEST)

    return Reader(read, {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high}))


def one_of(*choices: str) -> Reader:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return Reader(read, {"type": "string", "enum": list(choices)})


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError("must be true or false")
    return text.lower() in {"true", "1"}


flag: Final = Reader(_flag, {"type": "boolean"})
text: Final = Reader(str, {"type": "string"})
timestamp: Final = Reader(times.parse, {"type": "string", "format": "date-time"})


def parameters(
    request: web.Request, readers: Mapping[str, Reader], same: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """The query's values by name. A reader raises ValueError; aliases are readers too. Raises Problem 400.

    `same`: names that mean the same, of which one may be given.
    """
    values, errors = {}, []
    for name in dict.fromkeys(request.query):
        texts = request.query.getall(name)
        if name not in readers:
            errors.append(FieldError(name, "unknown parameter"))
        elif len(texts) > 1:
            errors.append(FieldError(name, "given more than once"))
        else:
            try:
                values[name] = readers[name](texts[0])
            except ValueError as error:
                errors.append(FieldError(name, str(error)))
    for names in same:
        first, *others = [name for name in names if name in values] or [""]
        errors += [FieldError(name, f"the same as {first}: give one") for name in others]
    if errors:
        raise bad_request(errors)
    return values


def either(values: Mapping[str, T], names: tuple[str, ...], default: T) -> T:
    """The value of a parameter that has aliases. Raises Problem 400 if several are given."""
    given = [name for name in names if name in values]
    if len(given) > 1:
        raise bad_request([FieldError(name, f"the same as {given[0]}: give one") for name in given[1:]])
    return values[given[0]] if given else default


async def body(request: web.Request) -> bytes:
    """The whole body; it can be read again. Raises Problem 400, 408, HTTPRequestEntityTooLarge."""
    if request.content_length is not None and request.content_length > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise Problem(408, "The body did not come in time.", headers={"Connection": "close"}) from None
    except BROKEN as error:
        raise Problem(400, "The body could not be read.") from error


async def json_body(request: web.Request) -> Any:
    """The body as JSON. Raises Problem 400, 408, 415, HTTPRequestEntityTooLarge."""
    if request.content_type != "application/json" or request.charset not in (None, "utf-8", "UTF-8"):
        raise Problem(415, "The body must be JSON: Content-Type: application/json, in UTF-8.")
    raw = await body(request)
    bounds = _Bounds()
    try:
        return json.loads(
            raw.decode(), object_pairs_hook=bounds.members, parse_constant=_refuse, parse_int=bounds.integer
        )
    except _TooMuch as error:
        raise Problem(400, f"The body is more than this API reads: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON: {_reason(error)}") from None


class _TooMuch(ValueError):
    """JSON, but more of it than any call needs."""


class _Bounds:
    """What a body may hold beyond its bytes: reading it, and naming all that is wrong with it, must stay short.

    80,000 unknown names in one body stopped the loop for 4 s.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _VALUES

    def members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """RFC 8259 section 4 leaves the meaning of a name given twice open; guessing is not safe.

        A name with half of a surrogate pair is spelled out, so that it can be refused by that name.
        """
        self._count()
        if len(pairs) > MEMBERS:
            raise _TooMuch(f"one of its objects has more than {MEMBERS} names")
        members = {name.encode("utf-8", "backslashreplace").decode(): value for name, value in pairs}
        if len(members) < len(pairs):
            counted = Counter(name for name, _ in pairs)
            twice = next((name for name in counted if counted[name] > 1), "a name that is not Unicode")
            raise ValueError(f"{twice!r} is given twice")
        return members

    def integer(self, text: str) -> int:
        """One with more digits than any bound of the API stays beyond every bound, whatever its length."""
        self._count()
        return _integer(text)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch(f"it holds more than {_VALUES} objects and integers")


def _integer(text: str) -> int:
    return int(text[:_DIGITS])


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _reason(error: Exception) -> str:
    """In words that have nothing to do with the language this is written in."""
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return f"byte {error.start} is not UTF-8"
        case json.JSONDecodeError():
            return f"wrong at line {error.lineno}, column {error.colno}"
        case _:
            return str(error)
