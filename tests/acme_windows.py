"""Renewal information as `tests.acme_proxy` offers it (RFC 9773), for certificates that it has seen pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from certs.acme.chain import describe


@dataclass(frozen=True, slots=True)
class Window:
    """Times of RFC 3339."""

    start: str
    end: str


@dataclass(slots=True)
class Renewal:
    """What is told. `share`: the window of certificates that have none in `windows` (by identifier), as parts of their
    lifetimes. `replaced`: identifiers of certificates whose replacement was finalized; a second order is refused.
    """

    offered: bool = True
    share: tuple[float, float] = (0.6, 0.7)
    retry_after: str | None = "21600"
    windows: dict[str, Window] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    _lifetimes: dict[str, tuple[int, int]] = field(default_factory=dict)  # µs, by identifier
    _replacing: dict[str, str] = field(default_factory=dict)  # by path of the order's finalize

    def ordered(self, finalize: str, replaces: str | None) -> None:
        if replaces is not None:
            self._replacing[finalize] = replaces

    def finalized(self, path: str) -> None:
        if path in self._replacing:
            self.replaced.add(self._replacing.pop(path))

    def issued(self, pem: bytes) -> None:
        leaf = describe(x509.load_pem_x509_certificates(pem)[0])
        if leaf.identifier is not None:
            self._lifetimes[leaf.identifier] = leaf.not_before, leaf.not_after

    def window(self, identifier: str) -> Window | None:
        """None for a certificate that it does not know."""
        if identifier in self.windows or identifier not in self._lifetimes:
            return self.windows.get(identifier)
        start, end = self._lifetimes[identifier]
        first, last = (start + int((end - start) * part) for part in self.share)
        return Window(*(datetime.fromtimestamp(at / 1e6, UTC).isoformat() for at in (first, last)))
