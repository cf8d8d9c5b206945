"""`Server-Timing: wake;dur=MS` (SPEC section 3): on what was held, beside what the replica says of itself."""

from __future__ import annotations

import re

from wire import Conversation, Starter, fields, get, lines, ok, until


async def test_the_replicas_own_entries_stay(talk: Conversation) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get())
    await until(lambda: talk.held == 1)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"", "Server-Timing: db;dur=53, app", 'server-timing: cache;desc="a, b"'))
    first, second, ours = fields(await client.head())[b"server-timing"]
    assert (first, second) == (b"db;dur=53, app", b'cache;desc="a, b"')
    assert re.fullmatch(rb"wake;dur=\d+", ours)


async def test_a_warm_request_has_only_the_replicas(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"", "Server-Timing: db;dur=53"))
    assert fields(await client.head())[b"server-timing"] == [b"db;dur=53"]


async def test_a_tunnel_that_woke_its_service_says_so(talk: Conversation) -> None:
    talk.serve()
    client = await talk.client()
    await client.send(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    await until(lambda: talk.held == 1)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"))
    (timing,) = fields(await client.head())[b"server-timing"]
    assert timing.startswith(b"wake;dur=")


async def test_what_was_held_in_vain_says_so_too(conversation: Starter) -> None:
    talk = await conversation(hold_timeout=0.3)
    talk.serve()
    client = await talk.client()
    await client.send(get())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert int(fields(head)[b"server-timing"][0].removeprefix(b"wake;dur=")) >= 300
