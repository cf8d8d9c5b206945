"""Challenges (RFC 8555 7.1.5, 8; RFC 8737) and what answers each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme.fields import Fields
from certs.acme.jws import base64url, thumbprint
from certs.acme.problem import Problem
from certs.acme.problem import of as problem_of

HTTP_01: Final = "http-01"
TLS_ALPN_01: Final = "tls-alpn-01"
DNS_01: Final = "dns-01"

_STATUSES: Final = ("pending", "processing", "valid", "invalid")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """`type`: also one that we don't know. `token`: base64url, "" if this type has none.

    `status`: pending, processing, valid or invalid (RFC 8555 7.1.6). `retry_after`: seconds, of the answer that had it.
    """

    type: str
    url: str
    token: str
    status: str
    error: Problem | None
    retry_after: float | None = None


def challenge(fields: Fields, retry_after: float | None = None) -> Challenge:
    """Raises BadAnswer."""
    kind, error = fields.text("type"), fields.optional_member("error")
    return Challenge(
        kind,
        fields.url("url"),
        _token(fields, kind),
        fields.choice("status", _STATUSES),
        None if error is None else problem_of(error),
        retry_after,
    )


def _token(fields: Fields, kind: str) -> str:
    """It becomes part of a path and of what we serve there: nothing but base64url (RFC 8555 8.3)."""
    value = fields.values.get("token")
    if isinstance(value, str) and _TOKEN.fullmatch(value):
        return value
    if value is None and kind not in (HTTP_01, TLS_ALPN_01, DNS_01):
        return ""
    raise fields.bad("token", "base64url")


def key_authorization(token: str, key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """RFC 8555 8.1; `key` is the account's."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return f"{token}.{thumbprint(public)}"


def http01_path(token: str) -> str:
    """RFC 8555 8.3: where http-01 wants the key authorization, on port 80."""
    return f"/.well-known/acme-challenge/{token}"


def tls_alpn01_digest(key_authorization: str) -> bytes:
    """RFC 8737 3: 32 bytes, the content of the acmeIdentifier extension (inside of its OCTET STRING)."""
    return hashlib.sha256(key_authorization.encode()).digest()


def dns01_value(key_authorization: str) -> str:
    """RFC 8555 8.4: the TXT record of `_acme-challenge.<name>`."""
    return base64url(hashlib.sha256(key_authorization.encode()).digest())
