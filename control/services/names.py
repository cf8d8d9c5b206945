"""Names of namespaces, services and keys, and the labels made of them.

Laws kept here: a label belongs to its first owner for ever and never changes (SPEC section 2, Endpoint). The candidates
for a name are a fixed sequence, and owners are never removed, so the first one that is free or ours is always the same.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Final

RESERVED_NAMESPACES: Final = frozenset(
    {
        "admin",
        "api",
        "auth",
        "dashboard",
        "docs",
        "healthz",
        "hooks",
        "metrics",
        "openapi.json",
        "readyz",
        "static",
        "ui",
    }
)
EVERY_NAMESPACE: Final = "*"

_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])?")
NAMESPACE_PATTERN: Final = f"^{_NAMESPACE.pattern}$"  # as JSON Schema writes it
_SERVICE: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SERVICE_PATTERN: Final = f"^{_SERVICE.pattern}$"
KEY_PATTERN: Final = f"^{_KEY.pattern}$"
_LABEL_LENGTH: Final = 63  # RFC 1035 section 2.3.4


def namespace_error(namespace: str) -> str | None:
    """Why this can't be a namespace, or None."""
    if not _NAMESPACE.fullmatch(namespace):
        return "must be 1-39 of a-z, 0-9 and -, with a letter or digit at both ends"
    if namespace in RESERVED_NAMESPACES:
        return "is reserved"
    return None


def service_name_error(name: str) -> str | None:
    """Why this can't be a service's name, or None."""
    return None if _SERVICE.fullmatch(name) else "must be 1-63 of A-Z, a-z, 0-9, - and _"


def key_name_error(name: str) -> str | None:
    """Why this can't be a key's name, or None. It never holds the `$` that parts it from the secret."""
    return None if _KEY.fullmatch(name) else "must be 1-63 of A-Z, a-z, 0-9, ., _ and -, first a letter or digit"


def fold(name: str) -> str:
    """Names that are equal after folding are the same name."""
    return name.lower().replace("_", "-")


def name_id(namespace: str, name: str) -> str:
    """The id of the `name` object that reserves a service's name."""
    return f"{namespace}/{fold(name)}"


def labels(namespace: str, name: str) -> Iterator[str]:
    """The candidates for a service's label, in order of preference; it gets the first that nobody else owns."""
    owner = name_id(namespace, name)
    plain = f"{fold(name)}-{namespace}"
    stem = plain.lstrip("-")  # RFC 1123 section 2.1: a label starts with a letter or digit
    if stem == plain and len(plain) <= _LABEL_LENGTH and plain[2:4] != "--":
        yield plain
    digest = base64.b32encode(hashlib.sha256(owner.encode()).digest()).decode().lower().rstrip("=")
    for length in range(6, 31, 6):
        yield f"{stem[: _LABEL_LENGTH - length - 1]}-{digest[:length]}"
