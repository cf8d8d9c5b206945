"""Problem documents (RFC 8555 6.7, RFC 9457): what an ACME server says is wrong, as the error that is raised.

They are read leniently, as the only objects here: a server that is broken must not hide why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from certs.acme.errors import AcmeError, BadAnswer
from certs.acme.fields import Fields, parse, printable

BLANK: Final = "about:blank"  # RFC 9457 4.2.1: nothing more is known than the status
_PREFIX: Final = "urn:ietf:params:acme:error:"
_SUBPROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Subproblem:
    """What is wrong with one identifier (RFC 8555 6.7.1); `identifier` is a DNS name, if it said which."""

    type: str
    detail: str
    identifier: str | None


class Problem(AcmeError):
    """The server refused.

    `type`: of the ACME registry without its prefix ("rateLimited", "badNonce", …), another's in full, `BLANK` if there
    was none. `status`: of HTTP, 0 if this is the error of an order or a challenge that has none. `instance`: where a
    person can read on (`userActionRequired`).
    """

    def __init__(
        self,
        type: str,  # noqa: A002  the name of RFC 9457
        detail: str,
        status: int = 0,
        subproblems: tuple[Subproblem, ...] = (),
        instance: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail if detail and type == BLANK else f"{type}: {detail}" if detail else type, retry_after)
        self.type = type
        self.detail = detail
        self.status = status
        self.subproblems = subproblems
        self.instance = instance


def problem(body: bytes, status: int, retry_after: float | None, *, secure: bool) -> Problem:
    """Of an answer with this status: what its body says, or no more than the status if it is no problem document."""
    try:
        fields = Fields.of(parse(body), "a problem", secure=secure)
    except (ValueError, BadAnswer):
        return Problem(BLANK, f"HTTP status {status}", status, retry_after=retry_after)
    return of(fields, status, retry_after)


def of(fields: Fields, status: int = 0, retry_after: float | None = None) -> Problem:
    """The `error` of an order or a challenge, or the body of an answer with this status."""
    told = fields.values.get("status")
    if not status and isinstance(told, int) and 100 <= told < 600:
        status = told
    found = fields.values.get("subproblems")
    subproblems = found[:_SUBPROBLEMS] if isinstance(found, list) else []
    return Problem(
        _type(fields.values.get("type")),
        _text(fields.values.get("detail")) or _text(fields.values.get("title")),
        status,
        tuple(_subproblem(one) for one in subproblems if isinstance(one, dict)),
        _text(fields.values.get("instance")) or None,
        retry_after,
    )


def _subproblem(values: dict[str, object]) -> Subproblem:
    identifier = values.get("identifier")
    name = _text(identifier.get("value")) if isinstance(identifier, dict) else ""
    return Subproblem(_type(values.get("type")), _text(values.get("detail")), name or None)


def _type(value: object) -> str:
    return _text(value).removeprefix(_PREFIX) or BLANK


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
