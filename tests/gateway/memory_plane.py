"""The real data plane without sockets and without a loop: an `Edge` between scripted clients and replicas.

What is real: everything in `gateway` but the coroutine that connects. What stands in: the clock, the dice, the
transports and the connector. `Wire` behaves as a uvloop transport over TCP does, in the order in which it calls back
and in what it loses: bytes not flushed are lost by an abort, a paused socket tells nothing, a write after
`write_eof` raises. The fuzzer and the hypothesis state machine drive it; `plane_oracles.py` judges what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gateway.access_log import AccessLog
from gateway.edge import Edge
from gateway.errors import Failure
from gateway.exchange import Exchange
from gateway.http1.upstream import UpstreamConnection
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from gateway.table import Table
from state.models import Backend, Endpoint, Phase, Route

ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8  # tcp(7), TCP_INFO
START = 1000.0  # seconds on the clock when a plane is made
HIGH_WATER = 64 * 1024

SETTINGS = GatewaySettings(
    hold_timeout=5.0,
    hold_limit=4,
    hold_bytes=8192,
    hold_keepalive_every=1.0,
    response_timeout=8.0,
    head_timeout=3.0,
    body_timeout=4.0,
    keep_alive_timeout=6.0,
    linger_timeout=1.0,
    tunnel_timeout=10.0,
    upstream_idle_timeout=5.0,
    upstream_idle_limit=2,
    max_body=150_000,
    head_limit=2048,
    field_limit=20,
    target_limit=256,
    response_head_limit=4096,
)


class Clock:
    """Stands in for the module `time`: only what passes is ours."""

    def __init__(self) -> None:
        self.now = START

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Handle:
    """A callback that can be taken back."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., None] | None = callback
        self._args = args

    def cancel(self) -> None:
        self._callback = None

    def __call__(self) -> None:
        if self._callback is not None:
            self._callback(*self._args)


class Loop:
    """What the data plane asks of the running loop, for the newest plane."""

    def __init__(self) -> None:
        self.plane: Plane | None = None

    def call_soon(self, callback: Callable[..., None], *args: Any) -> Handle:
        assert self.plane is not None
        handle = Handle(callback, args)
        self.plane.soon.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Handle:
        assert self.plane is not None
        handle = Handle(callback, args)
        self.plane.timers.append((CLOCK.now + delay, handle))
        return handle

    def time(self) -> float:
        return CLOCK.now


LOOP = Loop()
CLOCK = Clock()
DICE = random.Random(0)  # stands in for the module `random`


@contextlib.contextmanager
def staged() -> Iterator[None]:
    """Inside, the data plane reads `CLOCK`, throws `DICE` and calls later on `LOOP`. Not to be nested."""
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("gateway.") and module is not None:
            for attribute, real, ours in (("time", time, CLOCK), ("random", random, DICE)):
                if module.__dict__.get(attribute) is real:
                    module.__dict__[attribute] = ours
                    changed.append((module.__dict__, attribute, real))
    asyncio._set_running_loop(LOOP)  # type: ignore[arg-type]
    try:
        yield
    finally:
        asyncio._set_running_loop(None)
        for namespace, attribute, real in changed:
            namespace[attribute] = real


class Socket:
    """What `gateway/tcp.py` asks of a socket."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        return bytes([self._wire.tcp_state]) + bytes(max(0, size - 1))

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if isinstance(value, bytes):  # SO_LINGER of zero seconds
            self._wire.lingerless = True

    def fileno(self) -> int:
        return -1


class Wire:
    """A connection between a protocol of the gateway and a peer that a script plays.

    As a transport: what the gateway does. As a peer: `send`, `half_close`, `reset`, `take`. Offsets count bytes.
    """

    __slots__ = (
        "_buffered",
        "_closing",
        "_lost_called",
        "_paused_protocol",
        "_pieces",
        "_plane",
        "credit",
        "delivered",
        "ended",
        "eof_written",
        "fin_delivered",
        "fin_sent",
        "high",
        "incoming",
        "lingerless",
        "lost",
        "peer",
        "protocol",
        "reading",
        "received",
        "replica",
        "reset_delivered",
        "reset_sent",
        "sent",
        "stalled",
        "stream",
        "writes",
    )

    def __init__(self, plane: Plane, protocol: Any, peer: tuple[str, int], replica: Replica | None = None) -> None:
        self._plane = plane
        self.protocol = protocol
        self.peer = peer
        self.replica = replica
        # the gateway's side
        self.reading = True
        self.lost = False  # connection_lost was called
        self.eof_written = False
        self.lingerless = False
        self.high = plane.high_water
        self._closing = False
        self._lost_called = False  # or is about to be
        self._paused_protocol = False
        self._pieces: list[bytes] = []
        self._buffered = 0
        self.stream = bytearray()  # all that was written, whether it left or not
        self.writes: list[tuple[int, int, int, int]] = []  # offset, delivered then, sequence number, TCP state
        # the peer's side
        self.credit = -1  # bytes that the peer still takes, -1: any number
        self.stalled = False  # the peer did not take what was there, and that made a difference
        self.sent = bytearray()  # by the peer
        self.incoming = b""  # of it: not delivered yet
        self.delivered = 0
        self.fin_sent = False
        self.fin_delivered = False
        self.reset_sent = False
        self.reset_delivered = False
        self.received = bytearray()  # by the peer
        self.ended = ""  # how the gateway's direction ended for the peer: "fin" or "reset"

    # a transport

    def get_extra_info(self, name: str, default: object = None) -> object:
        if name == "peername":
            return self.peer
        if name == "socket":
            return Socket(self)
        return default

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self._alive()
        self.reading = False

    def resume_reading(self) -> None:
        self._alive()
        if not self.reading:
            self.reading = True
            self._plane.soon.append(self.deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = HIGH_WATER if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def write(self, data: bytes) -> None:
        self._alive()
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._closing:
            return
        plane = self._plane
        plane.sequence += 1
        self.writes.append((len(self.stream), self.delivered, plane.sequence, self.tcp_state))
        self.stream += data
        self._pieces.append(bytes(data))
        self._buffered += len(data)
        if self._buffered > self.high and not self._paused_protocol:
            self._flush()
            if self._buffered > self.high and not self._closing:
                self._paused_protocol = True
                self.stalled = True
                self.protocol.pause_writing()
        plane.dirty[self] = None

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._alive()
        self.eof_written = True
        self._plane.dirty[self] = None

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.reading = False
            self._plane.dirty[self] = None

    def abort(self) -> None:
        self._closing = True
        self.reading = False
        if self._buffered and self.credit >= 0:
            self.stalled = True
        self._pieces.clear()
        self._buffered = 0
        self._lose(None)

    def _alive(self) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation on a transport that is closed")

    def _lose(self, error: Exception | None) -> None:
        if self._lost_called:
            return
        self._lost_called = True
        self._closing = True
        if not self.ended or self.incoming:
            self.ended = "reset" if self.lingerless or self.incoming else "fin"
        self._plane.soon.append(lambda: self._call_lost(error))

    def _call_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.protocol.connection_lost(error)

    def _flush(self) -> None:
        """Hand to the peer what it takes."""
        if self.reset_sent:
            if self._pieces:
                self._fail()
            return
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self.credit >= 0:
            taken = data[: self.credit]
            if len(taken) < len(data):
                self._pieces.append(data[self.credit :])
            self.credit -= len(taken)
            data = taken
        self._buffered -= len(data)
        self.received += data

    def _fail(self) -> None:
        """The kernel says that the peer has reset the connection."""
        self.reset_delivered = True
        self.reading = False
        self._pieces.clear()
        self._buffered = 0
        self._lose(ConnectionResetError("Connection reset by peer"))

    def turn(self) -> None:
        """The end of a turn of the loop: flush, and what follows from an empty buffer."""
        self._flush()
        if self._lost_called:
            return
        if self._buffered == 0:
            if self._paused_protocol and not self._closing:
                self._paused_protocol = False
                self._plane.soon.append(self._resume_protocol)
            if self._closing:
                self._lose(None)
            elif self.eof_written:
                self.ended = "fin"

    def _resume_protocol(self) -> None:
        if not self._closing:
            self.protocol.resume_writing()

    @property
    def tcp_state(self) -> int:
        if self.reset_sent:
            return CLOSE
        return CLOSE_WAIT if self.fin_sent else ESTABLISHED

    # a peer

    def send(self, data: bytes) -> None:
        """Bytes for the gateway, delivered at once if it reads."""
        if self.fin_sent or self.reset_sent or self._lost_called:
            return
        self.sent += data
        self.incoming += data
        self.deliver()

    def half_close(self) -> None:
        if not (self.fin_sent or self.reset_sent):
            self.fin_sent = True
            self._tell()

    def reset(self) -> None:
        """All that was under way either way is lost."""
        if not self.reset_sent:
            self.reset_sent = True
            self.incoming = b""
            self.ended = self.ended or "reset"
            self._tell()

    def _tell(self) -> None:
        """The kernel knows; a busy loop only sees it in its next turn."""
        if self._plane.lazy:
            self._plane.soon.append(self.deliver)
        else:
            self.deliver()

    def take(self, credit: int) -> None:
        """From now on the peer takes `credit` bytes; -1: any number."""
        self.credit = credit
        self._plane.dirty[self] = None

    def deliver(self) -> None:
        """What the kernel has for the gateway, if it reads."""
        if not self.reading or self._closing:
            return
        if self.reset_sent:
            self._fail()
            return
        data = self.incoming
        if data:
            self.incoming = b""
            self.delivered += len(data)
            self.protocol.data_received(data)
        if self.fin_sent and not self.fin_delivered and self.reading and not self._closing:
            self.fin_delivered = True
            if not self.protocol.eof_received():
                self.close()

    @property
    def open(self) -> bool:
        return not self._lost_called

    @property
    def buffered(self) -> int:
        return self._buffered

    def __repr__(self) -> str:
        return f"<Wire {self.peer} {self.protocol!r}>"


class Log(AccessLog):
    """Formats every line, as the worker does, and keeps the exchanges instead of the lines."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(None)
        self.enabled = True
        self._plane = plane
        self.lines: list[str] = []
        self.ended: list[tuple[int, Exchange]] = []  # sequence number, exchange
        self.refusals: list[Any] = []

    def add(self, exchange: Exchange) -> None:
        super().add(exchange)
        self._plane.sequence += 1
        self.ended.append((self._plane.sequence, exchange))

    def add_refused(self, refused: Any) -> None:
        super().add_refused(refused)
        self.refusals.append(refused)

    def flush(self) -> None:
        """No thread."""
        self.lines += self._lines
        self._lines = []
        self._size = 0


class Plane:
    """One worker's data plane, its source of routes, its connector, and everybody who talks to it."""

    def __init__(self, settings: GatewaySettings = SETTINGS, high_water: int = 1024) -> None:
        CLOCK.now = START
        LOOP.plane = self
        DICE.seed(7)
        self.high_water = high_water
        self.settings = settings
        self.sequence = 0  # of everything that is worth ordering
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.soon: deque[Callable[[], None]] = deque()
        self.dirty: dict[Wire, None] = {}
        self.lazy = False  # let callbacks wait until `run` is called, as a busy loop does
        self.clients: list[Wire] = []
        self.upstreams: list[Wire] = []
        self.pending: deque[tuple[Exchange, Replica]] = deque()  # connects on the way
        self.reachable = True  # connects succeed at once
        self.routes: dict[str, Route] = {}
        self.backends: dict[str, Backend] = {}
        self.woken: list[str] = []
        self.log = Log(self)
        self.edge = Edge(settings, Table(self), self.log, self)
        self.office = self.edge._office
        self.connections = self.office.connections
        self.connections._connector = self  # type: ignore[assignment]

    # the table's source, the edge's demand, the connections' connector

    def route(self, host: str) -> Route | None:
        return self.routes.get(host)

    def backend(self, service_id: str) -> Backend | None:
        return self.backends.get(service_id)

    def wake(self, service_id: str) -> None:
        self.woken.append(service_id)

    def changed(self, service_id: str) -> None:
        pass

    def answered(self, replica_id: str, first_byte: int) -> None:
        pass

    def connect(self, exchange: Exchange, replica: Replica) -> None:
        self.pending.append((exchange, replica))
        if self.reachable:
            self.soon.append(self.accept)

    def close(self) -> None:
        pass

    def accept(self) -> None:
        """The oldest connect succeeds."""
        if not self.pending:
            return
        exchange, replica = self.pending.popleft()
        up = UpstreamConnection(self.office, replica)
        wire = Wire(self, up, (replica.host, replica.port), replica)
        self.upstreams.append(wire)
        up.connection_made(wire)  # type: ignore[arg-type]
        replica.pacing.connected(0.0)
        LOOP.call_later(self.settings.connect_spacing, self.connections.settled, replica, up)
        self.connections.connected(exchange, replica, up, CLOCK.now)

    def refuse(self, status: int = 502) -> None:
        """The oldest connect fails."""
        if self.pending:
            exchange, replica = self.pending.popleft()
            error = "connection_refused" if status == 502 else "connection_timeout"
            self.connections.unreached(exchange, replica, Failure(status, error, "no connection"))

    # the script's side

    def serve(
        self, host: str, *endpoints: Endpoint, phase: Phase = Phase.SERVING, concurrency: int = 0, **more: Any
    ) -> None:
        """The service behind `host` has these replicas now."""
        service = "s-" + host
        self.routes.setdefault(host, Route(service, "acme", host.partition(".")[0]))
        self.backends[service] = backend = Backend(
            service, "acme", host.partition(".")[0], phase, None, 1, endpoints, concurrency, None, **more
        )
        self.edge.update(backend)

    def client(self) -> Wire:
        """A new client connection."""
        protocol = self.edge.protocol_factory()()
        wire = Wire(self, protocol, ("192.0.2.1", 40000 + len(self.clients)))
        self.clients.append(wire)
        protocol.connection_made(wire)  # type: ignore[arg-type]
        return wire

    def drain(self) -> None:
        """What `Edge.drain` does before it waits."""
        self.edge.hurry()

    def wait(self, seconds: float) -> None:
        """Time passes; the sweep runs once, at its end."""
        CLOCK.now += seconds
        for wire in self.clients:
            if wire.buffered:
                wire.stalled = True
        if self.timers:
            due = [call for at, call in self.timers if at <= CLOCK.now]
            self.timers = [(at, call) for at, call in self.timers if at > CLOCK.now]
            for call in due:
                call()
        self.edge._sweep.run(CLOCK.now)

    def run(self) -> None:
        """Let the loop turn until nothing is left to do."""
        soon, dirty = self.soon, self.dirty
        for _ in range(100_000):
            if soon:
                soon.popleft()()
            elif dirty:
                wire, _ = dirty.popitem()
                wire.turn()
            else:
                return
        raise AssertionError("the loop never comes to rest")

    def replicas(self) -> Iterator[Replica]:
        for service in self.office.books:
            yield from service.replicas.values()
