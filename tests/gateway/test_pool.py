"""Idle connections to replicas: how many are kept, for how long, and which go first."""

from __future__ import annotations

import contextlib
import os
import resource

import pytest
from parts import Line, a_connection
from wire import Conversation, Origin, Peer, Starter, get, ok, until

from gateway.pool import Pool
from gateway.replica import Replica
from gateway.sides import Upstream
from gateway.sweep import Sweep


def pool(timeout: float = 60.0, limit: int = 256, total: int = 4096) -> Pool:
    return Pool(Sweep(0.0), timeout, limit, total)


def given(made: Pool, replica: Replica, count: int, now: float = 0.0) -> list[tuple[Upstream, Line]]:
    connections = [a_connection(replica) for _ in range(count)]
    for at, (up, _) in enumerate(connections):
        made.give(replica, up, now + at, 0)
    return connections


def aborted(connections: list[tuple[Upstream, Line]]) -> list[bool]:
    return [line.aborted for _, line in connections]


def new_replica() -> Replica:
    return Replica("r", "127.0.0.1", 1)


def test_the_newest_is_taken_first_and_what_expired_never() -> None:
    made, replica = pool(timeout=10.0), new_replica()
    ups = given(made, replica, 3)
    assert made.take(replica, False, 5.0) is ups[2][0]
    assert ups[2][0].reused_at == 5.0
    assert made.take(replica, False, 10.5) is ups[1][0]
    assert made.take(replica, False, 10.5) is None
    assert aborted(ups) == [True, False, False]
    assert (made.size, replica.idle) == (0, [])


def test_more_than_enough_for_one_replica_are_closed() -> None:
    made, replica = pool(limit=2), new_replica()
    ups = given(made, replica, 3)
    assert aborted(ups) == [False, False, True]
    assert (made.size, made.closed) == (2, 1)


def test_too_many_in_all_close_those_that_have_been_idle_the_longest() -> None:
    made = pool(total=16)
    quiet, busy = new_replica(), new_replica()
    old = given(made, quiet, 8)
    young = given(made, busy, 30, 100.0)
    assert made.size <= 16
    assert all(aborted(old))
    assert not any(aborted(young[-14:]))
    assert made.closed == 38 - made.size
    assert made.size == len(quiet.idle) + len(busy.idle)


def test_a_worker_may_keep_none() -> None:
    made, replica = pool(total=0), new_replica()
    assert aborted(given(made, replica, 1)) == [True]


@pytest.mark.parametrize(("told", "kept"), [(0, 60.0), (5, 4.0), (1000, 60.0), (1, 0.0)])
def test_a_replica_that_told_how_long_is_believed(told: int, kept: float) -> None:
    made, replica = pool(), new_replica()
    up, line = a_connection(replica)
    made.give(replica, up, 100.0, told)
    assert line.aborted == (kept == 0.0)
    assert kept == 0.0 or up.usable_until == 100.0 + kept


def test_who_leaves_the_rotation_takes_them_along() -> None:
    made, replica = pool(), new_replica()
    ups = given(made, replica, 2)
    made.close(replica)
    replica.ready = False
    late = given(made, replica, 1)
    assert all(aborted(ups + late))
    assert (made.size, repr(made)) == (0, "<Pool 0/4096 of 0 replicas>")


# In bytes.


async def exchange(talk: Conversation, origin: Origin, *more: str) -> tuple[Peer, Peer]:
    """A request that has been answered: its client, and the replica's end of the connection."""
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"", *more))
    await client.head()
    return client, replica


async def test_a_replica_that_says_close_is_believed(talk: Conversation) -> None:
    origin = await talk.origin()
    client, replica = await exchange(talk, origin, "Connection: close")
    await replica.closed()
    await client.send(get("/2"))
    assert (await (await origin.peer()).head()).startswith(b"GET /2 ")
    assert talk.edge.counters()["services"]["service-app.test"]["retries"] == 0


async def test_http_1_0_without_keep_alive_too(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
    await client.head()
    await replica.closed()


async def test_an_idle_connection_expires(conversation: Starter) -> None:
    talk = await conversation(upstream_idle_timeout=0.3)
    origin = await talk.origin()
    _, replica = await exchange(talk, origin)
    await replica.closed()
    assert talk.edge._office.connections.pool.size == 0


async def test_of_many_that_end_only_so_many_are_kept(conversation: Starter) -> None:
    talk = await conversation(upstream_idle_limit=2)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    clients = [await talk.client() for _ in range(4)]
    for client in clients:
        await client.send(get())
    replicas = [await origin.peer() for _ in clients]
    for replica in replicas:
        await replica.head()
        await replica.send(ok())
    for client in clients:
        await client.head()
    kept = talk.edge._office.connections.pool
    await until(lambda: (kept.size, kept.closed) == (2, 2))
    for replica in replicas[2:]:
        await replica.closed()


async def test_a_replica_that_leaves_has_its_idle_connections_closed(talk: Conversation) -> None:
    origin = await talk.origin()
    _, replica = await exchange(talk, origin)
    talk.serve(origin.endpoint(ready=False))
    await replica.closed()


async def test_idle_connections_make_room_when_no_socket_is_left(conversation: Starter) -> None:
    """And the replica that could not be connected to gets its request, though nothing says when that was over."""
    talk = await conversation()
    idle, wanted = await talk.origin("idle"), await talk.origin("wanted")
    talk.serve(idle.endpoint(), host="idle.test")
    talk.serve(wanted.endpoint())
    clients = [await talk.client() for _ in range(16)]
    for client in clients:
        await client.send(get(host="idle.test"))
    for replica in [await idle.peer() for _ in clients]:
        await replica.head()
        await replica.send(ok())
    for client in clients:
        await client.head()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        await clients[0].send(get())
        await until(lambda: talk.edge._office.connections.pool.closed > 0)
    finally:
        for number in filling:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    replica = await wanted.peer()
    await replica.head()
    await replica.send(ok())
    assert (await clients[0].head()).startswith(b"HTTP/1.1 200 ")
    assert talk.edge.counters()["services"]["service-app.test"]["errors"]["connection_limit_reached"] >= 1
