"""The clients of the soak. Each does one thing again and again, knows what it must get, and says so when it does not.

A client is a coroutine that does its thing once. What it may see besides: between two requests of a connection the
gateway may have closed it (a `Cut` that has not begun, on a connection that was used before), which any client answers
with a new connection; and when workers are killed on purpose, anything for a moment (`World.disturbed_until`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.soak.talking import Connection, Cut, Reply, request

PATTERN = bytes(range(256)) * 256
_SHOWN = 200  # things that went wrong and are told with their details


class Wrong(Exception):
    """Something else came than had to come."""


@dataclass
class World:
    """What clients share. Ports and names, the tallies, and whether to end."""

    http: int
    https: int
    context: ssl.SSLContext
    hosts: dict[str, str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stale: int = 0  # connections that were closed between two requests
    excused: int = 0  # failures while workers were being killed
    disturbed_until: float = 0.0
    began: float = field(default_factory=time.monotonic)

    async def connect(self, host: str, secure: bool = False) -> Connection:
        if secure:
            return await Connection.open(self.https, self.context, self.hosts[host])
        return await Connection.open(self.http)

    def note(self, kind: str, what: object, began: float) -> None:
        """Something went wrong for a client that began at `began`."""
        if began < self.disturbed_until:
            self.excused += 1
            return
        self.failed[kind] += 1
        if len(self.wrong) < _SHOWN:
            self.wrong.append(f"{time.monotonic() - self.began:7.1f} s  {kind}: {what}")


Client = Callable[[World], Awaitable[None]]


async def repeat(world: World, kind: str, client: Client, pause: float) -> None:
    """Until the end: the thing, and a pause of this length on average."""
    while not world.stop.is_set():
        began = time.monotonic()
        try:
            await client(world)
            world.done[kind] += 1
        except (Wrong, Cut, OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            world.note(kind, repr(error), began)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, 2 * pause)):
                await world.stop.wait()


def must(condition: bool, what: object) -> None:
    if not condition:
        raise Wrong(what)


def check(reply: Reply, status: int = 200, body: bytes | None = b"hello") -> None:
    must(reply.status == status, f"{reply.status} instead of {status}: {reply.fields.get('proxy-status')}")
    must(body is None or reply.body == body, f"another body ({len(reply.body)} bytes)")
    must("x-request-id" in reply.fields, "no request id")


@contextlib.asynccontextmanager
async def connection(world: World, host: str = "steady", secure: bool = False):  # type: ignore[no-untyped-def]
    one = await world.connect(host, secure)
    try:
        yield one
    finally:
        one.close()


# Well-behaved clients


async def keep_alive(world: World, secure: bool = False, most: int = 60) -> None:
    """Many requests over one connection."""
    one = await world.connect("steady", secure)
    try:
        for number in range(random.randint(1, most)):
            try:
                await one.send(request("/hello", world.hosts["steady"], "User-Agent: soak"))
                check(await one.reply())
            except (Cut, ConnectionError) as error:
                if number == 0 or (isinstance(error, Cut) and error.begun):
                    raise
                world.stale += 1
                return
            await asyncio.sleep(random.uniform(0, 0.05))
    finally:
        one.close()


async def keep_alive_tls(world: World) -> None:
    await keep_alive(world, secure=True)


async def handshakes(world: World) -> None:
    await keep_alive(world, secure=True, most=1)


async def fresh(world: World) -> None:
    """A connection for each request, also in HTTP/1.0, with HEAD and with 103."""
    async with connection(world) as one:
        way = random.choice(("close", "1.0", "HEAD", "interim"))
        host = world.hosts["steady"]
        if way == "HEAD":
            await one.send(request("/hello", host, method="HEAD"))
            check(await one.reply("HEAD"), body=b"")
        elif way == "interim":
            await one.send(request("/interim", host))
            reply = await one.reply()
            check(reply)
            must(reply.interim == [103], reply.interim)
        else:
            version = "1.0" if way == "1.0" else "1.1"
            await one.send(request("/hello", host, "Connection: close", version=version))
            check(await one.reply())
            must(await one.ended() == b"", "something behind the answer")


async def download(world: World) -> None:
    """A large answer, with its length or in chunks, sometimes read slowly."""
    size = random.choice((0, 1, 65536, 300_000, 4_000_000))
    path = random.choice(("size", "chunked"))
    async with connection(world, secure=random.random() < 0.2) as one:
        await one.send(request(f"/{path}?n={size}", world.hosts["steady"]))
        if random.random() < 0.3:
            await asyncio.sleep(0.5)
        reply = await one.reply()
        check(reply, body=(PATTERN * (size // len(PATTERN) + 1))[:size])
        must(path == "size" or reply.trailers == {"x-done": "yes"}, f"trailers {reply.trailers}")


async def upload(world: World) -> None:
    """A large body, with its length, in chunks with a trailer, or after 100 Continue."""
    size = random.choice((0, 1, 65536, 300_000, 3_000_000))
    way = random.choice(("length", "chunks", "continue"))
    body = (PATTERN * (size // len(PATTERN) + 1))[:size]
    host = world.hosts["steady"]
    async with connection(world, secure=random.random() < 0.2) as one:
        if way == "chunks":
            await one.send(request("/echo", host, "Transfer-Encoding: chunked", method="POST"))
            for at in range(0, size, 50_000):
                piece = body[at : at + 50_000]
                await one.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await one.send(b"0\r\nX-Trailer: soak\r\n\r\n")
        else:
            expect = ("Expect: 100-continue",) if way == "continue" and size else ()
            await one.send(request("/echo", host, f"Content-Length: {size}", *expect, method="POST"))
            if expect:
                await asyncio.sleep(0.02)
            await one.send(body)
        check(await one.reply(), body=f"{size} {hashlib.sha256(body).hexdigest()}".encode())


async def pipelining(world: World) -> None:
    """Several requests at once; the answers come in their order."""
    async with connection(world) as one:
        sizes = [random.choice((0, 1, 2000, 100_000)) for _ in range(random.randint(2, 8))]
        await one.send(b"".join(request(f"/size?n={size}", world.hosts["steady"]) for size in sizes))
        for number, size in enumerate(sizes):
            try:
                check(await one.reply(), body=(PATTERN * 2)[:size])
            except Cut as cut:
                if number == 0 or cut.begun:
                    raise
                world.stale += 1
                return


async def sleeper(world: World) -> None:
    """A service that has fallen asleep, or is just about to."""
    host = world.hosts[random.choice(("sleepy-1", "sleepy-2"))]
    async with connection(world) as one:
        await one.send(request("/hello", host))
        check(await one.reply())


async def queueing(world: World) -> None:
    """More at once than the service takes: held in order."""
    async with connection(world) as one:
        await one.send(request(f"/slow?ms={random.randint(10, 60)}", world.hosts["narrow"]))
        check(await one.reply())


async def events(world: World) -> None:
    """Server-sent events come one by one."""
    async with connection(world, secure=random.random() < 0.3) as one:
        count = random.randint(3, 20)
        await one.send(request(f"/events?n={count}&ms=100", world.hosts["steady"], "Accept: text/event-stream"))
        async with asyncio.timeout(30):
            await one.reader.readuntil(b"\r\n\r\n")
            for number in range(count):
                await one.reader.readuntil(b"id: %d\n" % number)
            await one.reader.readuntil(b"0\r\n\r\n")


async def tunnel(world: World) -> None:
    """A WebSocket: what goes in comes out, until one side has enough."""
    async with connection(world, secure=random.random() < 0.3) as one:
        await one.send(request("/", world.hosts["steady"], "Connection: Upgrade", "Upgrade: websocket"))
        reply = await one.reply()
        must(reply.status == 101, f"{reply.status} instead of 101")
        for _ in range(random.randint(1, 20)):
            data = os.urandom(random.choice((1, 100, 5000, 200_000)))
            async with asyncio.timeout(30):
                one.writer.write(data)
                must(await one.reader.readexactly(len(data)) == data, "other bytes came back")
            await asyncio.sleep(random.uniform(0, 0.2))


# Bad replicas


async def broken(world: World) -> None:
    """What a broken replica does is visible, and never a complete answer."""
    path = random.choice(("/reset", "/close", "/malformed", "/badchunk", "/cut", "/early", "/hello"))
    host = world.hosts["broken"]
    async with connection(world) as one:
        if path == "/early":
            await one.send(request(path, host, "Content-Length: 200000", method="POST"))
            with contextlib.suppress(ConnectionError):
                await one.send(PATTERN[:50_000])
            # Closing with unread bytes resets the connection: whether the answer survives it is up to the kernel.
            reply = await one.reply()
            check(reply, 502, None) if reply.status == 502 else check(reply, 413, b"no")
            return
        await one.send(request(path, host))
        if path in ("/badchunk", "/cut"):
            try:
                reply = await one.reply()
            except Cut:
                return
            check(reply, 502, None)  # it was seen before anything was sent
            return
        reply = await one.reply()
        if path == "/hello":
            check(reply)
        else:
            check(reply, 502, None)


# Bad clients

REFUSED = (
    (b"nonsense\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n", 404),
)


async def nonsense(world: World) -> None:
    data, status = random.choice(REFUSED)
    async with connection(world) as one:
        await one.send(data)
        check(await one.reply(), status, None)
        must(await one.ended() == b"", "something behind the answer")


async def leaving(world: World) -> None:
    """A client that is gone in some phase, politely or not."""
    phase = random.choice(tuple(_PHASES))
    if phase == "woken" and random.random() < 0.95:  # else nothing would ever fall asleep
        phase = "held"
    name = {"held": "narrow", "woken": random.choice(("sleepy-1", "sleepy-2"))}.get(phase, "steady")
    secure = random.random() < 0.2
    one = await Connection.open(world.https) if phase == "handshake" else await world.connect(name, secure)
    for data in _PHASES[phase]:
        await one.send(data.replace(b"HOST", world.hosts[name].encode()))
    if phase in ("download", "tunnel"):
        await one.reader.read(1000)
    await asyncio.sleep(random.choice((0, 0, 0.01, 0.3)))
    if random.random() < 0.5:
        one.reset()
    else:
        one.close()


_PHASES: dict[str, tuple[bytes, ...]] = {
    "connected": (),
    "handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),
    "head": (b"GET /hello HTTP/1.1\r\nHo",),
    "asked": (b"GET /slow?ms=2000 HTTP/1.1\r\nHost: HOST\r\n\r\n",),
    "held": (b"GET /slow?ms=50 HTTP/1.1\r\nHost: HOST\r\n\r\n",),
    "woken": (b"GET /hello HTTP/1.1\r\nHost: HOST\r\n\r\n",),
    "upload": (b"POST /echo HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000000\r\n\r\n", PATTERN),
    "chunks": (
        b"POST /echo HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"ffff\r\n" + PATTERN[:9999],
    ),
    "download": (b"GET /size?n=8000000 HTTP/1.1\r\nHost: HOST\r\n\r\n",),
    "pipelined": (b"GET /size?n=500000 HTTP/1.1\r\nHost: HOST\r\n\r\n" * 5,),
    "events": (b"GET /events?n=50&ms=50 HTTP/1.1\r\nHost: HOST\r\n\r\n",),
    "tunnel": (
        b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        PATTERN,
    ),
}

# Who there is: how many of each, and their pauses in seconds.
CLIENTS: dict[str, tuple[Client, int, float]] = {
    "keep-alive": (keep_alive, 6, 0.1),
    "keep-alive, TLS": (keep_alive_tls, 3, 0.1),
    "handshakes": (handshakes, 1, 0.2),
    "new connections": (fresh, 4, 0.1),
    "downloads": (download, 2, 0.3),
    "uploads": (upload, 2, 0.3),
    "pipelining": (pipelining, 2, 0.2),
    "sleeping services": (sleeper, 3, 6.0),
    "full services": (queueing, 8, 0.05),
    "events": (events, 4, 0.2),
    "tunnels": (tunnel, 4, 0.2),
    "broken replicas": (broken, 3, 0.1),
    "bad requests": (nonsense, 2, 0.1),
    "clients that leave": (leaving, 6, 0.1),
}
