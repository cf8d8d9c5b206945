"""Cut off from a shared store for too long: what is known may be others' by now, so nobody is sent anywhere by it."""

from __future__ import annotations

from wire import Conversation, fields, get, ok, until


async def test_who_is_held_is_answered_and_no_replica_is_asked(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=1)
    busy = await talk.client()
    await busy.send(get("/busy"))
    peer = await origin.peer()
    await peer.head()
    client = await talk.client()
    await client.send(get("/held"))
    await until(lambda: talk.held == 1)
    talk.edge.mark(True)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"stale" in fields(head)[b"proxy-status"][0]
    assert talk.held == 0
    await peer.send(ok(b"done"))
    await busy.head()
    await busy.expect(b"done")
    assert origin.connections == 1


async def test_what_fails_is_not_sent_again_by_what_is_too_old(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/"))
    peer = await origin.peer()
    await peer.head()
    talk.edge.mark(True)
    peer.reset()
    assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    assert origin.connections == 1
    assert talk.in_flight == 0


async def test_in_sync_again_it_serves_by_what_is_stored(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/"))
    peer = await origin.peer()
    await peer.head()
    await peer.send(ok())
    await client.head()
    talk.edge.mark(True)
    await client.send(get("/"))
    assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    talk.edge.mark(False)
    again = await talk.client()
    await again.send(get("/again"))
    assert (await (await origin.peer()).head()).startswith(b"GET /again ")
