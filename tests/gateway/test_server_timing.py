"""`Server-Timing: wake;dur=MS` (SPEC section 3): on what was held, beside what the replica says of itself.

What was held for a start has its phases, too.
"""

from __future__ import annotations

import re
from dataclasses import replace

from wire import Conversation, Origin, Starter, fields, get, lines, ok, until

from state.ids import now_us
from state.models import Endpoint, StartPhases

PHASES = StartPhases(decide=1_234, schedule=2_000, start=5_000, ready=404_000)
TOLD = rb"wake;dur=\d+, decide;dur=1\.2, schedule;dur=2\.0, start;dur=5\.0, ready;dur=404\.0, first_byte;dur=(\d+\.\d)"


def started(origin: Origin) -> Endpoint:
    """It is ready, by a start that was measured."""
    return replace(origin.endpoint(), ready_at=now_us() - 20_000, phases=PHASES)


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


async def test_who_was_held_for_a_start_is_told_its_phases(talk: Conversation) -> None:
    talk.serve()
    origin, first, second = await talk.origin(), await talk.client(), await talk.client()
    for client in (first, second):
        await client.send(get())
    await until(lambda: talk.held == 2)
    talk.serve(started(origin))
    timings = []
    for client in (first, second):
        replica = await origin.peer()
        await replica.head()
        await replica.send(ok(b""))
        timings += fields(await client.head())[b"server-timing"]
    found = [re.fullmatch(TOLD, timing) for timing in timings]
    assert all(found)
    first_byte = {float(match[1]) for match in found if match is not None}
    assert len(first_byte) == 1  # the first of all
    (told,) = talk.answers
    assert told[0] == origin.endpoint().id
    assert told[1] >= 20_000
    assert first_byte == {round(told[1] / 1000, 1)}


async def test_who_came_after_the_start_is_told_nothing_of_it(talk: Conversation) -> None:
    """He waits for a place at a replica that has been ready for long."""
    origin, busy, waiting = await talk.origin(), await talk.client(), await talk.client()
    talk.serve(started(origin), concurrency=1)
    await busy.send(get())
    replica = await origin.peer()
    await replica.head()
    await waiting.send(get())
    await until(lambda: talk.held == 1)
    await replica.send(ok(b""))
    assert b"server-timing" not in fields(await busy.head())
    await replica.head()
    await replica.send(ok(b""))
    (timing,) = fields(await waiting.head())[b"server-timing"]
    assert re.fullmatch(rb"wake;dur=\d+", timing)
    assert talk.answers == []


async def test_what_the_gateway_answers_itself_is_no_first_byte(talk: Conversation) -> None:
    talk.serve()
    origin, client = await talk.origin(), await talk.client()
    await client.send(get(method="POST"))
    await until(lambda: talk.held == 1)
    talk.serve(started(origin))
    replica = await origin.peer()
    await replica.head()
    replica.close()
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    (timing,) = fields(head)[b"server-timing"]
    assert re.fullmatch(rb"wake;dur=\d+", timing)
    assert talk.answers == []
