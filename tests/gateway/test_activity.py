"""What lasts counts as activity, from its pick to its end, whether anything moves in it or not: in the load that a
worker reports, by which control neither sleeps nor stops a replica.
"""

from __future__ import annotations

import pytest
from wire import Conversation, Peer, get, lines, until

SILENT = {
    "event stream": (get("/"), lines("HTTP/1.1 200 OK", "Content-Type: text/event-stream", body=b"data: 1\n\n")),
    "chunks": (get("/"), lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n")),
    "tunnel": (
        get("/", "Connection: upgrade", "Upgrade: websocket"),
        lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"),
    ),
    "upload": (get("/", "Transfer-Encoding: chunked", method="POST"), b""),
    "no answer yet": (get("/"), b""),
}


async def lasting(talk: Conversation, way: str) -> tuple[Peer, Peer]:
    """A client and the replica, between whom something of that kind has begun."""
    asked, answered = SILENT[way]
    client = await talk.client()
    await client.send(asked)
    origin = await talk.origin("long")
    talk.serve(origin.endpoint())
    replica = await origin.peer()
    await replica.head()
    await replica.send(answered)
    if answered:
        await client.head()
    talk.serve(origin.endpoint(ready=False))
    return client, replica


@pytest.mark.parametrize("way", SILENT)
async def test_in_flight_until_its_end_and_then_a_draining_replica_is_told_of(talk: Conversation, way: str) -> None:
    talk.serve()
    client, replica = await lasting(talk, way)
    await replica.silent()
    (load,) = talk.edge.loads().values()
    assert (load.in_flight, dict(load.replicas), load.held) == (1, {"long": 1}, 0)
    assert talk.drained == []
    client.close()
    if way == "tunnel":  # one direction is over
        await replica.closed()
        assert talk.drained == []
        replica.close()
    await until(lambda: talk.drained == ["service-app.test"])
    assert talk.edge.loads() == {}
