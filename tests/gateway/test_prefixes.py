"""`scaling.affinity: "prefix"` in bytes: where prompts go, what is waited for, and what isn't."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wire import Conversation, Origin, Peer, get, lines, ok, until

from gateway.prompts import key
from gateway.rendezvous import prefer, seed
from gateway.replica import Replica

CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"


def chat(said: str, *behind: str) -> bytes:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": said}]
    messages += [{"role": "assistant", "content": text} for text in behind]
    return json.dumps({"model": "m", "messages": messages}).encode()


def post(body: bytes, *more: str, path: str = CHAT) -> bytes:
    return get(path, JSON, f"Content-Length: {len(body)}", *more, method="POST") + body


async def several(talk: Conversation, count: int = 3, **more: Any) -> list[Origin]:
    origins = [await talk.origin(f"r{at}") for at in range(count)]
    talk.serve(*[origin.endpoint() for origin in origins], affinity="prefix", **more)
    return origins


def preferred(body: bytes, count: int = 3) -> int:
    replicas = [Replica(f"r{at}", "", 1) for at in range(count)]
    for replica in replicas:
        replica.seed = seed(replica.id)
    found = prefer(replicas, key(body, True))
    assert found is not None
    return replicas.index(found)


async def arrived(origins: list[Origin]) -> int:
    """At which of them the next connection is."""
    await until(lambda: any(not origin._arrived.empty() for origin in origins))
    return next(at for at, origin in enumerate(origins) if not origin._arrived.empty())


async def answered(origins: list[Origin], client: Peer) -> int:
    at = await arrived(origins)
    replica = await origins[at].peer()
    await replica.head()
    await replica.send(ok(b"", "Connection: close"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    return at


async def test_conversations_come_back_to_their_replica(talk: Conversation) -> None:
    origins = await several(talk)
    client = await talk.client()
    used = set()
    for said in range(8):
        turns: list[str] = []
        for turn in range(3):
            body = chat(str(said), *turns)
            await client.send(post(body))
            at = await answered(origins, client)
            assert at == preferred(chat(str(said)))
            used.add(at)
            turns.append(f"turn {turn}")
    assert len(used) > 1


@pytest.mark.parametrize("pieces", ["head apart", "small", "chunked"])
async def test_a_body_that_comes_later_is_waited_for(talk: Conversation, pieces: str) -> None:
    origins = await several(talk)
    client = await talk.client()
    body = chat("hello")
    coded = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    length = "Transfer-Encoding: chunked" if pieces == "chunked" else f"Content-Length: {len(body)}"
    await client.send(get(CHAT, JSON, length, method="POST"))
    await client.silent()
    assert talk.in_flight == talk.held == 0
    assert all(origin.connections == 0 for origin in origins)
    if pieces == "small":
        for at in range(len(body)):
            await client.send(body[at : at + 1])
    else:
        await client.send(coded if pieces == "chunked" else body)
    at = await arrived(origins)
    assert at == preferred(body)
    replica = await origins[at].peer()
    await replica.head()
    if pieces == "chunked":
        assert (await replica.through(b"0\r\n\r\n")).count(body) == 1
    else:
        await replica.expect(body)
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.send(post(chat("next")))
    await until(lambda: talk.in_flight == 1)


async def test_nor_for_long(talk: Conversation) -> None:
    origins = await several(talk)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Content-Length: 100", method="POST") + b'{"mess')
    at = await arrived(origins)
    replica = await origins[at].peer()
    await replica.head()
    await replica.expect(b'{"mess')
    await client.send(b"x" * 94)
    await replica.expect(b"x" * 94)
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_who_leaves_meanwhile_reaches_nobody(talk: Conversation) -> None:
    origins = await several(talk)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Content-Length: 100", method="POST") + b'{"mess')
    await client.silent()
    client.close()
    await until(lambda: talk.count() == {"499": 1})
    assert all(origin.connections == 0 for origin in origins)


@pytest.mark.parametrize(
    "request_",
    [
        get("/"),
        post(chat("x"), path="/other"),
        get(CHAT, "Content-Type: text/plain", "Content-Length: 5", method="POST"),
        get(CHAT, JSON, "Content-Length: 5", "Expect: 100-continue", method="POST"),
    ],
)
async def test_others_are_not_waited_for(talk: Conversation, request_: bytes) -> None:
    origins = await several(talk)
    client = await talk.client()
    await client.send(request_)
    await arrived(origins)
    assert talk.in_flight == 1


async def test_a_single_replica_is_not_waited_for_either(talk: Conversation) -> None:
    origins = await several(talk, 1)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Content-Length: 5", method="POST"))
    await arrived(origins)


async def test_full_it_goes_to_the_second_and_always_the_same(talk: Conversation) -> None:
    origins = await several(talk, concurrency=1)
    body = chat("hello")
    first = await talk.client()
    await first.send(post(body))
    at = await arrived(origins)
    assert at == preferred(body)
    busy = await origins[at].peer()
    await busy.head()
    seconds = set()
    for _ in range(4):
        client = await talk.client()
        await client.send(post(body))
        seconds.add(await answered(origins, client))
        client.close()
    assert len(seconds) == 1
    assert at not in seconds
    await busy.send(ok())
    await first.head()


async def test_held_ones_go_to_theirs_when_they_wake(talk: Conversation) -> None:
    talk.serve(affinity="prefix")
    bodies = [chat(str(said)) for said in range(6)]
    for at, body in enumerate(bodies):
        client = await talk.client()
        await client.send(post(body))
        await until(lambda at=at: talk.held == at + 1)
    origins = await several(talk, 2)
    await until(lambda: talk.held == 0)
    for _ in bodies:
        at = await arrived(origins)
        replica = await origins[at].peer()
        await replica.head()
        got = await replica.through(b"]}")
        await replica.send(ok(b"", "Connection: close"))
        assert got in bodies
    assert all(origin.connections for origin in origins)


async def test_broken_chunks_are_refused_as_ever(talk: Conversation) -> None:
    origins = await several(talk)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Transfer-Encoding: chunked", method="POST"))
    await client.silent()
    await client.send(b"zz\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    await until(lambda: talk.in_flight == 0)
    assert sum(origin.connections for origin in origins) <= 1


async def test_the_service_can_go_while_it_waits(talk: Conversation) -> None:
    await several(talk)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Content-Length: 10", method="POST"))
    await client.silent()
    talk.edge.forget("service-app.test")
    await client.send(b'{"a": "b"}')
    head = await client.head()
    assert head.startswith(lines("HTTP/1.1 503 Service Unavailable")[:-4])


async def test_of_what_comes_in_tiny_chunks_no_more_is_taken_than_is_looked_at(talk: Conversation) -> None:
    origins = await several(talk)
    client = await talk.client()
    await client.send(get(CHAT, JSON, "Transfer-Encoding: chunked", method="POST"))
    await client.silent()
    content = b'{"messages":["' + b"x" * 30_000 + b'"]}'
    coded = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    await client.send(coded)
    at = await arrived(origins)
    replica = await origins[at].peer()
    await replica.head()
    got = await replica.through(b"\r\n0\r\n\r\n")
    assert got.count(b"x") == 30_000
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
