"""What a byte may cost: input in many small pieces takes effort in proportion to its size, and nobody holds the loop.

Processor time of one size and of four times as much are compared: about 4 if each byte is read once, 16 if each
is read again with every one behind it. The limit in between leaves room for a busy machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from wire import Conversation, fields, get, ok, until

from gateway.fields import bare_line_feed
from gateway.http1.chunked import Decoder
from gateway.http1.request_head import check_partial
from gateway.http1.server import ServerConnection
from gateway.http1.upstream import UpstreamConnection

RATIO = 12.0
FIELDS = b"X: " + b"y" * 20 + b"\r\n"


def head_of(size: int) -> bytes:
    """Of a request, not complete."""
    return (b"GET / HTTP/1.1\r\nHost: app.test\r\n" + FIELDS * (size // len(FIELDS)))[:size]


def effort(work: Callable[[int], None], size: int) -> float:
    """Seconds of processor time, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work(size)
        times.append(time.process_time() - began)
    return min(times)


def check_proportional(work: Callable[[int], None], size: int) -> None:
    small, large = effort(work, size), effort(work, 4 * size)
    assert large < RATIO * small, (small, large)


@pytest.mark.parametrize(
    "data", [b"A: b\r\nC\r\n", b"A: b\nC", b"\nA", b"A\n\rB", b"a\r\n\nb", b"a\r\n\r\nb\n", b"\r\r\n"]
)
def test_a_bare_line_feed_is_found_wherever_the_pieces_end(data: bytes) -> None:
    found = [bare_line_feed(data[:end], max(0, end - 4)) for end in range(1, len(data) + 1)]
    assert any(found) is (re.search(rb"(?<!\r)\n", data) is not None)


def test_a_head_byte_by_byte() -> None:
    def work(size: int) -> None:
        data, known = head_of(size), 0
        for end in range(1, size + 1):
            check_partial(data[:end], 65536, 8192, known)
            known = max(0, end - 3)

    check_proportional(work, 15_000)


def connection_of(talk: Conversation) -> ServerConnection:
    """The edge's end of the newest client's connection."""
    connection = talk.edge._office.clients.all()[-1]
    assert isinstance(connection, ServerConnection)
    return connection


async def test_a_connection_reads_heads_byte_by_byte_and_any_number_of_empty_lines(talk: Conversation) -> None:
    clients = []

    async def fresh() -> ServerConnection:
        clients.append(await talk.client())
        await until(lambda: talk.edge.connections == len(clients))
        return connection_of(talk)

    connections = [await fresh() for _ in range(12)]
    connections[0]._office.arrivals.left = 1_000_000  # all in one turn of the loop

    def dribble(size: int) -> None:
        connection = connections.pop()
        for byte in head_of(size):
            connection.data_received(bytes([byte]))

    def empty_lines(size: int) -> None:
        connections.pop().data_received(b"\r\n" * size)

    check_proportional(dribble, 15_000)
    check_proportional(empty_lines, 50_000)


async def test_a_replica_answers_with_a_head_byte_by_byte(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    ups = []
    for _ in range(6):
        client = await talk.client()
        await client.send(get())
        await (await origin.peer()).head()
        exchange = connection_of(talk)._exchange
        assert exchange is not None
        assert isinstance(exchange.up, UpstreamConnection)
        ups.append(exchange.up)

    def work(size: int) -> None:
        up = ups.pop()
        for byte in (b"HTTP/1.1 200 OK\r\n" + head_of(size)[18:])[:size]:
            up.data_received(bytes([byte]))

    check_proportional(work, 15_000)


async def test_thousands_of_pipelined_requests_hold_nobody_up(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    many, one = await talk.client(), await talk.client()
    await many.send(get(host="n.test") * 4000)
    await one.send(get("/", "Connection: close"))
    replica = await origin.peer()
    answered = sum(talk.edge.counters()["services"].get("", {}).get("requests", {}).values())
    assert answered < 4000
    await replica.head()
    await replica.send(ok())
    await one.rest()
    for _ in range(4000):
        head = await many.head()
        assert head.startswith(b"HTTP/1.1 404 ")
        await many.exactly(int(fields(head)[b"content-length"][0]))


async def test_pipelined_requests_to_a_replica_come_back_in_order(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(b"".join(get(f"/{number}") for number in range(200)))
    replica = await origin.peer()
    for number in range(200):
        assert (await replica.head()).startswith(b"GET /%d " % number)
        await replica.send(ok(b"%d" % number))
        await client.head()
        await client.expect(b"%d" % number)


def test_chunks_and_their_extensions_in_small_pieces() -> None:
    def chunks(size: int) -> None:
        decoder = Decoder()
        for _ in range(size):
            decoder.feed(b"1\r")
            decoder.feed(b"\nx\r\n")

    def one_chunk(size: int) -> None:
        decoder = Decoder()
        decoder.feed(b"%x\r\n" % size)
        for _ in range(size):
            decoder.feed(b"x")

    def many_in_one_piece(size: int) -> None:
        Decoder().feed(b"1;a=b\r\nx\r\n" * min(size, 4000))

    check_proportional(chunks, 5_000)
    check_proportional(one_chunk, 10_000)
    check_proportional(many_in_one_piece, 1_000)


def test_trailers_byte_by_byte() -> None:
    """Their section is bounded, and so is the worst of it."""

    def work(size: int) -> None:
        decoder = Decoder()
        decoder.feed(b"0\r\n")
        for byte in b"x: y\r\n" * (size // 6):
            decoder.feed(bytes([byte]))

    check_proportional(work, 3_000)
