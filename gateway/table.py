"""Host -> service, kept as small as 100,000 routes ask for: nothing is decoded or built before it is first used.

What has been used is remembered, bounded: hosts, the first few ways in which their Host fields were spelled, so that a
warm request is routed by one look into a dict, and services by id (they carry counters). A change costs what it
changes, however many hosts a client has thought of. A service that was deleted stays until nothing of it is held or in
flight and its last counters have had time to be told.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from gateway.errors import Failure, deleted, stale, unsure
from gateway.service import Service
from state.models import Backend, Route

_HOSTS: Final = 20_000  # remembered; beyond it all are forgotten and found again
_SPELLINGS: Final = 8  # of each; others cost a little more
_LAST_WORDS: Final = 60.0  # seconds; counters are reported each second, and for longer if the store is gone


class Source(Protocol):
    """Where routes and backends come from: the worker's mirror of the store. Called on the loop, must not block."""

    def route(self, host: str) -> Route | None:
        """By host in lower case, without port and final dot."""

    def backend(self, service_id: str) -> Backend | None: ...


class Special:
    """A host whose requests don't simply go to a service."""

    __slots__ = ()


class Unserved(Special):
    """A host that gets one answer whatever is asked: its service was deleted, or nothing is known for sure any more."""

    __slots__ = ("failure",)

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Moved(Special):
    """A domain that only leads to another one (`Route.redirect`). `target`: that one."""

    __slots__ = ("target",)

    def __init__(self, target: bytes) -> None:
        self.target = target


class _Known:
    """A host that has been found."""

    __slots__ = ("service", "spellings")

    def __init__(self, service: Service) -> None:
        self.service = service
        self.spellings: list[bytes] = []


class Table:
    """Built with a `Source`; `Edge` does the rest. `hold_*`: the node's defaults for new services."""

    __slots__ = (
        "_hosts",
        "_hosts_of",
        "_leaving",
        "_reserved",
        "_source",
        "_spelled",
        "_stale",
        "exact",
        "hold_limit",
        "hold_timeout",
        "partial",
        "services",
    )

    def __init__(self, source: Source, hold_limit: int = 1000, hold_timeout: float = 120.0) -> None:
        self._source = source
        self.hold_limit = hold_limit
        self.hold_timeout = hold_timeout
        self.exact = False  # whether new services have their slots from the store
        self.services: dict[str, Service] = {}
        self._spelled: dict[bytes, Service] = {}  # by the Host field as it came
        self._hosts: dict[bytes, _Known] = {}
        self._hosts_of: dict[str, dict[bytes, None]] = {}  # by service id
        self._reserved: dict[bytes, Special] = {}
        self.partial = False  # there may be routes that the source does not have
        self._stale = False
        self._leaving: dict[str, float] = {}  # deleted services, and when they were last seen at work

    def reserve(self, host: str, special: Special) -> None:
        """`host` is the node's own, whatever the source says of it."""
        self._reserved[host.encode()] = special

    def reserved(self, host: str) -> bool:
        return host.encode() in self._reserved

    def find(self, host: bytes) -> Service | Special | None:
        """`host`: a Host field's value (checked), with or without port. None: no such host."""
        service = self._spelled.get(host)
        return service if service is not None else self._look_up(host)

    def route(self, host: str) -> Route | None:
        """What the source says now."""
        return self._source.route(host)

    def backend(self, service_id: str) -> Backend | None:
        """What the source says now."""
        return self._source.backend(service_id)

    def hosts(self) -> list[tuple[str, Service]]:
        """Those that have been asked for and found, and where they led."""
        return [(name.decode("ascii"), known.service) for name, known in self._hosts.items()]

    def led_to(self, host: str) -> Service | None:
        """The service of a host that has been asked for and found."""
        known = self._hosts.get(host.encode())
        return None if known is None else known.service

    def forget_host(self, host: str) -> None:
        """The route of `host` changed."""
        self._forget(host.encode())

    def forget_hosts(self) -> None:
        self._spelled.clear()
        self._hosts.clear()
        self._hosts_of.clear()

    def mark(self, is_stale: bool) -> None:
        """From now on all hosts get 503, or what the source says. All are forgotten: a warm request need not ask."""
        self._stale = is_stale
        self.forget_hosts()

    def leave(self, service_id: str, now: float) -> None:
        """The service was deleted; `tend` forgets it in time. Seconds of `time.monotonic`."""
        self._leaving[service_id] = now

    def tend(self, now: float) -> None:
        """Forget deleted services whose time is over."""
        for service_id, since in list(self._leaving.items()):
            service = self.services.get(service_id)
            if service is None or not service.deleted:
                del self._leaving[service_id]
            elif service.in_flight or len(service.room):
                self._leaving[service_id] = now
            elif now - since >= _LAST_WORDS:
                del self._leaving[service_id]
                del self.services[service_id]
                for name in list(self._hosts_of.get(service_id, ())):
                    self._forget(name)

    def _forget(self, name: bytes) -> None:
        known = self._hosts.pop(name, None)
        if known is None:
            return
        for spelled in known.spellings:
            del self._spelled[spelled]
        hosts = self._hosts_of[known.service.id]
        del hosts[name]
        if not hosts:
            del self._hosts_of[known.service.id]

    def _look_up(self, host: bytes) -> Service | Special | None:
        name = plain_host(host)
        special = self._reserved.get(name)
        if special is not None:
            return special
        if self._stale:
            return Unserved(stale())
        known = self._hosts.get(name)
        if known is None:
            route = self._source.route(name.decode("ascii", "replace"))
            if route is None:
                return Unserved(unsure()) if self.partial else None
            if route.deleted_at is not None:
                return Unserved(deleted())
            if route.redirect is not None:
                return Moved(route.redirect.encode())
            known = self._remember(name, self.services.get(route.service) or self._build(route))
        if len(known.spellings) < _SPELLINGS:
            known.spellings.append(host)
            self._spelled[host] = known.service
        return known.service

    def _remember(self, name: bytes, service: Service) -> _Known:
        if len(self._hosts) >= _HOSTS:
            self.forget_hosts()
        known = self._hosts[name] = _Known(service)
        self._hosts_of.setdefault(service.id, {})[name] = None
        return known

    def _build(self, route: Route) -> Service:
        service = Service(route.service, self.hold_limit, self.hold_timeout, self.exact)
        service.call(route.namespace, route.name)
        backend = self._source.backend(route.service)
        if backend is not None:
            service.apply(backend, self.hold_timeout, time.monotonic(), news=False)
        self.services[route.service] = service
        return service


def plain_host(host: bytes) -> bytes:
    """Without port and final dot, in lower case: the id of a route."""
    if not host.endswith(b"]"):
        name, colon, _ = host.rpartition(b":")
        if colon:
            host = name
    return host.lower().removesuffix(b".")
