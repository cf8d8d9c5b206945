"""A gateway worker without sockets, for exhaustive exploration: what it knows and has under way is a value.

`react` builds the worker's real data plane (`Edge` with its table, waiting room, balancing, retries and books) in the
state that the value says, lets one thing happen to it, and says what it is then. Only connections are played: one to
a replica that runs succeeds at once, another is refused at once. Every answer is remembered, since the same little
happens in a great many states.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from typing import Any, Final, NamedTuple

import gateway.dispatch
from gateway.access_log import AccessLog
from gateway.edge import Edge
from gateway.errors import Failure
from gateway.exchange import Exchange
from gateway.health import DOWN, GOOD
from gateway.messages import Request, Response
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from gateway.sides import Downstream, Upstream
from gateway.states import DONE, HELD
from gateway.table import Table
from state.models import Backend, Phase, Route

HOST: Final = b"app.test"
SERVICE: Final = "s"
_SETTINGS: Final = GatewaySettings(hold_limit=8)
_NEVER: Final = float("inf")


class Interned:
    """Values as small numbers, which hash fast."""

    def __init__(self) -> None:
        self._ids: dict[Any, int] = {}
        self._values: list[Any] = []

    def id(self, value: Any) -> int:
        known = self._ids.get(value)
        if known is None:
            known = self._ids[value] = len(self._values)
            self._values.append(value)
        return known

    def __getitem__(self, number: int) -> Any:
        return self._values[number]


BACKENDS: Final = Interned()
NOTHING: Final = BACKENDS.id(None)
"""There is no such service."""


class Plane(NamedTuple):
    """`backend`: what it was told last, by its number in `BACKENDS`. `flight`: requests by replica, zeros left out.
    `down`: replicas that refused a connection and are still ready, as far as it was told."""

    backend: int = NOTHING
    flight: tuple[tuple[str, int], ...] = ()
    down: frozenset[str] = frozenset()
    held: int = 0

    @property
    def ready(self) -> frozenset[str]:
        """Where it may send a request now."""
        return ready(self.backend)

    @property
    def listed(self) -> frozenset[str]:
        return listed(self.backend)


@functools.cache
def ready(backend: int) -> frozenset[str]:
    value = BACKENDS[backend]
    return frozenset() if value is None else frozenset(e.id for e in value.endpoints if e.ready)


@functools.cache
def listed(backend: int) -> frozenset[str]:
    value = BACKENDS[backend]
    return frozenset() if value is None else frozenset(e.id for e in value.endpoints)


class Reaction(NamedTuple):
    """`answers`: statuses of the answers that clients got; `told`: whether it hurries a report or sends a wake."""

    plane: Plane
    answers: tuple[int, ...]
    woke: bool


@functools.cache
def react(plane: Plane, up: frozenset[str], what: str, detail: Any = None) -> Reaction:
    """`up`: replicas that accept connections. `what` happens:

    "request" (`detail`: which of equal replicas chance prefers), "end" or "lost" (of one at the replica `detail`: it
    is answered, or the connection breaks), "told" (`detail`: the backend), "tend" (time passed), "leave" (a client who
    is held).
    """
    worker = _Worker(plane, up, due=what == "tend")
    with_chance = detail if what == "request" else 0
    chance, gateway.dispatch.random = gateway.dispatch.random, _Chance(with_chance)  # type: ignore[assignment]
    try:
        getattr(worker, what)(*(() if detail is None or what == "request" else (detail,)))
    finally:
        gateway.dispatch.random = chance
    return worker.reaction()


class _Chance:
    def __init__(self, value: int) -> None:
        self._value = value

    def getrandbits(self, bits: int) -> int:
        return self._value


class _Line(Upstream):
    """A connection to a replica."""

    def send_request(self, exchange: Exchange) -> None: ...
    def gate(self, reading: bool) -> None: ...
    def abort(self) -> None: ...


class _Client(Downstream):
    def __init__(self, answers: list[int]) -> None:
        super().__init__()
        self._answers = answers

    def send_head(self, exchange: Exchange, response: Response, body: bytes, ended: bool, trailers: Any) -> None:
        self._answers.append(response.status)

    def due(self, deadline: float) -> None: ...
    def gate(self) -> None: ...
    def finished(self, exchange: Exchange, whole: bool) -> None: ...


class _Worker:
    def __init__(self, plane: Plane, up: frozenset[str], *, due: bool) -> None:
        self._backend: Backend | None = BACKENDS[plane.backend]
        self._up = up
        self._answers: list[int] = []
        self._exchanges: list[Exchange] = []
        self._woke = self._deleted = False
        self._edge = Edge(_SETTINGS, Table(self), AccessLog(None), self)
        self._office = self._edge._office
        self._office.connections._connector = self  # type: ignore[assignment]
        found = self._edge._table.find(HOST)
        assert not isinstance(found, gateway.dispatch.Special)
        assert found is not None
        self._service = found
        if self._backend is None:
            self._forget()
        self._restore(plane, due)

    def _restore(self, plane: Plane, due: bool) -> None:
        service = self._service
        for name, count in plane.flight:
            if name not in service.replicas:  # no endpoint any more
                service.replicas[name] = Replica(name, "127.0.0.1", 1000)
                service.replicas[name].ready, service.replicas[name].gone = False, True
            for _ in range(count):
                exchange = self._exchange(DONE)
                exchange.in_flight, exchange.replica, exchange.up = True, service.replicas[name], _Line()
                service.replicas[name].in_flight += 1
                service.in_flight += 1
        for name in plane.down:
            service.replicas[name].health, service.replicas[name].until = DOWN, 0.0 if due else _NEVER
        self._held = [self._exchange(HELD) for _ in range(plane.held)]
        for exchange in self._held:
            exchange.held_since = time.monotonic()
            service.room.admit(exchange, exchange.held_since)
            self._office.holding.services[SERVICE] = service

    def _exchange(self, state: int) -> Exchange:
        request = Request(b"GET", b"/", old=False)
        request.host = HOST
        exchange = Exchange(request, _Client(self._answers), self._office, self._office.limits, time.monotonic())
        exchange.state = state
        exchange.service = self._service if state else None
        self._exchanges.append(exchange)
        return exchange

    def reaction(self) -> Reaction:
        service, loads = self._service, self._edge.loads()
        replicas = dict(loads[SERVICE].replicas) if SERVICE in loads else {}
        held = loads[SERVICE].held if SERVICE in loads else 0
        sent = Counter(e.replica.id for e in self._exchanges if e.up is not None and e.replica is not None)
        assert sent == replicas, "the books do not balance"
        assert service.in_flight == sent.total(), "the books do not balance"
        down = frozenset(replica.id for replica in service.ready if replica.health != GOOD)
        plane = Plane(BACKENDS.id(self._backend), tuple(sorted(replicas.items())), down, held)
        assert {replica.id for replica in service.ready} <= plane.ready
        return Reaction(plane, tuple(self._answers), self._woke)

    # what may happen

    def request(self) -> None:
        self._office.begin(self._exchange(0))

    def end(self, name: str) -> None:
        exchange = self._at(name)
        exchange.up = None
        exchange.response_head(Response(200, b"OK"), b"", True, [], time.monotonic())

    def lost(self, name: str) -> None:
        self._at(name).upstream_lost(Failure(502, "connection_terminated", "the replica closed the connection"))

    def told(self, number: int) -> None:
        self._backend = BACKENDS[number]
        if self._backend is None:
            self._forget()
        else:
            self._edge.update(self._backend)

    def _forget(self) -> None:
        """Its routes are tombstones by then."""
        self._deleted = True
        self._edge.reroute(HOST.decode())
        self._edge.forget(SERVICE)

    def tend(self) -> None:
        self._office.holding.tend(time.monotonic())

    def leave(self) -> None:
        self._held[0].left()

    def _at(self, name: str) -> Exchange:
        return next(e for e in self._exchanges if e.in_flight and e.replica is not None and e.replica.id == name)

    # as the source of its table, its connector, and the world that it tells

    def route(self, host: str) -> Route | None:
        return Route(SERVICE, "acme", "app", deleted_at=1 if self._deleted else None)

    def backend(self, service_id: str) -> Backend | None:
        return self._backend

    def connect(self, exchange: Exchange, replica: Replica) -> None:
        connections = self._office.connections
        if replica.id in self._up:
            connections.connected(exchange, replica, _Line(), time.monotonic())
            replica.pacing.settled()
        else:
            connections.unreached(exchange, replica, Failure(502, "connection_refused", "it refuses connections"))

    def wake(self, service_id: str) -> None:
        self._woke = True

    def changed(self, service_id: str) -> None:
        self._woke = True


def refusing(plane: Plane) -> bool:
    backend = BACKENDS[plane.backend]
    return backend is None or backend.phase is Phase.REFUSING
