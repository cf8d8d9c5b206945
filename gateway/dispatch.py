"""Where requests go: route, pick, connection, hold, retry; and the books of it, kept when they are over.

Laws kept here: a pick counts as in flight until the exchange is over, whatever becomes of it; requests of a service are
sent in the order in which they came to be held; a request is sent again only if nothing was consumed that can't be
replayed; everything held is bounded, in number and in bytes.

A request that finds no replica it could be sent to is held, whether the service sleeps, starts, is full, or its only
replica has just crashed: then control replaces the replica, and a connect that was refused has cost nothing. While a
replica refuses, one held request at a time tries it again, with a backoff of 0.25 s doubling to 4 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from typing import Protocol

from gateway import pool
from gateway.access_log import AccessLog
from gateway.answers import proxy_status
from gateway.balance import free, pick
from gateway.connector import Connector
from gateway.errors import Failure
from gateway.exchange import Exchange, Limits
from gateway.histogram import count
from gateway.replica import Replica
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.sides import Downstream, Keeper, Upstream
from gateway.states import CUT, HEAD, HELD, HOLD, RETRY, step
from gateway.sweep import Sweep
from gateway.table import Deleted, Table, plain_host

_WAKE_EVERY = 0.1  # seconds, per service


class Demand(Protocol):
    """What the data plane tells the world outside. Both are called on the loop and must not block or raise."""

    def wake(self, service_id: str) -> None:
        """A request is held and no ready replica is known; at most once per service per 100 ms."""

    def changed(self, service_id: str) -> None:
        """The in-flight count of a replica that is draining or gone fell to zero: report now."""


class Dispatcher(Keeper):
    """One per worker; every connection holds a reference to it."""

    __slots__ = (
        "_connector",
        "_demand",
        "_log",
        "_nobody",
        "_table",
        "accepted",
        "connections",
        "draining",
        "empty",
        "held_bytes",
        "holding",
        "limits",
        "paused",
        "settings",
        "sweep",
        "via",
        "via_line",
        "via_old_line",
        "via_response",
    )

    def __init__(
        self, settings: GatewaySettings, table: Table, access_log: AccessLog, demand: Demand, sweep: Sweep
    ) -> None:
        self.settings = settings
        self.sweep = sweep
        self._table = table
        self._log = access_log
        self._demand = demand
        self._connector = Connector(self, settings.connect_timeout, settings.connect_spacing)
        self._nobody = Service("", 0, 0.0)  # the books of requests that reached no service
        self.limits = Limits(
            settings.response_timeout,
            settings.body_timeout,
            settings.tunnel_timeout,
            -1 if settings.max_body is None else settings.max_body,
        )
        self.via = settings.via.encode("ascii")
        self.via_line = b"\r\nVia: 1.1 " + self.via + b"\r\nX-Request-Id: "
        self.via_response = self.via_line[2:]  # there every piece ends its line
        self.via_old_line = b"\r\nVia: 1.0 " + self.via + b"\r\nX-Request-Id: "
        self.connections: dict[Downstream, None] = {}
        self.paused: dict[Downstream, None] = {}  # not being read: the kernel alone knows whether the client is there
        self.empty: asyncio.Event | None = None  # set when the last connection is closed
        self.holding: dict[str, Service] = {}  # services with somebody in the room
        self.held_bytes = 0
        self.accepted = 0
        self.draining = False

    # Connections

    def opened(self, down: Downstream) -> bool:
        """False: there are too many."""
        self.accepted += 1
        self.connections[down] = None
        return len(self.connections) <= self.settings.connection_limit

    def closed(self, down: Downstream) -> None:
        self.connections.pop(down, None)
        if self.empty is not None and not self.connections:
            self.empty.set()
        self.paused.pop(down, None)
        self.sweep.disarm(down)

    def trusts(self, address: str) -> bool:
        networks = self.settings.trusted_proxies
        if not networks:
            return False
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in networks)

    # Requests

    def begin(self, exchange: Exchange) -> None:
        """A head has been read. Send it, hold it or answer it."""
        request = exchange.request
        random_hex = b"%048x" % random.getrandbits(192)
        if not request.request_id:
            request.request_id = random_hex[:32]
        if not request.trace:
            request.trace = b"00-" + random_hex[:32] + b"-" + random_hex[32:] + b"-01"
        service = self._table.find(request.host) if request.host else None
        if service is None:
            exchange.answer(Failure(404, "destination_not_found", "no service has this host"))
        elif isinstance(service, Deleted):
            exchange.answer(_deleted())
        else:
            exchange.service = service
            if request.max_forwards == 0:
                exchange.turn_back()
            elif self.limits.max_body >= 0 and request.length > self.limits.max_body:
                exchange.answer(Failure(413, "http_request_error", "request body too large"))
            else:
                self._send(exchange, service)

    def _send(self, exchange: Exchange, service: Service) -> None:
        now = exchange.began
        if len(service.room) == 0:
            ready = service.ready
            replica = pick(ready, service.concurrency, now, random.getrandbits(32) if len(ready) > 1 else 0)
            if replica is not None:
                self._go(exchange, service, replica, False)
                return
        self._hold(exchange, service, now)

    def _go(self, exchange: Exchange, service: Service, replica: Replica, fresh: bool) -> None:
        """The pick is made: from here on it counts as in flight. `fresh`: not over an idle connection."""
        replica.in_flight += 1
        service.in_flight += 1
        exchange.in_flight = True
        exchange.replica = replica
        now = time.monotonic() if exchange.state != HEAD else exchange.began
        up = None if fresh else pool.take(replica, not exchange.request.idempotent, now)
        if up is not None:
            self._discharge(exchange)
            exchange.forwarded(up, now)
            return
        if exchange.state == HEAD:
            exchange.state = step(exchange.state, HOLD)
        exchange.connect_began = now
        if replica.pacing.may_connect():
            self._connect(exchange, replica)
        else:
            replica.queue.append(exchange)

    def _connect(self, exchange: Exchange, replica: Replica) -> None:
        replica.pacing.began()
        self._connector.connect(exchange, replica)

    def connected(self, exchange: Exchange, replica: Replica, up: Upstream, now: float) -> None:
        """From the connector."""
        replica.reached()
        if exchange.over:
            self.idle(replica, up, 0, now)
        else:
            self._join(exchange, up, now)
        service = exchange.service
        if service is not None and len(service.room):
            self.release(service, now)

    def settled(self, replica: Replica, up: Upstream) -> None:
        """The replica has accepted a connection, or has had the time to: others may follow. Counts once for each."""
        if up.settled:
            return
        up.settled = True
        pacing = replica.pacing
        pacing.settled()
        while pacing.may_connect():
            following = _first_waiting(replica)
            if following is None:
                return
            self._connect(following, replica)

    def _join(self, exchange: Exchange, up: Upstream, now: float) -> None:
        """A connection for an exchange that waited for one."""
        exchange.connect = now - exchange.connect_began
        self._discharge(exchange)
        exchange.forwarded(up, now)

    def unreached(self, exchange: Exchange, replica: Replica, failure: Failure) -> None:
        """From the connector: no byte has left, so the request, and all behind it, may go anywhere else."""
        now = time.monotonic()
        replica.pacing.failed()
        replica.failed(now)
        turned_away: Exchange | None = exchange
        while turned_away is not None:
            service = turned_away.service
            if service is not None and not turned_away.over:
                _count_error(service, failure)
                self._let_go(turned_away)
                self._again(turned_away, service, replica, now)
            turned_away = _first_waiting(replica)

    def lost(self, exchange: Exchange, failure: Failure) -> None:
        now = time.monotonic()
        service, replica = exchange.service, exchange.replica
        if service is None or replica is None:
            return
        _count_error(service, failure)
        exchange.reached += 1
        if (
            not exchange.replayable
            or exchange.reached >= self.settings.attempts
            or failure.error != "connection_terminated"
        ):
            exchange.answer(failure)
            return
        self._let_go(exchange)
        exchange.state = step(exchange.state, RETRY)
        self._again(exchange, service, replica, now)

    def _again(self, exchange: Exchange, service: Service, failed: Replica, now: float) -> None:
        """Another replica, or the same one over a new connection, or wait."""
        exchange.retries += 1
        service.retries += 1
        others = [replica for replica in service.ready if replica is not failed]
        dice = random.getrandbits(32)
        replica = pick(others, service.concurrency, now, dice) or pick(service.ready, service.concurrency, now, dice)
        if replica is not None:
            self._go(exchange, service, replica, replica is failed)
        else:
            self._hold(exchange, service, now)

    # Holding

    def _hold(self, exchange: Exchange, service: Service, now: float) -> None:
        if service.deleted:
            exchange.answer(_deleted())
            return
        if service.refusing and not service.ready:
            exchange.answer(_refusal(service))
            return
        if exchange.state == HEAD:
            exchange.state = step(exchange.state, HOLD)
        if exchange.held_since:
            admitted = service.room.readmit(exchange, exchange.held_since)
        else:
            exchange.held_since = now
            admitted = service.room.readmit(exchange, now) if exchange.retries else service.room.admit(exchange, now)
        if not admitted:
            exchange.held_since = 0.0
            exchange.answer(Failure(503, "destination_unavailable", "too many requests are waiting", 1))
            return
        self.holding[service.id] = service
        if not service.ready:
            self._wake(service, now)

    def _wake(self, service: Service, now: float) -> None:
        if now - service.woken_at >= _WAKE_EVERY:
            service.woken_at = now
            self._demand.wake(service.id)

    def release(self, service: Service, now: float) -> None:
        """Send as many held requests as there is capacity for, oldest first."""
        able = free(service.ready, service.concurrency, now, len(service.room))
        for exchange in service.room.release(able):
            replica = pick(service.ready, service.concurrency, now, random.getrandbits(32))
            if replica is None:
                service.room.readmit(exchange, exchange.held_since)
                continue
            self._unheld(exchange, service, now)
            self._go(exchange, service, replica, False)
        if not len(service.room):
            self.holding.pop(service.id, None)

    def refuse_held(self, service: Service) -> None:
        """The service will not become ready: tell everybody who waits."""
        now = time.monotonic()
        self.holding.pop(service.id, None)
        for exchange in service.room.release(len(service.room)):
            self._unheld(exchange, service, now)
            exchange.answer(_deleted() if service.deleted else _refusal(service))

    def refuse_host(self, service: Service, host: bytes) -> None:
        """This one of the service's hosts was deleted."""
        now = time.monotonic()
        for exchange in [one for one in service.room if plain_host(one.request.host) == host]:
            service.room.cancel(exchange)
            self._unheld(exchange, service, now)
            exchange.answer(_deleted())

    def leave(self, exchange: Exchange) -> None:
        service = exchange.service
        if service is not None and service.room.cancel(exchange):
            self._unheld(exchange, service, time.monotonic())
            if not len(service.room):
                self.holding.pop(service.id, None)

    def charge(self, exchange: Exchange, size: int) -> None:
        """Bytes of a held request's body are kept."""
        if (exchange.state & ~7) != HELD:
            return
        exchange.held_bytes += size
        self.held_bytes += size
        if self.held_bytes > self.settings.hold_bytes:
            self.leave(exchange)
            exchange.answer(Failure(503, "destination_unavailable", "too many bytes are waiting", 1))

    def tend(self, now: float) -> None:
        """From the sweep: who has waited too long, who has left, whom a replica's backoff lets go."""
        for down in list(self.paused):
            down.look_for_leaving()
        for service in list(self.holding.values()):
            for exchange in service.room.expired(now):
                self._unheld(exchange, service, now)
                exchange.answer(Failure(504, "connection_timeout", "no replica was ready within the hold timeout"))
            self.release(service, now)

    def _unheld(self, exchange: Exchange, service: Service, now: float) -> None:
        waited = now - exchange.held_since
        exchange.hold = waited
        count(service.hold, waited)
        service.hold_sum += waited

    def _discharge(self, exchange: Exchange) -> None:
        self.held_bytes -= exchange.held_bytes
        exchange.held_bytes = 0

    # Connections to replicas

    def idle(self, replica: Replica, up: Upstream, reuse_for: int, now: float) -> None:
        """A response is complete: its connection may carry another."""
        following = _first_waiting(replica)
        if following is not None:
            self._join(following, up, now)
            return
        settings = self.settings
        pool.give(replica, up, self.sweep, now, settings.upstream_idle_timeout, settings.upstream_idle_limit, reuse_for)

    def discard(self, replica: Replica, up: Upstream) -> None:
        pool.discard(replica, up)

    # Books

    def ended(self, exchange: Exchange) -> None:
        now = time.monotonic()
        exchange.ended = now
        if exchange.held_bytes:
            self._discharge(exchange)
        service = exchange.service
        if exchange.in_flight:
            self._let_go(exchange)
        books = service if service is not None else self._nobody
        status = exchange.status
        books.requests[status] = books.requests.get(status, 0) + 1
        seconds = now - exchange.began
        count(books.duration, seconds)
        books.duration_sum += seconds
        error = exchange.error
        if error is not None and exchange.replica is not None and ((exchange.state & 7) == CUT or error.status == 504):
            _count_error(books, error)
        books.bytes_in += exchange.bytes_in
        books.bytes_out += exchange.bytes_out
        if self._log.enabled:
            self._log.add(exchange)
        if service is not None and len(service.room):
            self.release(service, now)

    def refused(self, peer: bytes, failure: Failure) -> None:
        """Something came that could not be read as a request."""
        status = failure.status
        self._nobody.requests[status] = self._nobody.requests.get(status, 0) + 1
        if self._log.enabled:
            self._log.add_refused(peer.decode("ascii"), status, proxy_status(failure).decode("ascii"))

    def _let_go(self, exchange: Exchange) -> None:
        """The slot at the replica is free again."""
        replica, service = exchange.replica, exchange.service
        if replica is None or service is None:
            return
        exchange.in_flight = False
        replica.in_flight -= 1
        service.in_flight -= 1
        if replica.in_flight == 0 and not replica.ready:
            if replica.gone and service.replicas.get(replica.id) is replica:
                del service.replicas[replica.id]
            self._demand.changed(service.id)

    @property
    def books(self) -> list[Service]:
        """All services, and the one without id."""
        return [self._nobody, *self._table.services.values()]

    def close(self) -> None:
        self._connector.close()


def _first_waiting(replica: Replica) -> Exchange | None:
    """Whoever has waited longest for a connection to `replica` and is still there; out of the queue."""
    while replica.queue:
        exchange = replica.queue.popleft()
        if not exchange.over:
            return exchange
    return None


def _count_error(service: Service, failure: Failure) -> None:
    service.errors[failure.error] = service.errors.get(failure.error, 0) + 1


def _deleted() -> Failure:
    return Failure(503, "destination_unavailable", "deleted")


def _refusal(service: Service) -> Failure:
    return Failure(503, "destination_unavailable", service.reason, max(1, service.retry_after))
