"""The data plane of one worker process, as its runtime sees it.

The runtime owns the sockets, the mirror of the store and the pipe; `Edge` owns everything between an accepted
connection and a replica. Nothing here waits for the store (law 1); what it asks of the rest of the system is the
`Demand` protocol, and both of its calls only hurry what the next report would say anyway (law 2).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.access_log import AccessLog
from gateway.api_host import ApiHost
from gateway.dispatch import Dispatcher
from gateway.doors import Doors
from gateway.errors import Failure, deleted, unknown
from gateway.holding import Demand, Slots
from gateway.lag import LoopLag
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.sides import Downstream
from gateway.sweep import TICK, Sweep
from gateway.table import Table
from gateway.telemetry import Telemetry
from gateway.tls.contexts import Certificates
from state.certificates import Challenge
from state.models import Backend

__all__ = ["Demand", "Edge", "Load"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one service asks of this worker now. A pick counts as in flight."""

    in_flight: int
    held: int
    held_ms: int  # how long the oldest has been held
    replicas: Mapping[str, int]  # replica id -> in flight; zeros left out


class Edge:
    """Construct, `start()` on the loop, pass `protocol_factory()` to the listeners; `await drain()`, `close()`.

    `certificates`: what the TLS listeners, if there are any, serve with. `telemetry`: who gets sampled requests.
    `slots`: who knows how much of a service's `concurrency` is this worker's; None: all of it.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        table: Table,
        access_log: AccessLog,
        demand: Demand,
        certificates: Certificates | None = None,
        telemetry: Telemetry | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._table = table
        table.exact = slots is not None
        self._slots = slots
        self._telemetry = telemetry
        self._log = access_log
        self._sweep = Sweep(time.monotonic())
        self._office = Dispatcher(settings, table, access_log, demand, self._sweep, telemetry, slots)
        self._api: Service | None = None  # the API's; no service of the store
        if settings.api is not None:
            api = ApiHost(settings.api, settings)
            self._api = api.service
            table.reserve(settings.api.host, api)
        self._doors = Doors(self._office, table, certificates, self._complain)
        self._sweep.hooks += [self._office.clients.tend, self._office.holding.tend, table.tend]
        self._timer: asyncio.TimerHandle | None = None
        self._lag = LoopLag()
        self._counted: dict[str, tuple[int, dict[str, Any]]] = {}  # as told last: requests, counters
        table.hold_limit, table.hold_timeout = settings.hold_limit, settings.hold_timeout

    def start(self) -> None:
        """Begin the sweep of deadlines (every 250 ms). The loop must be running."""
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        self._lag.start()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)  # first, whatever happens below
        self._log.flush()
        self._sweep.run(time.monotonic())

    def protocol_factory(self) -> Callable[[], asyncio.BaseProtocol]:
        """For `loop.create_server(factory, sock=…, backlog=4096)`: one protocol per client connection, plain HTTP."""
        return self._doors.plain

    def tls_factory(self) -> Callable[[], asyncio.BaseProtocol]:
        """The same for TLS. Only with certificates."""
        return self._doors.tls

    def update(self, backend: Backend) -> None:
        """A service's backend changed. Releases held requests as far as there is capacity, or refuses them.

        Takes effect before it returns: an acknowledgement may be sent afterwards. A service that this worker never
        served is not built by this (its backend is looked up through `Table`'s source when first asked for).
        """
        service = self._table.services.get(backend.service)
        if service is None:
            return
        for replica in service.apply(backend, self._table.hold_timeout, time.monotonic()):
            self._office.connections.pool.close(replica)
        self._office.holding.settle(service, time.monotonic())

    def release(self, service: Service, now: float) -> None:
        """There may be room for some who are held."""
        self._office.holding.settle(service, now)

    def forget(self, service_id: str) -> None:
        """The backend is gone (service removed): held requests get 503, those in flight finish."""
        service = self._table.services.get(service_id)
        if service is None:
            return
        for replica in service.remove():
            self._office.connections.pool.close(replica)
        self._table.leave(service_id, time.monotonic())
        self._office.holding.settle(service, time.monotonic())

    def reroute(self, host: str) -> None:
        """The route of `host` was added, changed or removed. Who was held for it and is in vain is told so."""
        service = self._table.led_to(host)
        self._table.forget_host(host)
        if service is not None:
            self._check_held(host, service)

    def _check_held(self, host: str, service: Service) -> None:
        """Requests held for a host that leads there no more wait in vain."""
        if len(service.room) == 0:
            return
        route = self._table.route(host)
        if route is None:
            failure = unknown()
        elif route.deleted_at is not None:
            failure = deleted()
        elif route.service != service.id or route.redirect is not None:
            failure = Failure(503, "destination_unavailable", "the host leads elsewhere now", 1)
        else:
            return
        self._office.holding.refuse_host(service, host.encode(), failure)

    def recertify(self, name: str) -> None:
        """The certificate stored for `name` (a host, or `*.` and its parent) was added, changed or removed.

        Handshakes from now on see it; connections that are open keep what they have.
        """
        self._doors.recertify(name)

    def challenge(self, domain: str, challenge: Challenge | None) -> None:
        """What certificate authorities that look at `domain` are answered from now on; None: nothing."""
        self._office.challenges.put(domain, challenge)
        self._doors.challenge(domain)

    def resync(self) -> None:
        """Everything may have changed: look all known hosts and services up again in `Table`'s source."""
        hosts = self._table.hosts()
        self._table.forget_hosts()
        for host, service in hosts:
            self._check_held(host, service)
        for service_id in list(self._table.services):
            backend = self._table.backend(service_id)
            if backend is None:
                self.forget(service_id)
            else:
                self.update(backend)

    def mark(self, stale: bool) -> None:
        """`stale`: from now on requests get 503, whatever their host, also those that are held or would be sent again:
        replicas may be gone, and their addresses be others'. Those in flight go on. Else all are routed again.
        """
        self._table.mark(stale)
        if not stale:
            self.resync()
            return
        now = time.monotonic()
        for service in list(self._table.services.values()):
            for replica in service.suspend():
                self._office.connections.pool.close(replica)
            self._office.holding.settle(service, now)

    def loads(self) -> dict[str, Load]:
        """By service id; services with nothing in flight and nothing held are left out (zero)."""
        now = time.monotonic()
        return {
            service.id: Load(
                service.in_flight,
                len(service.room),
                int(service.room.oldest(now) * 1000),
                {replica.id: replica.in_flight for replica in service.replicas.values() if replica.in_flight},
            )
            for service in self._table.services.values()
            if service.in_flight or len(service.room)
        }

    def counters(self) -> dict[str, Any]:
        """Cumulative numbers since the start of this worker, plain JSON.

        {"services": {id: {"namespace", "name",
                           "requests": {"200": n}, "bytes_in": n, "bytes_out": n,
                           "duration": {"<bucket>": n}, "duration_sum": seconds,
                           "hold": {"<bucket>": n}, "hold_sum": seconds,      # every hold that ended, however it ended
                           "errors": {"connection_refused": n, …},             # upstream errors by kind
                           "retries": n,
                           "retries_refused": n,                               # by the budget (`retry_budget.py`)
                           "ejections": n}},           # times that a replica was taken out of the choice (`health.py`)
         "connections": now open, "accepted": n, "log_dropped": lines,
         "spans_dropped": sampled requests that were not exported,
         "refused_full": n, "refused_address": n,  # connections closed at once: the worker or the client has too many
         "shed": n,                                # idle connections closed to make room
         "upstream_closed": n,                     # idle connections to replicas closed for there were too many
         "loop_lag": {"<bucket>": n}, "loop_lag_sum": seconds,            # buckets of `lag.py`: how late the loop was
         "loop_lag_cpu": {"<bucket>": n}, "loop_lag_cpu_sum": seconds,    # of it, what the worker computed
         "slots": n,                                    # owned now, of all services (`slots.py`); with a store only
         "slots_recalled": n, "slots_unanswered": n,    # given to who waited elsewhere; messages without an answer
         "tls": {"handshakes": n, "resumed": n, "proved": n, "failed": {reason: n}},   # with certificates only
         "proxy_protocol": {"read": n, "malformed": n}}                   # with trusted proxies only
        Buckets are indices of `gateway.histogram` (`upper(index)` = its upper bound in seconds). Requests that reached
        no service are under the id "" with empty names, those to the API under "api" without a namespace. Services
        without a single request are left out. Where nothing has ended since the last time and nothing is under way it
        is the same object again: with thousands of services making all anew would stop the loop.
        """
        known, self._counted = self._counted, {}
        for books in (*self._office.books, *self._own()):
            if total := sum(books.requests.values()):
                before, counted = known.get(books.id, (0, {}))
                changed = total != before or books.in_flight or len(books.room)
                self._counted[books.id] = (total, books.counters() if changed else counted)
        return {
            "services": {service: counted for service, (_, counted) in self._counted.items()},
            "log_dropped": self._log.dropped,
            "spans_dropped": self._telemetry.dropped if self._telemetry is not None else 0,
            "upstream_closed": self._office.connections.pool.closed,
            **self._lag.counters(),
            **self._office.clients.counters(),
            **(self._slots.counters() if self._slots is not None else {}),
            **self._doors.counters(),
        }

    def books(self) -> list[Service]:
        """The counters of each service, and those without a service (id "")."""
        return self._office.books

    def _own(self) -> list[Service]:
        """What is served of the node itself."""
        return [] if self._api is None else [self._api]

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._office.clients)

    @property
    def holds(self) -> bool:
        """Whether any request is held."""
        return bool(self._office.holding.services)

    async def drain(self, timeout: float | None, patient: bool = False) -> bool:
        """Close idle client connections, say `Connection: close` on the others, wait until all are gone.

        A client that has connected but not sent its first request yet may have it on the way: it gets its answer, if
        the request comes within `drain_grace`. `patient`: the same for all that are idle, as long as they may be idle;
        none finds its connection closed just as it sends its next request.

        Held requests go on being held. True: none was left within `timeout` seconds (None: however long that takes).
        Doesn't close listeners.
        """
        clients = self._office.clients
        clients.draining = True
        if patient:
            for connection in clients.all():
                connection.drain(True)
        else:
            self.hurry()
        if not len(clients):
            return True
        empty = clients.empty = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await empty.wait()
        except TimeoutError:
            return False
        return True

    def hurry(self) -> None:
        """While draining: be patient no more."""
        clients = self._office.clients
        clients.draining = clients.hurried = True
        for connection in clients.all():
            connection.drain(False)

    async def dismiss(self, timeout: float) -> None:
        """The time to drain is over: whoever still waits for a replica gets 503, thousands in turns of the loop; others
        are cut. Returns when all connections are gone, after `timeout` seconds at most.
        """
        self.hurry()
        waiting: list[Downstream] = []
        for connection in self._office.clients.all():
            if connection.waits():
                waiting.append(connection)
            else:
                connection.abort()
        self._office.holding.dismiss(waiting)
        await self.drain(timeout)

    def make_room(self) -> int:
        """No connection can be accepted for want of descriptors or memory: idle ones are closed, an eighth of those to
        replicas, and of clients those that have been idle the longest. Returns how many.
        """
        office = self._office
        return office.connections.pool.make_room() + office.clients.make_room()

    def complain_to(self, say: Callable[[str], None]) -> None:
        """Where lines for the operator go: connections that had to be refused. Rare, however many those are."""
        self._office.clients.complain = say

    def _complain(self, text: str) -> None:
        if self._office.clients.complain is not None:
            self._office.clients.complain(text)

    def close(self) -> None:
        """Cut what is left, stop the sweep, drop idle upstream connections. The access log is its owner's to close."""
        if self._timer is not None:
            self._timer.cancel()
        self._lag.stop()
        self._office.close()
        self._doors.close()
        for connection in self._office.clients.all():
            connection.abort()
        for service in (*self._table.services.values(), *self._own()):
            for replica in service.replicas.values():
                self._office.connections.pool.close(replica)
