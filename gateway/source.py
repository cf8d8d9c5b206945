"""Where the data plane looks up routes, backends and certificates: the mirror of the store, and before its first
snapshot the cache, which has no challenges: nobody orders a certificate while the store is gone.

Records stay undecoded until they are asked for. A record that can't be decoded (written by a newer version, or damaged)
counts as absent and is told; it never stops a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gateway.cache import Contents
from state.certificates import Certificate, Challenge
from state.codec import DecodeError, decode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Backend, Route
from state.store import Record

M = TypeVar("M")


class RecordSource:
    """The `gateway.table.Source` of a worker. `say` gets a line for the operator per unreadable record and version."""

    def __init__(self, mirror: Mirror, say: Callable[[str], None]) -> None:
        self._mirror = mirror
        self._say = say
        self._cached: Contents | None = None
        self._unreadable: dict[tuple[Kind, str], int] = {}

    def start_from(self, cached: Contents) -> None:
        """Answer from these records until `follow` is called."""
        self._cached = cached

    def follow(self) -> None:
        """Answer from the mirror from now on."""
        self._cached = None

    @property
    def following(self) -> bool:
        return self._cached is None

    def route(self, host: str) -> Route | None:
        return self._find(Kind.ROUTE, host, Route)

    def backend(self, service_id: str) -> Backend | None:
        return self._find(Kind.BACKEND, service_id, Backend)

    def certificate(self, name: str) -> tuple[Certificate, int] | None:
        """What is stored under this name, and its version."""
        record = self._record(Kind.CERTIFICATE, name)
        found = self._find(Kind.CERTIFICATE, name, Certificate)
        return None if record is None or found is None else (found, record.version)

    def certificate_version(self, name: str) -> int | None:
        """The same without decoding it."""
        record = self._record(Kind.CERTIFICATE, name)
        return None if record is None else record.version

    def challenge(self, domain: str) -> Challenge | None:
        return self._find(Kind.CHALLENGE, domain, Challenge)

    def _record(self, kind: Kind, object_id: str) -> Record | None:
        if self._cached is None:
            return self._mirror.get(kind, object_id)
        return self._cached.get(kind, {}).get(object_id)

    def _find(self, kind: Kind, object_id: str, model: type[M]) -> M | None:
        record = self._record(kind, object_id)
        if record is None:
            return None
        try:
            return decode(model, record.value)
        except DecodeError as error:
            if self._unreadable.get((kind, object_id)) != record.version and len(self._unreadable) < 1000:
                self._unreadable[kind, object_id] = record.version
                self._say(f"{kind} {object_id} can't be read and counts as absent: {error}")
            return None
