"""Slow peers: who drips is cut, who waits for us is not, and nobody who is cut could take it for an end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from wire import Conversation, Origin, Peer, Starter, get, lines, ok, statuses, until


async def at_a_replica(talk: Conversation, request: bytes) -> tuple[Peer, Peer, Origin]:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(request)
    replica = await origin.peer()
    await replica.head()
    return client, replica, origin


def slow_to_read(peer: Peer) -> None:
    """From now on it reads nothing, and its kernel takes little."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]


def reads_again(peer: Peer) -> None:
    peer.reader._transport.resume_reading()  # type: ignore[attr-defined]


async def drip(client: Peer, every: float, piece: bytes = b"x") -> AsyncIterator[int]:
    """One piece after the other until the edge has had enough."""
    sent, reader, writer = 0, client.reader, client.writer
    while not reader._buffer and not reader.at_eof() and not writer.is_closing():  # type: ignore[attr-defined]
        writer.write(piece)
        sent += len(piece)
        yield sent
        await asyncio.sleep(every)


async def test_a_dripping_head_has_its_time_from_the_first_byte_on(conversation: Starter) -> None:
    talk = await conversation(head_timeout=0.5)
    client = await talk.client()
    await client.send(b"GET / HTTP/1.1\r\nX: ")
    async with asyncio.timeout(30):
        async for sent in drip(client, 0.1):
            assert sent < 100
    assert list(statuses(await client.rest())) == [408]


@pytest.mark.parametrize("coded", [b"5;", b"0\r\nX: "], ids=["extension", "trailer"])
async def test_what_is_no_content_is_no_sign_of_life(conversation: Starter, coded: bytes) -> None:
    talk = await conversation(body_timeout=0.5)
    client, _, _ = await at_a_replica(talk, get("/", "Transfer-Encoding: chunked", method="POST"))
    await client.send(coded)
    async with asyncio.timeout(30):
        async for sent in drip(client, 0.1):
            assert sent < 100
    assert list(statuses(await client.rest())) == [408]


async def test_empty_lines_keep_no_connection_open(conversation: Starter) -> None:
    talk = await conversation(keep_alive_timeout=0.5)
    client = await talk.client()
    async with asyncio.timeout(30):
        async for sent in drip(client, 0.1, b"\r\n"):
            assert sent < 200


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_a_dripping_body_is_408_although_it_never_stops(conversation: Starter, framing: str) -> None:
    talk = await conversation(body_timeout=0.5)
    client, replica, _ = await at_a_replica(talk, get("/", framing, method="POST"))
    piece = b"1\r\nx\r\n" if "chunked" in framing else b"x"
    async with asyncio.timeout(30):
        async for sent in drip(client, 0.1, piece):
            assert sent < 100 * len(piece)
    assert list(statuses(await client.rest())) == [408]
    assert b"x" in await replica.rest()
    assert talk.in_flight == 0


async def test_a_body_that_keeps_the_rate_may_take_its_time(conversation: Starter) -> None:
    talk = await conversation(body_timeout=0.3, body_rate=500)
    client, replica, _ = await at_a_replica(talk, get("/", "Content-Length: 2000", method="POST"))
    for _ in range(20):  # 1,000 bytes a second, over several stretches
        await client.send(b"x" * 100)
        await asyncio.sleep(0.1)
    await replica.exactly(2000)
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_rate_of_zero_asks_for_nothing_but_signs_of_life(conversation: Starter) -> None:
    talk = await conversation(body_timeout=0.3, body_rate=0)
    client, replica, _ = await at_a_replica(talk, get("/", "Content-Length: 10", method="POST"))
    for _ in range(10):
        await client.send(b"x")
        await asyncio.sleep(0.1)
    await replica.expect(b"x" * 10)
    await replica.send(ok())
    await client.head()


async def test_an_answer_under_way_ends_the_hurry(conversation: Starter) -> None:
    """Both directions stream: how fast the request comes is the replica's business then."""
    talk = await conversation(body_timeout=0.3)
    client, replica, _ = await at_a_replica(talk, get("/", "Transfer-Encoding: chunked", method="POST"))
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n"))
    await client.through(b"2\r\nhi\r\n")
    for _ in range(10):
        await client.send(b"1\r\nx\r\n")
        await replica.through(b"x\r\n")
        await asyncio.sleep(0.1)
    await client.send(b"0\r\n\r\n")
    await replica.through(b"0\r\n\r\n")
    await replica.send(b"0\r\n\r\n")
    await client.expect(b"0\r\n\r\n")


async def test_time_in_which_the_replica_reads_nothing_is_not_the_clients(conversation: Starter) -> None:
    talk = await conversation(body_timeout=0.4, response_timeout=30.0)
    total = 8 << 20
    client, replica, _ = await at_a_replica(talk, get("/", f"Content-Length: {total}", method="POST"))
    slow_to_read(replica)
    client.writer.write(b"x" * total)
    (connection,) = talk.edge._office.clients.all()
    await until(lambda: connection._exchange.up.full)
    await asyncio.sleep(1.5)
    assert talk.in_flight == 1
    reads_again(replica)
    assert len(await replica.exactly(total)) == total
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_replica_that_stops_reading_is_504_after_the_response_timeout(conversation: Starter) -> None:
    talk = await conversation(body_timeout=30.0, response_timeout=0.5)
    total = 64 << 20
    client, replica, _ = await at_a_replica(talk, get("/", f"Content-Length: {total}", method="POST"))
    slow_to_read(replica)

    async def upload() -> None:
        piece = b"x" * 65536
        for _ in range(total // len(piece)):
            client.writer.write(piece)
            await client.writer.drain()

    async with asyncio.TaskGroup() as tasks:
        uploading = tasks.create_task(upload())
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")
        uploading.cancel()
    assert talk.in_flight == 0


async def test_who_waits_for_100_continue_is_not_slow(conversation: Starter) -> None:
    talk = await conversation(body_timeout=0.3)
    expecting = get("/", "Content-Length: 3", "Expect: 100-continue", method="POST")
    client, replica, _ = await at_a_replica(talk, expecting)
    await asyncio.sleep(1.0)
    await replica.send(lines("HTTP/1.1 100 Continue"))
    await client.expect(lines("HTTP/1.1 100 Continue"))
    await client.send(b"abc")
    await replica.expect(b"abc")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("settings", "continued", "status"), [("response", False, 504), ("body", True, 408)])
async def test_whose_turn_it_is_decides_between_504_and_408(
    conversation: Starter, settings: str, continued: bool, status: int
) -> None:
    talk = await conversation(**{"response_timeout": 30.0, "body_timeout": 30.0, f"{settings}_timeout": 0.3})
    expecting = get("/", "Content-Length: 3", "Expect: 100-continue", method="POST")
    client, replica, _ = await at_a_replica(talk, expecting)
    if continued:
        await replica.send(lines("HTTP/1.1 100 Continue"))
        await client.expect(lines("HTTP/1.1 100 Continue"))
    assert (await client.head()).startswith(b"HTTP/1.1 %d " % status)


async def test_a_client_that_stops_reading_is_cut_after_the_response_timeout(conversation: Starter) -> None:
    talk = await conversation(response_timeout=0.5)
    client, replica, _ = await at_a_replica(talk, get())
    slow_to_read(client)
    total = 64 << 20
    replica.writer.write(lines("HTTP/1.1 200 OK", f"Content-Length: {total}") + b"x" * total)
    await until(lambda: talk.count() == {"200": 1})
    reads_again(client)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await until(lambda: talk.edge.connections == 0)


async def stalled_at_the_end(talk: Conversation) -> tuple[Peer, int]:
    """A client that has not taken all of a response that is over; and the size of its body."""
    client, replica, _ = await at_a_replica(talk, get())
    slow_to_read(client)
    (connection,) = talk.edge._office.clients.all()
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
    size = 0
    settled = False
    while not settled:  # the kernel takes some more when it has had a moment
        while connection._transport.get_write_buffer_size() < 40_000:  # less than where it counts as full
            await replica.send(b"800\r\n%b\r\n" % (b"x" * 2048))
            size += 2048
            await until(lambda total=size: connection._exchange.bytes_out > total)
        await asyncio.sleep(0.1)
        settled = connection._transport.get_write_buffer_size() >= 40_000
    await replica.send(b"0\r\n\r\n")
    await until(lambda: talk.count() == {"200": 1})
    assert connection._transport.get_write_buffer_size() > 0
    return client, size


async def test_a_client_slow_with_the_end_of_a_response_gets_all_of_it(conversation: Starter) -> None:
    """As long as it takes something: it is not idle."""
    talk = await conversation(keep_alive_timeout=0.5, body_rate=500)
    client, size = await stalled_at_the_end(talk)
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        await asyncio.sleep(0.1)
        reads_again(client)
        async with asyncio.timeout(30):
            piece = await client.reader.read(8_000)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        assert piece
        answer += piece
    assert answer.count(b"x") == size


async def test_a_client_that_never_takes_the_end_is_reset(conversation: Starter) -> None:
    talk = await conversation(keep_alive_timeout=0.3)
    client, _ = await stalled_at_the_end(talk)
    await until(lambda: talk.edge.connections == 0)
    reads_again(client)
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_cutting_a_response_that_ends_with_the_connection_is_a_reset(conversation: Starter) -> None:
    """When a drain is over: an HTTP/1.0 client must not take the rest for complete."""
    talk = await conversation()
    client, replica, _ = await at_a_replica(talk, lines("GET / HTTP/1.0", "Host: app.test"))
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
    await client.through(b"abc")
    assert not await talk.edge.drain(0.01)
    for connection in talk.edge._office.clients.all():
        connection.abort()
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_half_closed_tunnel_ends_when_nothing_moves(conversation: Starter) -> None:
    talk = await conversation(half_closed_timeout=0.5)
    client, replica, _ = await at_a_replica(talk, get("/", "Connection: upgrade", "Upgrade: websocket"))
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"))
    await client.head()
    replica.end()
    for _ in range(10):  # the client goes on for longer than that
        await client.send(b"x")
        await replica.expect(b"x")
        await asyncio.sleep(0.1)
    assert talk.in_flight == 1
    await until(lambda: talk.in_flight == 0)
    await client.closed()
