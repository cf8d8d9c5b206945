"""What each name is served with over TLS: the certificates in the worker's copy of the store.

Laws kept here: 1 (a look-up is memory only: the mirror, or before its first snapshot the cache file) and 8 (keys stay
sealed, in memory as in the cache file, until a context is built of one; a certificate counts for the name that it is
stored under and for no other).

Nothing is indexed: records are stored under the names that they are served for, so that a name costs two looks into a
dict, and what is remembered beyond the mirror is bounded.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

from gateway.tls.contexts import Material
from state.certificates import Certificate

KEY_FIELD: Final = "key"  # of the place that a key is sealed for: tenant "", the record's id, this
_KEPT: Final = 1000  # materials remembered, so that a record is decoded once and not per handshake


class Source(Protocol):
    """`gateway.source.RecordSource`."""

    def certificate(self, name: str) -> tuple[Certificate, int] | None:
        """The certificate stored under exactly this name, and its version."""

    def certificate_version(self, name: str) -> int | None: ...


class Opener(Protocol):
    """`state.secrets.Vault` with the key for certificates."""

    def unseal(self, tenant: str, object_id: str, field: str, sealed: str) -> str:
        """Raises SecretError."""


class StoredCertificates:
    """The `gateway.tls.contexts.Certificates` of a worker."""

    def __init__(self, source: Source, vault: Opener) -> None:
        self._source = source
        self._vault = vault
        self._known: dict[str, Material] = {}

    def find(self, name: str) -> Material | None:
        """For a name in lower case: its own certificate, else that of the wildcard above it (RFC 9525 6.3).

        None: no such name.
        """
        return self._stored(name) or self._stored("*." + name.partition(".")[2])

    def forget(self, name: str) -> None:
        """What is stored under this name is another, or gone."""
        self._known.pop(name, None)

    def _stored(self, name: str) -> Material | None:
        version = self._source.certificate_version(name)
        if version is None:
            return None
        known = self._known.get(name)
        if known is not None and known.version == version:
            return known
        found = self._source.certificate(name)
        if found is None:
            return None
        if len(self._known) >= _KEPT:
            self._known.clear()
        certificate, _ = found
        key = partial(self._key, name, certificate.key)
        material = Material(name, version, certificate.chain.encode(), key, certificate.trusted)
        self._known[name] = material
        return material

    def _key(self, name: str, sealed: str) -> bytes:
        return self._vault.unseal("", name, KEY_FIELD, sealed).encode()
