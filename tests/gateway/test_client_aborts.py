"""A client that leaves, in every phase of its request: nobody works for it any more, and its place is free once.

"Within a second" is measured in the gateway's own sweeps, which come every 250 ms: a busy machine delays both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest
from wire import PATIENCE, Conversation, Origin, Peer, get, lines, ok, until

from state.models import Endpoint

WAYS = pytest.mark.parametrize("way", ["close", "reset", "end"])
SWEEPS = 3  # fewer than in a second


class Ticks:
    """How many sweeps there have been."""

    def __init__(self, talk: Conversation) -> None:
        self.count = 0
        talk.edge._sweep.hooks.append(self._tick)

    def _tick(self, now: float) -> None:
        self.count += 1


async def at_a_replica(talk: Conversation, request: bytes) -> tuple[Peer, Peer, Origin]:
    """A client that has sent `request`, and the replica that has read its head."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(request)
    replica = await origin.peer()
    await replica.head()
    return client, replica, origin


async def ended(replica: Peer) -> None:
    """Its connection is over, whatever came before."""
    with contextlib.suppress(ConnectionError):
        await replica.rest()


async def leave_in_time(talk: Conversation, client: Peer, way: str, ends: Awaitable[None], status: str = "499") -> None:
    """It leaves: within a second its connection to a replica is over (`ends`), its slot is free, and it is counted."""
    ticks = Ticks(talk)
    getattr(client, way)()
    await ends
    await until(lambda: (talk.in_flight, talk.held, talk.count()) == (0, 0, {status: 1}))
    assert ticks.count <= SWEEPS
    (service,) = talk.edge._table.services.values()
    assert service.in_flight == 0
    assert [replica.in_flight for replica in service.replicas.values()] in ([0], [])


async def nothing() -> None:
    """There is no connection that could end."""


async def piled_up(peer: Peer, full: Callable[[], bool]) -> None:
    """Write until the gateway doesn't take any more."""
    piece = b"x" * 65536
    async with asyncio.timeout(PATIENCE):
        while not full():
            if peer.writer.transport.get_write_buffer_size() < 1 << 20:
                peer.writer.write(piece)
            await asyncio.sleep(0)


def stops_reading(peer: Peer) -> None:
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]


@WAYS
@pytest.mark.parametrize("body", [b"", b"some of it: reading pauses"])
async def test_while_held(talk: Conversation, way: str, body: bytes) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get("/", "Content-Length: 100" if body else "X: y", method="PUT") + body)
    await until(lambda: talk.held == 1)
    await leave_in_time(talk, client, way, nothing())


@WAYS
async def test_while_connecting(talk: Conversation, unanswered: tuple[Endpoint, socket.socket], way: str) -> None:
    talk.serve(unanswered[0])
    client = await talk.client()
    await client.send(get("/", "Content-Length: 100", method="PUT"))
    await until(lambda: talk.in_flight == 1)
    await leave_in_time(talk, client, way, nothing())
    accepted: list[socket.socket] = []
    unanswered[1].setblocking(False)

    def kept() -> bool:
        with contextlib.suppress(BlockingIOError):
            accepted.append(unanswered[1].accept()[0])
        return talk.edge._office.connections.pool.size == 1

    await until(kept)  # for another request: this one never leaves
    for sock in accepted:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.close()


async def test_while_waiting_for_somebody_elses_connect(
    talk: Conversation, unanswered: tuple[Endpoint, socket.socket]
) -> None:
    """Those who have left don't pile up in the replica's queue, however many come and go."""
    talk.serve(unanswered[0])
    for _ in range(150):
        client = await talk.client()
        await client.send(get())
        await until(lambda: talk.in_flight == 1)
        client.reset()
        await until(lambda: talk.in_flight == 0)
    (replica,) = talk.edge._table.services["service-app.test"].ready
    assert len(replica.queue) <= 100
    assert talk.count() == {"499": 150}


@WAYS
async def test_while_the_body_comes(talk: Conversation, way: str) -> None:
    client, replica, _ = await at_a_replica(talk, get("/", "Content-Length: 100", method="POST") + b"abc")
    await replica.expect(b"abc")
    await leave_in_time(talk, client, way, ended(replica))


@WAYS
async def test_while_the_replica_takes_no_more_of_the_body(talk: Conversation, way: str) -> None:
    """The client isn't being read, so that only the kernel knows."""
    client, replica, _ = await at_a_replica(talk, get("/", f"Content-Length: {1 << 30}", method="POST"))
    stops_reading(replica)
    (connection,) = talk.edge._office.clients.all()
    async with asyncio.timeout(PATIENCE):
        while connection._reading:  # in pieces that the kernel takes at once, or its end would wait behind them
            if client.writer.transport.get_write_buffer_size() == 0:
                client.writer.write(b"x" * 16384)
            await asyncio.sleep(0)

    async def reads_again() -> None:
        await until(lambda: talk.in_flight == 0)
        replica.reader._transport.resume_reading()  # type: ignore[attr-defined]
        await ended(replica)

    await leave_in_time(talk, client, way, reads_again())


@WAYS
async def test_while_the_replica_thinks(talk: Conversation, way: str) -> None:
    client, replica, _ = await at_a_replica(talk, get())
    await leave_in_time(talk, client, way, ended(replica))


@WAYS
async def test_while_the_replica_thinks_and_further_requests_wait(talk: Conversation, way: str) -> None:
    client, replica, _ = await at_a_replica(talk, get())
    (connection,) = talk.edge._office.clients.all()
    while connection._reading:
        await client.send(get("/more") * 100)
        await asyncio.sleep(0)
    await leave_in_time(talk, client, way, ended(replica))


@WAYS
@pytest.mark.parametrize("framing", [[f"Content-Length: {1 << 20}"], ["Transfer-Encoding: chunked"], []])
async def test_while_the_answer_comes(talk: Conversation, way: str, framing: list[str]) -> None:
    client, replica, _ = await at_a_replica(talk, get())
    await replica.send(lines("HTTP/1.1 200 OK", *framing, body=b"3\r\nabc\r\n"))
    await client.through(b"abc")
    await leave_in_time(talk, client, way, ended(replica), "200")


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_while_the_client_takes_no_more_of_the_answer(talk: Conversation, way: str) -> None:
    client, replica, _ = await at_a_replica(talk, get())
    await replica.send(lines("HTTP/1.1 200 OK", f"Content-Length: {1 << 30}"))
    await client.head()
    stops_reading(client)
    (connection,) = talk.edge._office.clients.all()
    await piled_up(replica, lambda: connection.full)
    await leave_in_time(talk, client, way, ended(replica), "200")


@WAYS
async def test_while_it_is_sent_again(talk: Conversation, unanswered: tuple[Endpoint, socket.socket], way: str) -> None:
    """The first replica has failed, and the second is not reached yet."""
    first = await talk.origin("a")
    talk.serve(first.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await first.peer()
    await replica.head()
    talk.serve(unanswered[0])
    replica.close()
    service = talk.edge._table.services["service-app.test"]
    await until(lambda: service.retries == 1)
    assert talk.in_flight == 1
    await leave_in_time(talk, client, way, nothing())


async def test_the_next_one_has_the_slot(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=1)
    first, second = await talk.client(), await talk.client()
    await first.send(get("/1"))
    replica = await origin.peer()
    await replica.head()
    await second.send(get("/2"))
    await until(lambda: talk.held == 1)
    first.reset()
    replica = await origin.peer()
    assert (await replica.head()).startswith(b"GET /2 ")
    assert (talk.in_flight, talk.held) == (1, 0)
    await replica.send(ok())
    await second.head()
