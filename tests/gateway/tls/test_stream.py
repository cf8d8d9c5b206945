"""An open TLS connection: bodies and backpressure both ways, ends that are announced and ends that are not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import ssl

import pytest
from tls_parties import TlsConversation, TlsPeer, TlsStarter, Truncated, pair, trusting
from wire import Origin, Peer, get, lines, ok, until

MIB = 1024 * 1024


async def request(talk: TlsConversation, client: TlsPeer, data: bytes) -> Peer:
    """The origin's end of a request that has just been sent."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await client.send(data)
    return await origin.peer()


async def tunnel(talk: TlsConversation, client: TlsPeer) -> Peer:
    """An open tunnel; both heads are read."""
    peer = await request(talk, client, get("/", "Connection: upgrade", "Upgrade: websocket"))
    await peer.head()
    await peer.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"))
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return peer


async def test_keep_alive_and_pipelining(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get("/1") + get("/2"))
    for number in (b"1", b"2"):
        assert (await peer.head()).startswith(b"GET /" + number)
        await peer.send(ok(number))
        await client.head()
        assert await client.exactly(1) == number
    await client.send(get("/3"))
    assert (await peer.head()).startswith(b"GET /3")
    await peer.send(ok(b"3"))
    await client.head()
    assert await client.exactly(1) == b"3"


async def test_many_requests_in_records_of_one_byte(talk: TlsConversation) -> None:
    client = await talk.secure()
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    for byte in get("/slow"):
        client.tls.write(bytes((byte,)))
    await client.raw.send(client.records())
    peer = await origin.peer()
    assert (await peer.head()).startswith(b"GET /slow")
    await peer.send(ok(b"done"))
    await client.head()


async def test_records_split_at_every_byte(talk: TlsConversation) -> None:
    client = await talk.secure()
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client.tls.write(get())
    for byte in client.records():
        await client.raw.send(bytes((byte,)))
        await asyncio.sleep(0)
    peer = await origin.peer()
    await peer.head()
    await peer.send(ok(b"done"))
    await client.head()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_large_bodies_both_ways(talk: TlsConversation, version: ssl.TLSVersion) -> None:
    context = trusting(pair())
    context.minimum_version = context.maximum_version = version
    client = await talk.secure(context=context)
    body = os.urandom(8 * MIB + 12345)
    peer = await request(talk, client, get("/", f"Content-Length: {len(body)}", method="POST"))
    await peer.head()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.send(body))
        arrived = tasks.create_task(peer.exactly(len(body)))
    assert hashlib.sha256(arrived.result()).digest() == hashlib.sha256(body).digest()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.send(ok(body)))
        answered = tasks.create_task(answer(client, len(body)))
    assert hashlib.sha256(answered.result()).digest() == hashlib.sha256(body).digest()


async def answer(client: TlsPeer, size: int) -> bytes:
    await client.head()
    return await client.exactly(size)


async def send_until_full(send: Peer | TlsPeer, piece: bytes, most: int) -> int:
    """Write until the other side takes no more; how many bytes went."""
    sent = 0
    try:
        while sent < most:
            async with asyncio.timeout(0.5):
                await send.send(piece)
            sent += len(piece)
    except TimeoutError:
        pass
    return sent


def peak() -> int:
    """Bytes of memory that this process has used at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_a_client_that_stops_reading_costs_a_bounded_part_of_its_answer(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get())
    await peer.head()
    await peer.send(lines("HTTP/1.1 200 OK", f"Content-Length: {1 << 30}"))
    await client.head()
    before = peak()
    sent = await send_until_full(peer, bytes(MIB), 1 << 30)
    assert sent < 64 * MIB, "what the kernel's buffers take, and little more"
    (connection,) = talk.edge._office.clients.all()
    assert connection._transport.get_write_buffer_size() <= MIB  # type: ignore[attr-defined]
    assert peak() - before < 48 * MIB  # mostly the test's own
    client.raw.reset()
    await until(lambda: talk.in_flight == 0)


async def test_a_replica_that_stops_reading_stops_the_client(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get("/", f"Content-Length: {1 << 30}", method="POST"))
    await peer.head()
    sent = await send_until_full(client, bytes(MIB), 1 << 30)
    assert sent < 64 * MIB
    (connection,) = talk.edge._office.clients.all()
    stream = connection._transport  # type: ignore[attr-defined]
    assert stream._paused
    assert len(stream._waiting) <= 256 * 1024
    assert stream._incoming.pending <= 32 * 1024
    client.raw.reset()
    await until(lambda: talk.in_flight == 0)


async def test_reading_goes_on_where_it_paused(talk: TlsConversation) -> None:
    """Every byte arrives, in order, although the replica stops and starts."""
    client = await talk.secure()
    body = os.urandom(4 * MIB)
    peer = await request(talk, client, get("/", f"Content-Length: {len(body)}", method="POST"))
    await peer.head()
    got = b""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.send(body))
        while len(got) < len(body):
            await asyncio.sleep(0.01)
            got += await peer.exactly(min(256 * 1024, len(body) - len(got)))
    assert hashlib.sha256(got).digest() == hashlib.sha256(body).digest()


async def test_the_edge_says_that_it_is_the_end(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get("/", "Connection: close"))
    await peer.head()
    await peer.send(ok(b"last"))
    await client.head()
    assert await client.rest() == b"last"


async def test_a_response_that_is_cut_does_not_look_whole(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get())
    await peer.head()
    await peer.send(lines("HTTP/1.1 200 OK", "Content-Length: 10", body=b"half"))
    await client.head()
    peer.close()
    assert await client.rest() == b"half"


async def test_a_response_up_to_the_end_that_is_cut_is_a_reset(talk: TlsConversation) -> None:
    """To HTTP/1.0 only the end of the connection tells; close_notify must not."""
    client = await talk.secure()
    peer = await request(talk, client, lines("GET / HTTP/1.0", "Host: app.test"))
    await peer.head()
    await peer.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"4\r\nhalf\r\n"))
    await client.head()
    assert await client.exactly(4) == b"half"
    peer.reset()
    with pytest.raises((ConnectionError, Truncated)):
        await client.rest()


@pytest.mark.parametrize("how", ["notify", "fin", "reset"])
async def test_a_client_that_leaves_is_noticed_while_its_request_is_held(talk: TlsConversation, how: str) -> None:
    talk.serve()
    client = await talk.secure()
    await client.send(get())
    await until(lambda: talk.held == 1)
    if how == "notify":
        await client.end()
    elif how == "fin":
        client.raw.end()
    else:
        client.raw.reset()
    await until(lambda: talk.held == 0)
    assert talk.count() == {"499": 1} or talk.count() == {499: 1}


async def test_a_client_that_leaves_while_it_is_not_read(talk: TlsConversation) -> None:
    """Held with a body beyond its head: reading pauses, and the sweep finds out."""
    talk.serve()
    client = await talk.secure()
    await client.send(get("/", "Content-Length: 100000", method="POST") + bytes(50000))
    await until(lambda: talk.held == 1)
    client.raw.end()
    await until(lambda: talk.held == 0)


async def test_a_client_that_leaves_closes_the_replica(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get())
    await peer.head()
    client.raw.close()
    await peer.closed()


async def test_tunnels(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await client.send(b"ping")
    await peer.expect(b"ping")
    await peer.send(b"pong")
    assert await client.exactly(4) == b"pong"
    data = os.urandom(MIB)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.send(data))
        tasks.create_task(peer.send(data))
        up = tasks.create_task(peer.exactly(MIB))
        down = tasks.create_task(client.exactly(MIB))
    assert up.result() == down.result() == data


async def test_a_tunnel_whose_client_ends_first(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await client.send(b"last words")
    await client.end()
    assert await peer.rest() == b"last words"
    await peer.send(b"and mine")
    assert await client.exactly(8) == b"and mine"
    peer.end()
    assert await client.rest() == b""
    await until(lambda: talk.in_flight == 0)


async def test_a_tunnel_whose_client_ends_first_and_closes_its_half_of_tcp(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await client.end()
    client.raw.end()
    assert await peer.rest() == b""
    await peer.send(b"more")
    assert await client.exactly(4) == b"more"
    peer.end()
    assert await client.rest() == b""


async def test_a_tunnel_whose_replica_ends_first(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await peer.send(b"last words")
    peer.end()
    assert await client.rest() == b"last words"
    await client.send(b"and mine" * 20000)
    await client.end()
    assert await peer.rest() == b"and mine" * 20000
    await until(lambda: talk.in_flight == 0)


async def test_a_tunnel_that_is_truncated_is_over_in_both_directions(talk: TlsConversation) -> None:
    """FIN without close_notify: anybody on the way can make one. It is a client that left, not half of an end."""
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await client.send(b"half a mess")
    await peer.expect(b"half a mess")
    client.raw.end()
    await until(lambda: talk.in_flight == 0)
    await peer.closed()


async def test_bytes_that_were_tampered_with(talk: TlsConversation) -> None:
    client = await talk.secure()
    origin: Origin = await talk.origin()
    talk.serve(origin.endpoint())
    client.tls.write(get())
    record = bytearray(client.records())
    record[20] ^= 1
    await client.raw.send(bytes(record))
    with pytest.raises(ssl.SSLError, match=r"ALERT|alert"):
        await client.rest()
    assert origin.connections == 0


async def test_what_follows_close_notify_is_ignored(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await tunnel(talk, client)
    await client.end()
    await client.raw.send((b"\x17\x03\x03\x00\x20" + bytes(32)) * 100_000)
    assert await peer.rest() == b""
    (connection,) = talk.edge._office.clients.all()
    stream = connection._transport  # type: ignore[attr-defined]
    assert len(stream._waiting) + stream._incoming.pending < 16 * 1024
    await peer.send(b"still here")
    assert await client.exactly(10) == b"still here"
    peer.end()
    assert await client.rest() == b""


async def test_an_early_answer_can_be_read(talk: TlsConversation) -> None:
    """An answer while the body still comes: close_notify, then reading on for a while."""
    client = await talk.secure(context=trusting(pair()))
    await client.send(lines("POST / HTTP/1.1", "Host: app.test", "Content-Length: nonsense", body=bytes(300_000)))
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length" in await client.rest()


async def test_idle_connections_are_closed_with_a_word(secured: TlsStarter) -> None:
    talk = await secured(keep_alive_timeout=0.3)
    client = await talk.secure()
    peer = await request(talk, client, get())
    await peer.head()
    await peer.send(ok(b"x"))
    await client.head()
    assert await client.exactly(1) == b"x"
    with pytest.raises((Truncated, ConnectionError)):
        assert await client.rest() is None
    await until(lambda: talk.edge.connections == 0)


async def test_draining_closes_idle_connections_with_a_word(talk: TlsConversation) -> None:
    client = await talk.secure()
    peer = await request(talk, client, get())
    await peer.head()
    await peer.send(ok(b"x"))
    await client.head()
    assert await client.exactly(1) == b"x"
    draining = asyncio.ensure_future(talk.edge.drain(5))
    assert await client.rest() == b""
    client.raw.close()
    assert await draining


async def test_pythons_own_client_for_a_while(talk: TlsConversation) -> None:
    """asyncio's TLS, whose habits at the end differ from ours."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", talk.tls_port, ssl=trusting(pair()), server_hostname="app.test"
    )
    for number in range(20):
        writer.write(get(f"/{number}"))
        if number == 0:
            peer = await origin.peer()
        await peer.head()
        await peer.send(ok(bytes(number * 5000)))
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(number * 5000) == bytes(number * 5000)
    writer.close()
    await writer.wait_closed()
    await until(lambda: talk.edge.connections == 0)
