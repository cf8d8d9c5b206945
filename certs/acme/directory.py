"""The directory of an ACME server (RFC 8555 7.1.1): where everything else is, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from certs.acme.fields import Fields, printable

_PROFILES: Final = 50


@dataclass(frozen=True, slots=True)
class Meta:
    """RFC 8555 9.7.6. `profiles`: names and what they are for (draft-aaron-acme-profiles), empty if it has none."""

    terms_of_service: str | None = None
    website: str | None = None
    caa_identities: tuple[str, ...] = ()
    external_account_required: bool = False
    profiles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Directory:
    """URLs; None for what the server does not offer."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_certificate: str | None
    renewal_info: str | None
    meta: Meta


def directory(fields: Fields) -> Directory:
    """Raises BadAnswer."""
    meta = fields.optional_member("meta")
    return Directory(
        fields.url("newNonce"),
        fields.url("newAccount"),
        fields.url("newOrder"),
        fields.optional_url("revokeCert"),
        fields.optional_url("renewalInfo"),
        Meta() if meta is None else _meta(meta),
    )


def _meta(fields: Fields) -> Meta:
    profiles = fields.optional_member("profiles")
    return Meta(
        fields.optional_text("termsOfService"),
        fields.optional_text("website"),
        tuple(name.lower() for name in fields.texts("caaIdentities")),
        fields.flag("externalAccountRequired"),
        {} if profiles is None else _profiles(profiles),
    )


def _profiles(fields: Fields) -> dict[str, str]:
    names = list(fields.values)[:_PROFILES]
    return {printable(name): fields.text(name) for name in names}
