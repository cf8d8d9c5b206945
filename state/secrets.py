"""Secrets at rest.

Law 8: AES-256-GCM under keys derived by HKDF-SHA-256 (RFC 5869) from one secret key, one derived key per purpose, with
tenant, object and field as associated data, so that a sealed value can't be moved to another place. A sealed value
names its key, so that keys can be changed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
ENVIRONMENT: Final = "environment"
CERTIFICATES: Final = "certificates"


class SecretError(Exception):
    """A key is malformed, or a sealed value was made with another key or for another place."""


def read_secret_key(path: Path, given: str | None = None) -> bytes:
    """The node's secret key: `given` (WAKEGATE_SECRET_KEY, base64) or the file's content. Raises SecretError."""
    where = "WAKEGATE_SECRET_KEY" if given else str(path)
    try:
        key = base64.b64decode((given or path.read_text()).strip(), validate=True)
    except (OSError, ValueError) as error:
        raise SecretError(f"{where}: {error}") from error
    if len(key) != KEY_BYTES:
        raise SecretError(f"{where}: must be {KEY_BYTES} bytes in base64, found {len(key)}")
    return key


def make_secret_key(path: Path) -> None:
    """Write a new random key, readable by its owner alone; one that exists stays. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def fingerprint(key: bytes) -> str:
    """What the store keeps of the key, to refuse a node with another one: 16 hex digits."""
    return hashlib.sha256(b"wakegate fingerprint" + key).hexdigest()[:16]


class Vault:
    """Seals and opens text for one purpose (ENVIRONMENT, CERTIFICATES)."""

    def __init__(self, key: bytes, purpose: str) -> None:
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=f"wakegate {purpose}".encode()).derive(key)
        self._cipher = AESGCM(derived)
        self._key_id = fingerprint(key)[:8]

    def seal(self, tenant: str, object_id: str, field: str, text: str) -> str:
        """`<key id>.<base64 of nonce and ciphertext>`."""
        nonce = secrets.token_bytes(12)
        sealed = self._cipher.encrypt(nonce, text.encode(), _place(tenant, object_id, field))
        return f"{self._key_id}.{base64.b64encode(nonce + sealed).decode()}"

    def unseal(self, tenant: str, object_id: str, field: str, sealed: str) -> str:
        """The inverse. Raises SecretError."""
        key_id, _, data = sealed.partition(".")
        if key_id != self._key_id:
            raise SecretError(f"sealed with key {key_id}, this node has {self._key_id}")
        try:
            raw = base64.b64decode(data, validate=True)
            return self._cipher.decrypt(raw[:12], raw[12:], _place(tenant, object_id, field)).decode()
        except (ValueError, InvalidTag) as error:
            raise SecretError("a sealed value is damaged or was made for another place") from error


def _place(tenant: str, object_id: str, field: str) -> bytes:
    """Unambiguous: each part with its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (s.encode() for s in (tenant, object_id, field)))
