"""Where requests go: route, pick, connection, retry; and the books of it, kept when they are over.

Laws kept here: a pick counts as in flight until the exchange is over, whatever becomes of it; a request is sent again
only if nothing was consumed that can't be replayed. Who can't be sent is held (`holding.py`).
"""

from __future__ import annotations

import random
import time

from gateway import pool
from gateway.access_log import AccessLog
from gateway.balance import pick
from gateway.clients import Clients
from gateway.connector import Connector
from gateway.errors import Failure
from gateway.exchange import Exchange, Limits
from gateway.histogram import count
from gateway.holding import Demand, Holding
from gateway.refused import Refused
from gateway.replica import Replica
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.sides import Keeper, Upstream
from gateway.states import CUT, HEAD, HOLD, RETRY, step
from gateway.sweep import Sweep
from gateway.table import Table, Unserved


class Dispatcher(Keeper):
    """One per worker; every connection holds a reference to it."""

    __slots__ = (
        "_connector",
        "_demand",
        "_log",
        "_nobody",
        "_table",
        "clients",
        "holding",
        "limits",
        "settings",
        "sweep",
        "via",
        "via_line",
        "via_old_line",
        "via_old_response",
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
            settings.half_closed_timeout,
            settings.body_rate,
            -1 if settings.max_body is None else settings.max_body,
        )
        self.via = settings.via.encode("ascii")
        self.via_line = b"\r\nVia: 1.1 " + self.via + b"\r\nX-Request-Id: "
        self.via_response = self.via_line[2:]  # there every piece ends its line
        self.via_old_line = b"\r\nVia: 1.0 " + self.via + b"\r\nX-Request-Id: "
        self.via_old_response = self.via_old_line[2:]
        self.clients = Clients(settings.connection_limit, settings.trusted_proxies, settings.address_limit)
        self.holding = Holding(self, demand, settings.hold_bytes)

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
        elif isinstance(service, Unserved):
            exchange.answer(service.failure)
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
        self.holding.hold(exchange, service, now)

    def send(self, exchange: Exchange, service: Service, replica: Replica) -> None:
        """From the room: there is a place at `replica` now."""
        self._go(exchange, service, replica, False)

    def _go(self, exchange: Exchange, service: Service, replica: Replica, fresh: bool) -> None:
        """The pick is made: from here on it counts as in flight. `fresh`: not over an idle connection."""
        replica.in_flight += 1
        service.in_flight += 1
        exchange.in_flight = True
        exchange.replica = replica
        now = time.monotonic() if exchange.state != HEAD else exchange.began
        up = None if fresh else pool.take(replica, not exchange.request.idempotent, now)
        if up is not None:
            if exchange.held_bytes:
                self.holding.discharge(exchange)
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
            self.holding.release(service, now)

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
        if exchange.held_bytes:
            self.holding.discharge(exchange)
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
            self.holding.hold(exchange, service, now)

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

    def leave(self, exchange: Exchange) -> None:
        self.holding.leave(exchange)

    # Books

    def ended(self, exchange: Exchange) -> None:
        now = time.monotonic()
        exchange.ended = now
        if exchange.held_bytes:
            self.holding.discharge(exchange)
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
            self.holding.release(service, now)

    def refused(self, refused: Refused) -> None:
        """Something came that could not be read as a request."""
        status = refused.failure.status
        self._nobody.requests[status] = self._nobody.requests.get(status, 0) + 1
        if self._log.enabled:
            self._log.add_refused(refused)

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
