"""Replicas that answer no SYN: another is tried, nobody waits for them longer than they would be held."""

from __future__ import annotations

import socket

from wire import Starter, get, ok, until

from gateway.health import DOWN
from state.models import Endpoint


async def test_another_replica_is_tried(conversation: Starter, unanswered: tuple[Endpoint, socket.socket]) -> None:
    talk = await conversation(connect_timeout=0.3)
    talk.serve(unanswered[0])
    client = await talk.client()
    await client.send(get("/", "Content-Length: 2", method="POST") + b"ab")
    await until(lambda: talk.in_flight == 1)
    origin = await talk.origin()
    talk.serve(unanswered[0], origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.expect(b"ab")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    counted = talk.edge.counters()["services"]["service-app.test"]
    assert counted["errors"] == {"connection_timeout": 1}
    assert counted["ejections"] == 1
    assert talk.edge._table.services["service-app.test"].replicas["unanswered"].health == DOWN


async def test_alone_it_is_waited_for_as_long_as_requests_are_held(
    conversation: Starter, unanswered: tuple[Endpoint, socket.socket]
) -> None:
    talk = await conversation(connect_timeout=0.3)
    talk.serve(unanswered[0], hold_timeout=1)
    client = await talk.client()
    await client.send(get())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"error=connection_timeout" in head
    assert (talk.in_flight, talk.held) == (0, 0)
