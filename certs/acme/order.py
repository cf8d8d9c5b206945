"""Orders (RFC 8555 7.1.3, 7.4), with `replaces` (RFC 9773 5) and profiles (draft-aaron-acme-profiles)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from certs.acme.errors import BadAnswer
from certs.acme.fields import Fields
from certs.acme.problem import Problem
from certs.acme.problem import of as problem_of

NAMES: Final = 100  # of one order
_STATUSES: Final = ("pending", "ready", "processing", "valid", "invalid")


@dataclass(frozen=True, slots=True)
class Order:
    """`status`: pending, ready, processing, valid or invalid (RFC 8555 7.1.6); valid ones have a `certificate`.

    `names`: in lower case. `authorizations`, `finalize`, `certificate`: URLs. The sequence of names and authorizations
    may be another in each answer. `expires`: microseconds since the epoch. `retry_after`: seconds until it is worth
    asking again.
    """

    url: str
    status: str
    names: tuple[str, ...]
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None
    expires: int | None
    error: Problem | None
    retry_after: float | None


def request(names: Sequence[str], replaces: str | None, profile: str | None) -> dict[str, Any]:
    """The payload of newOrder. Raises ValueError for no or too many names."""
    if not 1 <= len(names) <= NAMES:
        raise ValueError(f"an order has 1 to {NAMES} names")
    asked: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
    if replaces is not None:
        asked["replaces"] = replaces
    if profile is not None:
        asked["profile"] = profile
    return asked


def order(url: str, fields: Fields, retry_after: float | None) -> Order:
    """Raises BadAnswer."""
    status = fields.choice("status", _STATUSES)
    certificate = fields.optional_url("certificate")
    if status == "valid" and certificate is None:
        raise BadAnswer("a valid order has no certificate")
    error = fields.optional_member("error")
    return Order(
        url,
        status,
        tuple(_name(one) for one in fields.members("identifiers")),
        fields.urls("authorizations"),
        fields.url("finalize"),
        certificate,
        fields.optional_moment("expires"),
        None if error is None else problem_of(error),
        retry_after,
    )


def of_these(found: Order, names: Sequence[str]) -> Order:
    """It, if it is for these names. Raises BadAnswer."""
    if set(found.names) != {name.lower() for name in names}:
        raise BadAnswer("the order is for other names than were asked for")
    return found


def _name(fields: Fields) -> str:
    fields.choice("type", ("dns",))
    return fields.text("value").lower()
