"""Host -> service, kept as small as 100,000 routes ask for: nothing is decoded or built before it is first used.

What has been used is remembered twice: services by id, for ever (they carry counters), and the Host fields that led to
them as they were spelled, bounded, so that a warm request is routed by one look into a dict.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.service import Service
from state.models import Backend, Route

_SPELLINGS: Final = 20_000  # remembered Host fields; beyond it all are forgotten and found again


class Source(Protocol):
    """Where routes and backends come from: the worker's mirror of the store. Called on the loop, must not block."""

    def route(self, host: str) -> Route | None:
        """By host in lower case, without port and final dot."""

    def backend(self, service_id: str) -> Backend | None: ...


class Deleted:
    """A host whose service was deleted: 503 until the tombstone is gone."""

    __slots__ = ("name", "namespace")

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name


class Table:
    """Built with a `Source`; `Edge` does the rest. `hold_*`: the node's defaults for new services."""

    __slots__ = ("_hosts", "_source", "_spellings", "hold_limit", "hold_timeout", "services")

    def __init__(self, source: Source, hold_limit: int = 1000, hold_timeout: float = 120.0) -> None:
        self._source = source
        self.hold_limit = hold_limit
        self.hold_timeout = hold_timeout
        self.services: dict[str, Service] = {}
        self._hosts: dict[bytes, Service] = {}
        self._spellings: dict[bytes, list[bytes]] = {}  # plain host -> the keys of `_hosts` that mean it

    def find(self, host: bytes) -> Service | Deleted | None:
        """`host`: a Host field's value (checked), with or without port. None: no such host."""
        service = self._hosts.get(host)
        return service if service is not None else self._look_up(host)

    def route(self, host: str) -> Route | None:
        """What the source says now."""
        return self._source.route(host)

    def backend(self, service_id: str) -> Backend | None:
        """What the source says now."""
        return self._source.backend(service_id)

    def forget_host(self, host: str) -> None:
        """The route of `host` changed."""
        for spelled in self._spellings.pop(host.encode(), ()):
            del self._hosts[spelled]

    def hosts(self) -> list[str]:
        """Those that have been asked for and found."""
        return [name.decode("ascii") for name in self._spellings]

    def forget_hosts(self) -> None:
        self._hosts.clear()
        self._spellings.clear()

    def _look_up(self, host: bytes) -> Service | Deleted | None:
        name = plain_host(host)
        route = self._source.route(name.decode("ascii", "replace"))
        if route is None:
            return None
        if route.deleted_at is not None:
            return Deleted(route.namespace, route.name)
        service = self.services.get(route.service) or self._build(route)
        if len(self._hosts) >= _SPELLINGS:
            self.forget_hosts()
        self._hosts[host] = service
        self._spellings.setdefault(name, []).append(host)
        return service

    def _build(self, route: Route) -> Service:
        service = Service(route.service, self.hold_limit, self.hold_timeout)
        service.call(route.namespace, route.name)
        backend = self._source.backend(route.service)
        if backend is not None:
            service.apply(backend, self.hold_timeout)
        self.services[route.service] = service
        return service


def plain_host(host: bytes) -> bytes:
    """Without port and final dot, in lower case: the id of a route."""
    if not host.endswith(b"]"):
        name, colon, _ = host.rpartition(b":")
        if colon:
            host = name
    return host.lower().rstrip(b".")
