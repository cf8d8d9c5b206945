"""Limits and time-outs of what clients send."""

from __future__ import annotations

import asyncio
import json
import re
import socket

import pytest
from wire import Conversation, Starter, fields, get, lines, ok, statuses, until


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (lines("GET / HTTP/1.1"), 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (lines("GET / HTTP/3.0", "Host: a"), 505),
        (lines("CONNECT a:1 HTTP/1.1", "Host: a:1"), 405),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70000, 431),
        (lines("GET / HTTP/1.1", "Host: a", *["X: y"] * 100), 431),
        (lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"), 501),
    ],
)
async def test_refused_and_closed(talk: Conversation, request_: bytes, status: int) -> None:
    client = await talk.client()
    await client.send(request_)
    answer = await client.rest()
    assert list(statuses(answer)) == [status]
    head = fields(answer[: answer.index(b"\r\n\r\n")])
    assert head[b"connection"] == [b"close"]
    assert b"proxy-status" in head
    assert head[b"via"] == [b"1.1 wakegate"]
    (request_id,) = head[b"x-request-id"]
    assert re.fullmatch(rb"[0-9a-f]{32}", request_id)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"] == request_id.decode()


def padded(size: int, *more: str) -> bytes:
    """A request head of exactly this many bytes."""
    short = get("/", *more, "X: ")
    return get("/", *more, "X: " + "y" * (size - len(short)))


async def answered(talk: Conversation, head: bytes) -> bytes:
    client = await talk.client()
    await client.send(head)
    return (await client.head()).split(b" ")[1]


async def test_limits_to_the_byte(conversation: Starter) -> None:
    """Nobody has this host: 404 says that the head was read. 4 bytes of a head are its last empty line."""
    talk = await conversation(head_limit=2000, target_limit=500, field_limit=10)
    for size, status in [(2004, b"404"), (2005, b"431")]:
        assert await answered(talk, padded(size)) == status
    for size, status in [(500, b"404"), (501, b"414")]:
        assert await answered(talk, get("/" + "a" * (size - 1))) == status
    for count, status in [(10, b"404"), (11, b"431")]:
        assert await answered(talk, get("/", *["X: y"] * (count - 1))) == status


async def test_two_that_are_refused_have_two_ids(talk: Conversation) -> None:
    ids = set()
    for _ in range(2):
        client = await talk.client()
        await client.send(b"nonsense\r\n\r\n")
        ids.add(fields(await client.head())[b"x-request-id"][0])
    assert len(ids) == 2


async def test_a_slow_head_is_408(conversation: Starter) -> None:
    talk = await conversation(head_timeout=0.3)
    client = await talk.client()
    await client.send(b"GET / HT")
    answer = await client.rest()
    assert list(statuses(answer)) == [408]
    assert b"\r\nX-Request-Id: " in answer


async def test_an_idle_connection_is_closed(conversation: Starter) -> None:
    talk = await conversation(keep_alive_timeout=0.3)
    client = await talk.client()
    await client.closed()


async def test_a_slow_body_is_408(conversation: Starter) -> None:
    talk = await conversation(body_timeout=0.3)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Content-Length: 10", method="POST") + b"abc")
    replica = await origin.peer()
    await replica.head()
    assert list(statuses(await client.rest())) == [408]
    assert await replica.rest() == b"abc"


async def test_no_response_in_time_is_504(conversation: Starter) -> None:
    talk = await conversation(response_timeout=0.3)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"error=http_response_timeout" in head
    await replica.closed()


async def test_a_response_that_stops_is_cut(conversation: Starter) -> None:
    talk = await conversation(response_timeout=0.3)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 200 OK", "Content-Length: 10", body=b"abc"))
    await client.head()
    assert await client.rest() == b"abc"


@pytest.mark.parametrize("framing", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_too_large_is_413(conversation: Starter, framing: str) -> None:
    talk = await conversation(max_body=10)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", framing, method="POST") + b"b\r\n12345678901\r\n")
    assert list(statuses(await client.rest())) == [413]


async def test_bytes_held_are_bounded(conversation: Starter) -> None:
    talk = await conversation(hold_bytes=250_000)
    talk.serve()
    clients = [await talk.client() for _ in range(4)]
    for client in clients:
        await client.send(get("/", "Content-Length: 1000000", method="POST") + b"x" * 60_000)
    await until(lambda: talk.count().get("503", 0) == 2)
    assert talk.held == 2


async def test_no_namespace_takes_the_hold_of_another(conversation: Starter) -> None:
    talk = await conversation(hold_bytes=250_000)
    for at in range(4):
        talk.serve(host=f"evil{at}.test", namespace="evil")
    talk.serve(namespace="good")
    for at in range(40):
        client = await talk.client()
        size = 60_000 if at < 8 else 3_000
        request = get("/", "Content-Length: 1000000", method="POST", host=f"evil{at % 4}.test")
        await client.send(request + b"x" * size)
    refused = lambda: sum(talk.count(f"evil{at}.test").get("503", 0) for at in range(4))  # noqa: E731
    await until(lambda: refused() + talk.held == 40)
    assert refused() > 0
    held = talk.held
    client = await talk.client()
    await client.send(get("/", "Content-Length: 60000", method="POST") + b"x" * 60_000)
    await until(lambda: talk.held == held + 1)
    assert talk.edge._office.holding.bytes <= 250_000


async def test_concurrency_is_kept_and_order_too(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint(), concurrency=2)
    clients = []
    for at in range(4):
        client = await talk.client()
        await client.send(get(f"/{at}"))
        await until(lambda at=at: talk.held + talk.in_flight == at + 1)
        clients.append(client)
    first, second = await origin.peer(), await origin.peer()
    for replica in (first, second):
        await replica.head()
    assert (talk.in_flight, talk.held) == (2, 2)
    clients[2].close()
    await until(lambda: talk.held == 1)
    await first.send(ok())
    assert (await first.head()).startswith(b"GET /3 ")
    assert talk.in_flight == 2


async def test_interim_responses_do_not_move_the_deadline_of_the_final_one(conversation: Starter) -> None:
    """Not even by filling and emptying the client's buffers."""
    talk = await conversation(response_timeout=0.5)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await client.send(get("/", "Connection: close"))
    replica = await origin.peer()
    await replica.head()
    hints = lines("HTTP/1.1 103 Early Hints", "X: " + "y" * 240_000) * 32
    rounds = 0
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(client.rest())
        while rounds < 3 and not talk.count():
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            replica.writer.write(hints)
            await asyncio.sleep(0.4)
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
            rounds += 1
        counted = talk.count()
    assert counted == {"504": 1}, "although its end was moved in every round"
    assert b"error=http_response_timeout" in reading.result()


async def test_a_tunnel_keeps_its_own_time_out_when_the_client_was_slow(conversation: Starter) -> None:
    talk = await conversation(response_timeout=0.3)
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Connection: upgrade", "Upgrade: websocket"))
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"))
    await client.head()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = talk.edge._office.clients.all()
    sent = 0
    while not connection.full:
        await replica.send(b"x" * 65536)
        sent += 65536
        await until(lambda total=sent: connection._exchange.bytes_out >= total)
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    await client.exactly(sent)
    await asyncio.sleep(1.0)  # nothing moves for longer than a response may take
    await client.send(b"still here")
    await replica.expect(b"still here")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("app.test", 200),
        ("app.test.", 200),
        ("app.test:", 200),  # an empty port is the scheme's own (RFC 3986 3.2.3)
        ("app.test.:65535", 200),
        ("app.test:0080", 200),
        ("app.test..", 400),
        ("app.test..:80", 400),
        ("app.test:0", 400),
        ("app.test:00000", 400),
        ("app.test:65536", 400),
        ("app.test:99999", 400),
    ],
)
async def test_one_final_dot_and_a_real_port(talk: Conversation, host: str, status: int) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get(host=host))
    if status == 200:
        replica = await origin.peer()
        assert fields(await replica.head())[b"host"] == [host.encode()]
        await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 %d " % status)


async def test_a_folded_line_of_a_request_is_called_so(talk: Conversation) -> None:
    for folded in (" folded", "\tfolded: x"):
        client = await talk.client()
        await client.send(get("/", "X: y", folded))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b'details="folded field line"' in head
