"""The secret key of a store, and the keys that are derived from it: one for each purpose (law 8).

Control has the secret key itself. A worker is given only what is derived for certificates, so that nothing that it
leaks opens the environments of services. Standard library only: the supervisor, which derives it, stays small.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32
ENVIRONMENT: Final = "environment"
CERTIFICATES: Final = "certificates"
ACME: Final = "acme"  # keys of accounts and of orders in progress: control's alone
DOMAIN_TOKENS: Final = "domain tokens"  # what proves domains by TXT is made of it, and so is the same at every look
FINGERPRINT_ID: Final = "secret-key"  # the record of kind META that has the fingerprint of the store's key


class SecretError(Exception):
    """A key is malformed, or a sealed value was made with another key or for another place."""


@dataclass(frozen=True, slots=True, repr=False)
class DerivedKey:
    """The key for one purpose, and the fingerprint of the secret key that it comes from."""

    key: bytes
    fingerprint: str

    def to_json(self) -> dict[str, str]:
        return {"key": base64.b64encode(self.key).decode(), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, data: dict[str, str]) -> DerivedKey:
        return cls(base64.b64decode(data["key"]), data["fingerprint"])


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


def derive(key: bytes, purpose: str) -> DerivedKey:
    """HKDF-SHA-256 (RFC 5869) without salt; one block of output is all that is needed."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), key, "sha256")
    expanded = hmac.digest(extracted, f"wakegate {purpose}".encode() + b"\x01", "sha256")
    return DerivedKey(expanded, fingerprint(key))
