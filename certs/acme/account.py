"""Accounts (RFC 8555 7.1.2, 7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from certs.acme.fields import Fields

_STATUSES: Final = ("valid", "deactivated", "revoked")


@dataclass(frozen=True, slots=True)
class Account:
    """`url` is what signs for it from then on. `status`: valid, deactivated or revoked (RFC 8555 7.1.6)."""

    url: str
    status: str


def request(contact: str | None, binding: dict[str, str] | None) -> dict[str, Any]:
    """The payload of newAccount. `contact`: an address of e-mail. It agrees to the terms of service."""
    asked: dict[str, Any] = {"termsOfServiceAgreed": True}
    if contact is not None:
        asked["contact"] = [f"mailto:{contact}"]
    if binding is not None:
        asked["externalAccountBinding"] = binding
    return asked


def account(url: str, fields: Fields) -> Account:
    """Raises BadAnswer."""
    return Account(url, fields.choice("status", _STATUSES))
