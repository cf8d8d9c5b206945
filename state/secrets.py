"""Secrets at rest.

Law 8: AES-256-GCM under keys derived from one secret key, one per purpose (`state.secret_key`), with tenant, object and
field as associated data, so that a sealed value can't be moved to another place. A sealed value names its key, so that
keys can be changed.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from state.secret_key import DerivedKey, SecretError

_NONCE: Final = 12  # bytes
_TAG: Final = 16


class Vault:
    """Seals and opens text for the one purpose of its key."""

    def __init__(self, key: DerivedKey) -> None:
        self._cipher = AESGCM(key.key)
        self._key_id = key.fingerprint[:8]

    def seal(self, tenant: str, object_id: str, field: str, text: str) -> str:
        """`<key id>.<base64 of nonce and ciphertext>`."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, text.encode(), _place(tenant, object_id, field))
        return f"{self._key_id}.{base64.b64encode(nonce + sealed).decode()}"

    def unseal(self, tenant: str, object_id: str, field: str, sealed: str) -> str:
        """The inverse. Raises SecretError."""
        key_id, _, data = sealed.partition(".")
        if key_id != self._key_id:
            raise SecretError(f"sealed with key {key_id}, this node has {self._key_id}")
        try:
            raw = base64.b64decode(data, validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _place(tenant, object_id, field)).decode()
        except (ValueError, InvalidTag) as error:
            raise SecretError("a sealed value is damaged or was made for another place") from error


def sealed_size(sealed: str) -> int:
    """The bytes of the text in a sealed value, as its length tells: it is not opened."""
    data = sealed.partition(".")[2]
    return max(0, len(data) // 4 * 3 - data[-2:].count("=") - _NONCE - _TAG)


def _place(tenant: str, object_id: str, field: str) -> bytes:
    """Unambiguous: each part with its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (s.encode() for s in (tenant, object_id, field)))
