"""What proves by TXT that a namespace owns a domain (SPEC section 4). Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

_LENGTH: Final = 20  # bytes of the MAC that the token shows


def token(key: bytes, namespace: str, domain: str) -> str:
    """The value of the TXT record: of this namespace and this domain alone, and the same at every look.

    `key`: that of `state.secret_key.DOMAIN_TOKENS`; `domain`: in A-labels, lower case. 32 characters of lower-case
    base32.
    """
    mac = hmac.digest(key, f"{namespace}\0{domain}".encode(), hashlib.sha256)
    return base64.b32encode(mac[:_LENGTH]).decode().lower()


def txt_name(domain: str) -> str:
    """Where the record has to be."""
    return f"_wakegate.{domain}"
