"""Tunnels end as their two directions do: not a byte that was taken is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest
from wire import Conversation, Peer, get, lines, until

from gateway import tcp
from gateway.http1.server import ServerConnection

PIECE = os.urandom(32 * 1024)
MOST = 64 * 1024 * 1024  # bytes; the buffers on the way hold less


@pytest.fixture
async def ends(talk: Conversation) -> tuple[Peer, Peer]:
    """Client and replica of an open tunnel."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"))
    assert b" 101 " in await client.head()
    return client, replica


async def fill(client: Peer, enough: Callable[[], bool]) -> int:
    """Send until `enough`, which it is before all buffers on the way to a replica that doesn't read are full."""
    sent = 0
    while not enough():
        await client.send(PIECE)
        sent += len(PIECE)
        assert sent < MOST
        for _ in range(5):
            await asyncio.sleep(0.001)
    return sent


async def all_of(replica: Peer, size: int) -> None:
    replica.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await replica.exactly(size) == PIECE * (size // len(PIECE))
    await replica.closed()


async def test_a_client_that_half_closes_behind_a_slow_replica_has_not_left(
    ends: tuple[Peer, Peer], talk: Conversation
) -> None:
    client, replica = ends
    replica.writer.transport.pause_reading()  # type: ignore[attr-defined]
    clients = talk.edge._office.clients
    sent = await fill(client, lambda: bool(clients.paused))
    client.end()
    [down] = clients.all()
    assert isinstance(down, ServerConnection)
    await until(lambda: tcp.state_of(down._transport) == tcp.CLOSE_WAIT, "its FIN has come")
    for _ in range(3):
        down.look_for_leaving()  # as the sweep does
    assert talk.in_flight == 1
    await all_of(replica, sent)


async def test_what_the_client_sent_last_arrives_though_both_directions_are_over(
    ends: tuple[Peer, Peer], talk: Conversation
) -> None:
    client, replica = ends
    replica.end()
    await client.closed()
    replica.writer.transport.pause_reading()  # type: ignore[attr-defined]
    [down] = talk.edge._office.clients.all()
    assert isinstance(down, ServerConnection)
    up = down._exchange.up
    sent = await fill(client, lambda: up._transport.get_write_buffer_size() > 0)
    client.end()
    await until(lambda: talk.in_flight == 0, "the end of the second direction has come")
    await all_of(replica, sent)


async def test_it_counts_at_a_replica_that_leaves_until_it_ends(ends: tuple[Peer, Peer], talk: Conversation) -> None:
    """So that the replica is not asked to end before: while it drains, and when it is no endpoint any more."""
    client, replica = ends

    def counted() -> list[int]:
        return [count for load in talk.edge.loads().values() for count in load.replicas.values()]

    talk.serve()
    assert counted() == [1]
    await client.send(b"still here")
    await replica.expect(b"still here")
    assert counted() == [1]
    client.end()
    replica.end()
    await until(lambda: counted() == [])
