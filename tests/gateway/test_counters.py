"""What a worker counts, as it is told: always whole, and not made anew where nothing has happened."""

from __future__ import annotations

from wire import Conversation, get, lines, ok, until

from gateway.windows import Windows
from state.counts import decode_window

SERVICE = "service-app.test"


async def test_counters_are_made_anew_only_where_something_happened(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"one"))
    await client.head()
    await client.expect(b"one")
    first = talk.edge.counters()["services"][SERVICE]
    assert first["requests"] == {"200": 1}
    assert talk.edge.counters()["services"][SERVICE] is first
    await client.send(get())
    await until(lambda: talk.in_flight == 1)
    while_busy = talk.edge.counters()["services"][SERVICE]
    assert while_busy is not first
    await replica.head()
    await replica.send(ok(b"two"))
    await client.head()
    await client.expect(b"two")
    await until(lambda: talk.in_flight == 0)
    assert talk.edge.counters()["services"][SERVICE]["requests"] == {"200": 2}
    assert (first["requests"], while_busy["requests"]) == ({"200": 1}, {"200": 1})


async def test_the_books_of_a_worker_are_cut_into_windows(talk: Conversation) -> None:
    """A request that fails, one that is cut with its client, one to nobody: each is in, or is nobody's."""
    windows = Windows("node/supervisor/1/a")
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await windows.sample(talk.edge.books(), 1000.0, 0.0)
    failing, leaving, lost = [await talk.client() for _ in range(3)]
    await failing.send(get(method="POST"))
    replica = await origin.peer()
    await replica.head()
    replica.close()
    assert (await failing.head()).startswith(b"HTTP/1.1 502 ")
    await leaving.send(get())
    await (await origin.peer()).head()
    await windows.sample(talk.edge.books(), 1001.0, 1.0)
    leaving.close()
    await until(lambda: talk.in_flight == 0)
    await lost.send(get(host="nobody.test"))
    await lost.head()
    await windows.close(talk.edge.books(), 1002.0, 2.0)
    oldest = windows.oldest()
    assert oldest is not None
    rows = decode_window(oldest[1]).rows
    assert rows.keys() == {SERVICE}
    counts = rows[SERVICE]
    assert (counts.requests, counts.errors, sum(counts.duration.values())) == (2, 1, 2)
    assert counts.in_flight_ms == 1000


async def test_a_stream_counts_at_a_replica_that_leaves_until_it_ends(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    peer = await origin.peer()
    await peer.head()
    await peer.send(lines("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
    await client.head()

    def counted() -> list[int]:
        return [count for load in talk.edge.loads().values() for count in load.replicas.values()]

    talk.serve()
    await peer.send(b"8\r\ndata: 1\n\r\n")
    await client.expect(b"8\r\ndata: 1\n\r\n")
    assert counted() == [1]
    await peer.send(b"0\r\n\r\n")
    await until(lambda: counted() == [])
