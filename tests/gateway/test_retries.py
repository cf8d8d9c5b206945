"""Sending again: the stale keep-alive race, the budget, and what is never sent twice."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest
from wire import Conversation, Origin, Peer, Starter, get, lines, ok, until


def counters(talk: Conversation, host: str = "app.test") -> dict[str, object]:
    found: dict[str, object] = talk.edge.counters()["services"]["service-" + host]
    return found


async def ask(client: Peer, request: bytes = b"") -> bytes:
    """One request and the head of its answer; bodies are empty here."""
    await client.send(request or get())
    return await client.head()


async def close_after_each_answer(origin: Origin, requests: list[bytes]) -> None:
    """A replica that says nothing of it and ends every connection behind its first response."""
    while True:
        replica = await origin.peer()
        requests.append(await replica.head())
        await replica.send(ok())
        replica.close()


async def test_a_replica_that_closes_behind_every_answer(talk: Conversation) -> None:
    """Whoever wins the race: every request is answered, none twice, and the only replica is never blamed."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    seen: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(close_after_each_answer(origin, seen))
        for at in range(100):
            assert (await ask(client, get(f"/{at}"))).startswith(b"HTTP/1.1 200 ")
        serving.cancel()
    assert [head.split(b" ")[1] for head in seen] == [b"/%d" % at for at in range(100)]
    counted = counters(talk)
    assert (counted["errors"], counted["retries_refused"], counted["ejections"]) == ({}, 0, 0)


async def kept(talk: Conversation, origin: Origin) -> tuple[Peer, Peer]:
    """A client, and the connection over which its first request went."""
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/first"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()
    return client, replica


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_the_race_lost_on_purpose_costs_nothing(talk: Conversation, way: str) -> None:
    """Ten times in a second: neither the budget (three a second) nor the replica's health has a part in it."""
    origin = await talk.origin()
    client, replica = await kept(talk, origin)
    for at in range(10):
        await client.send(get(f"/{at}", "Content-Length: 2", method="PUT") + b"ab")
        await replica.head()
        await replica.expect(b"ab")
        getattr(replica, way)()
        replica = await origin.peer()
        assert (await replica.head()).startswith(b"PUT /%d " % at)
        await replica.expect(b"ab")
        await replica.send(ok())
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    counted = counters(talk)
    assert (counted["retries"], counted["retries_refused"], counted["errors"]) == (10, 0, {})
    assert talk.edge._table.services["service-app.test"].ready[0].failures == 0


async def test_it_goes_over_a_fresh_connection_however_many_are_kept(talk: Conversation) -> None:
    """All kept connections may be as stale as the one that was: the second try takes none of them."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    clients = [await talk.client() for _ in range(3)]
    for client in clients:
        await client.send(get())
    replicas = [await origin.peer() for _ in clients]
    for replica in replicas:
        await replica.head()
        await replica.send(ok())
    for client in clients:
        await client.head()
    await clients[0].send(get("/again"))
    heads = [asyncio.ensure_future(replica.head()) for replica in replicas]
    (first,), others = await asyncio.wait(heads, return_when=asyncio.FIRST_COMPLETED)
    replicas[heads.index(first)].reset()
    fresh = await origin.peer()
    assert (await fresh.head()).startswith(b"GET /again ")
    await fresh.send(ok())
    await clients[0].head()
    for head in others:
        assert not head.done()
        head.cancel()
    await asyncio.wait(heads)
    assert origin.connections == 4


async def test_a_post_never_is_and_the_replica_is_not_blamed(talk: Conversation) -> None:
    origin = await talk.origin()
    client, replica = await kept(talk, origin)
    await client.send(get("/", "Content-Length: 2", method="POST") + b"ab")
    await replica.head()
    replica.reset()
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"closed a kept connection as the request was sent" in head
    assert origin.connections == 1
    assert talk.edge._table.services["service-app.test"].ready[0].failures == 0


def answer_and_close(replica: Peer) -> None:
    """Both are there before anybody has read either."""
    with socket.socket(fileno=os.dup(replica.writer.get_extra_info("socket").fileno())) as sock:
        sock.sendall(ok())
        sock.shutdown(socket.SHUT_RDWR)


async def test_a_post_takes_no_connection_that_the_replica_has_closed(talk: Conversation) -> None:
    """Even one that comes straight from the request before it."""
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=1)
    first, second = await talk.client(), await talk.client()
    await first.send(get("/1"))
    replica = await origin.peer()
    await replica.head()
    await second.send(get("/2", "Content-Length: 2", method="POST") + b"ab")
    await until(lambda: talk.held == 1)
    answer_and_close(replica)
    replica = await origin.peer()
    assert (await replica.head()).startswith(b"POST /2 ")
    await replica.expect(b"ab")
    await replica.send(ok())
    assert (await first.head()).startswith(b"HTTP/1.1 200 ")
    assert (await second.head()).startswith(b"HTTP/1.1 200 ")


async def test_nor_does_one_that_waited_for_a_connection(conversation: Starter) -> None:
    """The one that comes free is closed already: it waits on for a new one."""
    talk = await conversation(connect_spacing=3600.0)  # a connection is accepted when its first response comes
    origin = await talk.origin()
    client, first = await kept(talk, origin)
    await client.send(get("/again"))
    await first.head()
    others = []
    for _ in range(3):  # as many new ones as may be on the way
        other = await talk.client()
        await other.send(get("/slow"))
        others.append(await origin.peer())
    waiting = await talk.client()
    await waiting.send(get("/last", "Content-Length: 2", method="POST") + b"ab")
    (replica,) = talk.edge._table.services["service-app.test"].ready
    await until(lambda: len(replica.queue) == 1)
    answer_and_close(first)
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await others[0].head()
    await others[0].send(ok(b"", "Connection: close"))
    last = await origin.peer()
    assert (await last.head()).startswith(b"POST /last ")
    await last.expect(b"ab")
    await last.send(ok())
    assert (await waiting.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_crash_over_a_kept_connection_is_counted_the_second_time(talk: Conversation) -> None:
    """A request that kills its replica looks like the race once."""
    origin = await talk.origin()
    client, replica = await kept(talk, origin)
    await client.send(get("/deadly"))
    for _ in range(4):
        await replica.head()
        replica.close()
        replica = await origin.peer() if origin.connections < 4 else replica
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert origin.connections == 4, "the stale one, and three tries"
    assert counters(talk)["errors"] == {"connection_terminated": 3}


async def fail_all(origin: Origin) -> None:
    while True:
        replica = await origin.peer()
        replica.close()


async def test_over_the_budget_it_is_502_and_says_so(talk: Conversation) -> None:
    """Five requests at once that fail: each would be tried three times, the reserve has three retries in all."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    clients = [await talk.client() for _ in range(5)]
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        failing = tasks.create_task(fail_all(origin))
        for client in clients:
            await client.send(get())
        heads = [await client.head() for client in clients]
        failing.cancel()
    assert all(head.startswith(b"HTTP/1.1 502 ") for head in heads)
    refused = [head for head in heads if b"not sent again" in head]
    assert all(b"error=connection_terminated; details=" in head for head in refused)
    counted = counters(talk)
    retries = int(str(counted["retries"]))
    assert counted["retries_refused"] == len(refused)
    assert 3 <= retries <= 3 + 3 * (time.monotonic() - began)
    assert refused or retries == 10, "a very slow machine"
    assert origin.connections == 5 + retries


async def test_one_service_has_nothing_to_do_with_another(talk: Conversation) -> None:
    bad, good = await talk.origin("bad"), await talk.origin("good")
    talk.serve(bad.endpoint(), host="bad.test")
    talk.serve(good.endpoint())
    async with asyncio.TaskGroup() as tasks:
        failing = tasks.create_task(fail_all(bad))
        for _ in range(4):
            assert (await ask(await talk.client(), get(host="bad.test"))).startswith(b"HTTP/1.1 502 ")
        failing.cancel()
    client = await talk.client()
    await client.send(get())
    (await good.peer()).close()
    replica = await good.peer()
    await replica.head()
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_connects_that_fail_have_another_bound_than_the_budget(conversation: Starter) -> None:
    """A hundred requests find one of two replicas gone: all are served, and few have tried it."""
    talk = await conversation()
    dead, alive = await talk.origin("dead"), await talk.origin("alive")
    await dead.stop()
    talk.serve(dead.endpoint(), alive.endpoint())
    clients = [await talk.client() for _ in range(100)]

    async def serve() -> None:
        while True:
            replica = await alive.peer()
            await replica.head()
            await replica.send(lines("HTTP/1.1 200 OK", "Content-Length: 0", "Connection: close"))

    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve())
        for client in clients:
            await client.send(get("/", "Content-Length: 0", method="POST"))
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        serving.cancel()
    counted = counters(talk)
    assert counted["retries_refused"] == 0
    assert 0 < int(str(counted["retries"])) <= 100
    assert counted["ejections"] == 1 or int(str(counted["retries"])) > 2
