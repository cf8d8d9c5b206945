"""Conversations in bytes: a real Edge on a real loopback socket, real scripted origins behind it.

`Conversation` is what a test holds: `await talk.client()` connects to the edge, `talk.origin(...)` starts a replica
whose every connection is driven by the test itself, `talk.serve(...)` says which of them a service has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterable

from gateway.access_log import AccessLog
from gateway.edge import Edge
from gateway.holding import Slots
from gateway.settings import GatewaySettings
from gateway.table import Table
from gateway.telemetry import Telemetry
from state.models import Backend, Endpoint, Phase, Route

Starter = Callable[..., Awaitable["Conversation"]]

PATIENCE = 30.0  # seconds until a condition that is waited for counts as never met


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what


class Peer:
    """One end of a connection, with exact expectations."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = b""  # bytes read but not asked for yet

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def head(self) -> bytes:
        """Up to and with the next empty line."""
        return await self.through(b"\r\n\r\n")

    async def through(self, mark: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            while mark not in self.seen:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError(f"closed after {self.seen!r}")
                self.seen += data
        end = self.seen.index(mark) + len(mark)
        found, self.seen = self.seen[:end], self.seen[end:]
        return found

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            while len(self.seen) < size:
                data = await self.reader.read(1 << 20)
                if not data:
                    raise EOFError(f"closed after {len(self.seen)} of {size} bytes")
                self.seen += data
        found, self.seen = self.seen[:size], self.seen[size:]
        return found

    async def expect(self, data: bytes) -> None:
        """The next bytes are exactly these."""
        assert await self.exactly(len(data)) == data

    async def rest(self) -> bytes:
        """Everything up to the end. A reset raises ConnectionError."""
        async with asyncio.timeout(PATIENCE):
            data = self.seen + await self.reader.read()
        self.seen = b""
        return data

    async def closed(self) -> None:
        """The other side ends the connection, without another byte."""
        with contextlib.suppress(ConnectionError):
            assert await self.rest() == b""

    async def silent(self) -> None:
        """Nothing has come, although the other side has had the chance: for what must not happen."""
        await asyncio.sleep(0.05)
        assert self.seen == b""
        assert not self.reader._buffer  # type: ignore[attr-defined]

    def end(self) -> None:
        """Half-close: no more bytes from here."""
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        if sock is not None:  # not closed yet
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


class Origin:
    """A replica that does what the test says, connection by connection."""

    def __init__(self, replica_id: str) -> None:
        self.id = replica_id
        self.port = 0
        self.connections = 0
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._peers: list[Peer] = []

    async def start(self) -> Origin:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._arrived.put_nowait(peer)

    async def peer(self) -> Peer:
        """The next connection from the edge."""
        async with asyncio.timeout(PATIENCE):
            return await self._arrived.get()

    async def stop(self) -> None:
        """Stop listening: connects are refused from now on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.stop()
        for peer in self._peers:
            peer.close()

    def endpoint(self, ready: bool = True) -> Endpoint:
        return Endpoint(self.id, "127.0.0.1", self.port, ready)


class Conversation:
    """The edge, its source of routes, and everybody who talks to it."""

    def __init__(
        self,
        settings: GatewaySettings,
        log_fd: int | None = None,
        telemetry: Telemetry | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.settings = settings
        self.routes: dict[str, Route] = {}
        self.backends: dict[str, Backend] = {}
        self.woken: list[str] = []
        self.drained: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self.log = AccessLog(log_fd)
        self.edge = Edge(settings, Table(self), self.log, self, telemetry=telemetry, slots=slots)
        self.port = 0
        self.accidents: list[dict[str, object]] = []  # exceptions that nobody caught
        self._server: asyncio.Server | None = None
        self._ends: list[Callable[[], Awaitable[None] | None]] = []

    # the table's source and the edge's demand

    def route(self, host: str) -> Route | None:
        return self.routes.get(host)

    def backend(self, service_id: str) -> Backend | None:
        return self.backends.get(service_id)

    def wake(self, service_id: str) -> None:
        self.woken.append(service_id)

    def changed(self, service_id: str) -> None:
        self.drained.append(service_id)

    def answered(self, replica_id: str, first_byte: int) -> None:
        self.answers.append((replica_id, first_byte))

    # the test's side

    async def start(self) -> None:
        self.edge.start()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.accidents.append(context))
        self._server = await loop.create_server(self.edge.protocol_factory(), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def client(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        peer = Peer(reader, writer)
        self._ends.append(peer.close)
        return peer

    async def origin(self, replica_id: str = "replica-1") -> Origin:
        origin = await Origin(replica_id).start()
        self._ends.append(origin.close)
        return origin

    def serve(
        self,
        *endpoints: Endpoint,
        host: str = "app.test",
        phase: Phase = Phase.SERVING,
        reason: str | None = None,
        concurrency: int = 0,
        hold_timeout: int | None = None,
        affinity: str = "none",
        namespace: str = "acme",
        hold_keepalive: bool = False,
        waiting_page: bool = True,
    ) -> None:
        """The service behind `host` has these replicas now."""
        service = "service-" + host
        self.routes[host] = Route(service, namespace, "app")
        self.backends[service] = backend = Backend(
            service,
            namespace,
            "app",
            phase,
            reason,
            retry_after=1,
            endpoints=tuple(endpoints),
            concurrency=concurrency,
            hold_timeout=hold_timeout,
            affinity=affinity,
            hold_keepalive=hold_keepalive,
            waiting_page=waiting_page,
        )
        self.edge.update(backend)

    @property
    def held(self) -> int:
        return sum(load.held for load in self.edge.loads().values())

    @property
    def in_flight(self) -> int:
        return sum(load.in_flight for load in self.edge.loads().values())

    def count(self, host: str = "app.test") -> dict[str, int]:
        """Requests of a service by status."""
        counted: dict[str, int] = self.edge.counters()["services"].get("service-" + host, {}).get("requests", {})
        return counted

    async def stop(self) -> None:
        for end in self._ends:
            result = end()
            if result is not None:
                await result
        if self._server is not None:
            self._server.close()
        self.edge.close()
        await until(lambda: self.edge.connections == 0, "all connections closed")
        self.log.close()
        await until(lambda: self.in_flight == 0, "in flight ends at zero: with the connections to replicas")
        assert self.accidents == [], self.accidents
        assert self.held == 0


def log_pipe() -> tuple[int, int]:
    return os.pipe()


def fields(head: bytes) -> dict[bytes, list[bytes]]:
    """The fields of a head, names in lower case."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n")[1:]:
        if line:
            name, _, value = line.partition(b":")
            found.setdefault(name.lower(), []).append(value.strip())
    return found


def lines(*text: str, body: bytes = b"") -> bytes:
    """A message from its lines."""
    return "\r\n".join([*text, "", ""]).encode("latin-1") + body


def get(path: str = "/", *more: str, host: str = "app.test", method: str = "GET") -> bytes:
    return lines(f"{method} {path} HTTP/1.1", f"Host: {host}", *more)


def ok(body: bytes = b"", *more: str, status: str = "200 OK") -> bytes:
    return lines(f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, body=body)


def statuses(data: bytes) -> Iterable[int]:
    """The status codes of the responses in `data`, for answers without surprises."""
    return [int(piece[:3]) for piece in data.split(b"HTTP/1.1 ")[1:]]
