"""Authorizations (RFC 8555 7.1.4, 7.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from certs.acme.challenge import Challenge, challenge
from certs.acme.fields import Fields

_STATUSES: Final = ("pending", "valid", "invalid", "deactivated", "expired", "revoked")


@dataclass(frozen=True, slots=True)
class Authorization:
    """`status`: pending, valid, invalid, deactivated, expired or revoked (RFC 8555 7.1.6).

    `identifier`: a DNS name in lower case, without the `*.` if it is for a `wildcard`. `expires`: microseconds since
    the epoch. `retry_after`: seconds until it is worth asking again.
    """

    url: str
    identifier: str
    wildcard: bool
    status: str
    challenges: tuple[Challenge, ...]
    expires: int | None
    retry_after: float | None

    def challenge(self, kind: str) -> Challenge | None:
        """The one of this type, if it is offered."""
        return next((one for one in self.challenges if one.type == kind), None)


def authorization(url: str, fields: Fields, retry_after: float | None) -> Authorization:
    """Raises BadAnswer."""
    identifier = fields.member("identifier")
    identifier.choice("type", ("dns",))
    return Authorization(
        url,
        identifier.text("value").lower().removeprefix("*."),
        fields.flag("wildcard"),
        fields.choice("status", _STATUSES),
        tuple(challenge(one) for one in fields.members("challenges")),
        fields.optional_moment("expires"),
        retry_after,
    )
