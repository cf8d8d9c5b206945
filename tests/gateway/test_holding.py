"""Holding: admitted, released, refused, expired, left; nothing is lost and no replica sees who has gone."""

from __future__ import annotations

import socket

import pytest
from wire import Conversation, Peer, Starter, fields, get, ok, until

from state.models import Endpoint, Phase, Route


async def test_held_until_a_replica_is_ready(talk: Conversation) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get("/", "Content-Length: 5", method="POST") + b"he")
    await until(lambda: talk.held == 1)
    assert talk.woken == ["service-app.test"]
    await client.send(b"llo")
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.expect(b"hello")
    await replica.send(ok(b"done"))
    timing = fields(await client.head())[b"server-timing"]
    assert timing[0].startswith(b"wake;dur=")
    await client.expect(b"done")
    assert talk.edge.counters()["services"]["service-app.test"]["hold"]


async def test_released_in_order(talk: Conversation) -> None:
    talk.serve(concurrency=1)
    clients = []
    for at in range(5):
        client = await talk.client()
        await client.send(get(f"/{at}"))
        await until(lambda at=at: talk.held == at + 1)
        clients.append(client)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=1)
    replica = await origin.peer()
    for at, client in enumerate(clients):
        assert (await replica.head()).startswith(b"GET /%d " % at)
        assert talk.in_flight == 1
        await replica.send(ok())
        await client.head()


async def test_a_full_room_refuses_at_once(conversation: Starter) -> None:
    talk = await conversation(hold_limit=2)
    talk.serve()
    for at in range(2):
        await (await talk.client()).send(get())
        await until(lambda at=at: talk.held == at + 1)
    client = await talk.client()
    await client.send(get())
    head = await client.head()
    assert talk.held == 2, "the others still wait"
    assert head.startswith(b"HTTP/1.1 503 ")
    assert fields(head)[b"retry-after"] == [b"1"]


async def test_held_for_too_long_is_504(talk: Conversation) -> None:
    talk.serve(hold_timeout=1)
    client = await talk.client()
    await client.send(get())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert talk.held == 0


@pytest.mark.parametrize("body", [b"", b"part of the body: reading pauses"])
@pytest.mark.parametrize("way", ["close", "reset", "end"])
async def test_who_leaves_frees_the_place_and_no_replica_sees_it(talk: Conversation, body: bytes, way: str) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get("/gone", "Content-Length: 100" if body else "X: y", method="PUT") + body)
    await until(lambda: talk.held == 1)
    getattr(client, way)()
    await until(lambda: talk.held == 0)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    other = await talk.client()
    await other.send(get("/here"))
    replica = await origin.peer()
    assert (await replica.head()).startswith(b"GET /here ")
    assert origin.connections == 1
    assert talk.count() == {"499": 1}


async def test_refusing_says_why(talk: Conversation) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get())
    await until(lambda: talk.held == 1)
    talk.serve(phase=Phase.REFUSING, reason='port 8080 was "never" opened')
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"details=\"port 8080 was 'never' opened\"" in head
    assert fields(head)[b"retry-after"] == [b"1"]


async def test_deleted_while_held_and_afterwards(talk: Conversation) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get())
    await until(lambda: talk.held == 1)
    talk.routes["app.test"] = Route("service-app.test", "acme", "app", deleted_at=1)
    talk.edge.reroute("app.test")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b'details="deleted"' in head
    second = await talk.client()
    await second.send(get())
    assert b'details="deleted"' in await second.head()


async def test_a_refused_connect_goes_to_another_replica(talk: Conversation) -> None:
    dead, alive = await talk.origin("dead"), await talk.origin("alive")
    await dead.stop()
    talk.serve(dead.endpoint(), alive.endpoint())
    for _ in range(6):
        client = await talk.client()
        await client.send(get("/", "Content-Length: 2", method="POST") + b"ab")
    for _ in range(6):
        replica = await alive.peer()
        await replica.head()
        await replica.expect(b"ab")
        await replica.send(ok(b"", "Connection: close"))
    await until(lambda: talk.count() == {"200": 6})


async def test_the_only_replica_refuses_so_the_request_is_held(talk: Conversation) -> None:
    origin = await talk.origin()
    await origin.stop()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Content-Length: 2", method="POST") + b"ab")
    await until(lambda: talk.held == 1)
    other = await talk.origin("replica-2")
    talk.serve(other.endpoint())
    replica = await other.peer()
    await replica.head()
    await replica.expect(b"ab")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_replica_that_comes_back_gets_the_held_ones(talk: Conversation) -> None:
    origin = await talk.origin()
    await origin.stop()
    talk.serve(origin.endpoint())
    clients = [await talk.client() for _ in range(3)]
    for client in clients:
        await client.send(get())
    await until(lambda: talk.held == 3)
    await origin.start()
    for _ in clients:
        replica = await origin.peer()
        await replica.head()
        await replica.send(ok(b"", "Connection: close"))
    for client in clients:
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_draining_replica_reports_its_last_request(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    talk.serve(origin.endpoint(ready=False))
    assert talk.drained == []
    second = await talk.client()
    await second.send(get())
    await until(lambda: talk.held == 1)
    await replica.send(ok())
    await client.head()
    assert talk.drained == ["service-app.test"]
    await replica.closed()  # nothing is kept open to a replica that leaves
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await second.head()


async def test_a_burst_shares_few_connects(talk: Conversation) -> None:
    talk.serve()
    clients = [await talk.client() for _ in range(20)]
    for at, client in enumerate(clients):
        await client.send(get(f"/{at}"))
        await until(lambda at=at: talk.held == at + 1)
    clients[5].close()
    await until(lambda: talk.held == 19)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    assert talk.in_flight == 19
    clients[6].close()
    await until(lambda: talk.in_flight == 18)
    paths = []
    while len(paths) < 18:
        replica = await origin.peer()
        paths.append((await replica.head()).split()[1])
        await replica.send(ok(b"", "Connection: close"))
    assert sorted(paths) == sorted(b"/%d" % at for at in range(20) if at not in (5, 6))
    for at, client in enumerate(clients):
        if at not in (5, 6):
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def many(talk: Conversation, count: int) -> list[Peer]:
    """Clients whose requests, `/0`, `/1`…, are held in this order."""
    clients = [await talk.client() for _ in range(count)]
    for at, client in enumerate(clients):
        await client.send(get(f"/{at}"))
        await until(lambda at=at: talk.held == at + 1)
    return clients


MANY = 150  # more than two turns of the loop let go of


async def test_many_are_let_go_in_turns_and_in_order(
    conversation: Starter, unanswered: tuple[Endpoint, socket.socket]
) -> None:
    talk = await conversation(hold_limit=MANY)
    talk.serve()
    await many(talk, MANY)
    talk.serve(unanswered[0])
    assert 0 < talk.held < MANY, "the others have their turn"
    late = await talk.client()
    await late.send(get("/late"))
    await until(lambda: talk.in_flight == MANY + 1)
    queue = talk.edge._table.services["service-app.test"].replicas["unanswered"].queue
    waiting = [exchange.request.target for exchange in queue]
    assert waiting == [b"/%d" % at for at in range(MANY - len(waiting) + 1, MANY)] + [b"/late"]
    assert len(waiting) > MANY // 2


@pytest.mark.parametrize("way", ["refusing", "deleted", "route", "late"])
async def test_many_are_told_in_turns_that_it_is_in_vain(conversation: Starter, way: str) -> None:
    talk = await conversation(hold_limit=MANY)
    talk.serve()
    clients = await many(talk, MANY)
    if way == "refusing":
        talk.serve(phase=Phase.REFUSING)
    elif way == "deleted":
        talk.edge.forget("service-app.test")
    elif way == "route":
        del talk.routes["app.test"]
        talk.edge.reroute("app.test")
    else:
        talk.serve(hold_timeout=0)
    assert talk.held > 0, "the others have their turn"
    status = {"route": b"404", "late": b"504"}.get(way, b"503")
    for client in clients:
        assert (await client.head()).startswith(b"HTTP/1.1 %s " % status)
    assert talk.held == 0


async def test_those_that_a_replica_turns_away_keep_their_order(conversation: Starter) -> None:
    talk = await conversation(hold_limit=MANY)
    talk.serve()
    await many(talk, MANY)
    dead = await talk.origin("dead")
    await dead.stop()
    talk.serve(dead.endpoint())
    await until(lambda: talk.held == MANY)
    alive = await talk.origin("alive")
    talk.serve(alive.endpoint(), concurrency=1)
    replica = await alive.peer()
    for at in range(MANY):
        assert (await replica.head()).startswith(b"GET /%d " % at)
        await replica.send(ok())


@pytest.mark.parametrize(("limit", "each"), [(1, b"1 request"), (3, b"3 requests")])
async def test_who_waited_too_long_for_a_slot_is_told_how_many_there_are(
    conversation: Starter, limit: int, each: bytes
) -> None:
    talk = await conversation(hold_timeout=0.3)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=limit)
    clients = [await talk.client() for _ in range(limit + 1)]
    for client in clients:
        await client.send(get())
    head = await clients[-1].head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"no replica had a slot within the hold timeout: each takes %b at once" % each in head
