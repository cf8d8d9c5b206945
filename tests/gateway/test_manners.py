"""An intermediary's manners, in bytes: interim responses, bodiless ones, ends of bodies, upgrades, broken replicas."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os

import pytest
from wire import Conversation, Origin, Peer, Starter, fields, get, lines, ok, statuses, until


async def pair(talk: Conversation, request: bytes) -> tuple[Peer, Peer, bytes, Origin]:
    """A client that has sent `request`, and the replica that has read its head."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(request)
    replica = await origin.peer()
    return client, replica, await replica.head(), origin


async def test_continue_is_relayed(talk: Conversation) -> None:
    expecting = get("/", "Content-Length: 3", "Expect: 100-continue", method="POST")
    client, replica, head, _ = await pair(talk, expecting)
    assert fields(head)[b"expect"] == [b"100-continue"]
    await client.silent()
    await replica.send(lines("HTTP/1.1 100 Continue"))
    await client.expect(lines("HTTP/1.1 100 Continue"))
    await client.send(b"abc")
    await replica.expect(b"abc")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.send(get("/again"))
    assert (await replica.head()).startswith(b"GET /again ")


async def test_a_final_answer_instead_of_continue_ends_the_connection(talk: Conversation) -> None:
    expecting = get("/", "Content-Length: 3", "Expect: 100-continue", method="POST")
    client, replica, _, _ = await pair(talk, expecting)
    await replica.send(ok(b"no", status="413 Too Large"))
    head = await client.head()
    assert fields(head)[b"connection"] == [b"close"]
    assert await client.rest() == b"no"


async def test_early_hints(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(lines("HTTP/1.1 103 Early Hints", "Link: </a>") + lines("HTTP/1.1 103 Early Hints", "X: y"))
    await client.expect(lines("HTTP/1.1 103 Early Hints", "Link: </a>") + lines("HTTP/1.1 103 Early Hints", "X: y"))
    await replica.send(ok(b"x"))
    await client.head()


async def test_no_interim_responses_for_http_1_0(talk: Conversation) -> None:
    client, replica, head, _ = await pair(talk, lines("GET / HTTP/1.0", "Host: app.test"))
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    assert fields(head)[b"via"] == [b"1.0 wakegate"]
    await replica.send(lines("HTTP/1.1 103 Early Hints", "X: y") + ok(b"x"))
    answer = await client.rest()
    assert list(statuses(answer)) == [200]
    assert answer.endswith(b"\r\n\r\nx")


async def test_chunks_become_an_end_of_connection_for_http_1_0(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, lines("GET / HTTP/1.0", "Host: app.test", "Connection: keep-alive"))
    await replica.send(
        lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n")
    )
    answer = await client.rest()
    assert b"ransfer-" not in answer
    assert fields(answer[: answer.index(b"\r\n\r\n")])[b"connection"] == [b"close"]
    assert answer.endswith(b"\r\n\r\nabcde")


async def test_http_1_0_keep_alive(talk: Conversation) -> None:
    request = lines("GET / HTTP/1.0", "Host: app.test", "Connection: keep-alive")
    client, replica, _, _ = await pair(talk, request)
    await replica.send(ok(b"x"))
    assert fields(await client.head())[b"connection"] == [b"keep-alive"]
    await client.expect(b"x")
    await client.send(request)
    await replica.head()
    await replica.send(ok())
    await client.head()


async def test_an_end_of_connection_becomes_chunks(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(lines("HTTP/1.1 200 OK", body=b"abc"))
    assert fields(await client.head())[b"transfer-encoding"] == [b"chunked"]
    await client.expect(b"3\r\nabc\r\n")
    replica.close()
    await client.expect(b"0\r\n\r\n")
    await client.send(get(host="nobody.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_bodiless_statuses(talk: Conversation, status: str) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(lines(f"HTTP/1.1 {status}", "ETag: x"))
    head = await client.head()
    assert b"transfer-encoding" not in fields(head)
    assert b"content-length" not in fields(head)
    await client.send(get("/2"))
    assert (await replica.head()).startswith(b"GET /2 ")


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_head_has_no_body(talk: Conversation, framing: str) -> None:
    client, replica, _, _ = await pair(talk, get(method="HEAD"))
    await replica.send(lines("HTTP/1.1 200 OK", framing))
    head = await client.head()
    assert fields(head).get(b"content-length", [b"1000"]) == [b"1000"]
    await client.send(get("/2"))
    assert (await replica.head()).startswith(b"GET /2 ")
    await replica.send(ok(b"x"))
    await client.head()
    await client.expect(b"x")


async def test_get_with_a_body(talk: Conversation) -> None:
    client, replica, head, _ = await pair(talk, get("/", "Content-Length: 3") + b"abc")
    assert fields(head)[b"content-length"] == [b"3"]
    await replica.expect(b"abc")
    await replica.send(ok())
    await client.head()


async def test_absolute_form_and_options(talk: Conversation) -> None:
    client, replica, head, _ = await pair(talk, get("http://app.test/x", host="other.test"))
    assert head.startswith(b"GET /x HTTP/1.1\r\nHost: app.test\r\n")
    await replica.send(ok())
    await client.head()
    await client.send(get("*", method="OPTIONS"))
    assert (await replica.head()).startswith(b"OPTIONS * HTTP/1.1\r\n")
    await replica.send(ok())
    await client.head()
    await client.send(get("/", "Max-Forwards: 2", method="OPTIONS"))
    assert fields(await replica.head())[b"max-forwards"] == [b"1"]
    await replica.send(ok())
    await client.head()
    await client.send(get("/", "Max-Forwards: 0", method="OPTIONS"))
    assert b"allow" in fields(await client.head())
    await client.send(get("/t", "Max-Forwards: 0", "Cookie: secret", "X: y", method="TRACE"))
    seen = fields(await client.head())
    assert seen[b"content-type"] == [b"message/http"]
    echoed = await client.exactly(int(seen[b"content-length"][0]))
    assert echoed.startswith(b"TRACE /t HTTP/1.1\r\n")
    assert b"secret" not in echoed


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_a_malformed_answer_is_502(talk: Conversation, answer: bytes) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(answer)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"proxy-status" in fields(head)
    await replica.closed()


@pytest.mark.parametrize("framing", [["Content-Length: 10"], ["Transfer-Encoding: chunked"]])
async def test_a_body_cut_short_never_ends_cleanly(talk: Conversation, framing: list[str]) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(lines("HTTP/1.1 200 OK", *framing, body=b"3\r\nab"))
    await client.head()
    replica.close()
    assert not (await client.rest()).endswith(b"0\r\n\r\n")
    assert talk.edge.counters()["services"]["service-app.test"]["requests"] == {"200": 1}


async def test_a_cut_body_that_ends_with_the_connection_is_reset(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, lines("GET / HTTP/1.0", "Host: app.test"))
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
    await client.through(b"abc")
    replica.close()
    with pytest.raises(ConnectionError):
        await client.rest()


async def test_surplus_never_reaches_the_next_response(talk: Conversation) -> None:
    client, replica, _, origin = await pair(talk, get())
    await replica.send(ok(b"x") + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await client.head()
    await client.expect(b"x")
    await client.send(get("/2"))
    second = await origin.peer()
    await second.head()
    await second.send(ok(b"good"))
    await client.head()
    await client.expect(b"good")


async def test_unasked_bytes_on_an_idle_connection_close_it(talk: Conversation) -> None:
    client, replica, _, origin = await pair(talk, get())
    await replica.send(ok())
    await client.head()
    await replica.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await replica.closed()
    await client.send(get("/2"))
    assert (await (await origin.peer()).head()).startswith(b"GET /2 ")


async def test_a_stale_connection_is_replaced_for_idempotent_requests(talk: Conversation) -> None:
    client, replica, _, origin = await pair(talk, get())
    await replica.send(ok())
    await client.head()
    await client.send(get("/2", "Content-Length: 3", method="PUT") + b"abc")
    await replica.head()
    await replica.expect(b"abc")
    replica.reset()
    second = await origin.peer()
    assert (await second.head()).startswith(b"PUT /2 ")
    await second.expect(b"abc")
    await second.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_post_that_a_replica_may_have_seen_is_not_sent_twice(talk: Conversation) -> None:
    client, replica, _, origin = await pair(talk, get("/", "Content-Length: 3", method="POST") + b"abc")
    await replica.expect(b"abc")
    replica.close()
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"error=connection_terminated" in head
    assert origin.connections == 1


async def test_a_request_that_kills_every_replica_ends(talk: Conversation) -> None:
    client, replica, _, origin = await pair(talk, get())
    replica.close()
    for _ in range(2):
        replica = await origin.peer()
        await replica.head()
        replica.close()
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert origin.connections == 3


async def test_an_early_answer_while_the_body_comes(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get("/", "Content-Length: 100000", method="POST") + b"x" * 1000)
    await replica.exactly(1000)
    await replica.send(ok(b"enough", status="413 Too Large"))
    head = await client.head()
    assert fields(head)[b"connection"] == [b"close"]
    await client.send(b"x" * 50000)
    assert await client.rest() == b"enough"
    await replica.closed()


async def test_an_upgrade_becomes_a_tunnel_with_half_close(talk: Conversation) -> None:
    client, replica, head, _ = await pair(talk, get("/", "Connection: Upgrade", "Upgrade: websocket") + b"early")
    seen = fields(head)
    assert seen[b"upgrade"] == [b"websocket"]
    assert seen[b"connection"] == [b"upgrade"]
    answer = lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-X: y")
    await replica.send(answer + b"hello")
    got = fields(await client.head())
    assert got[b"sec-x"] == [b"y"]
    assert got[b"upgrade"] == [b"websocket"]
    await client.expect(b"hello")
    await replica.expect(b"early")
    await client.send(b"a")
    await replica.expect(b"a")
    assert talk.in_flight == 1
    client.end()
    assert await replica.rest() == b""
    await replica.send(b"last words")
    replica.close()
    assert await client.rest() == b"last words"
    await until(lambda: talk.in_flight == 0)
    assert talk.count() == {"101": 1}


async def test_a_refused_upgrade_is_a_response(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get("/", "Connection: Upgrade", "Upgrade: websocket"))
    await replica.send(ok(b"no", status="426 Upgrade Required"))
    await client.head()
    await client.expect(b"no")
    await client.send(get("/2"))
    await replica.head()


async def test_backpressure_towards_the_client(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get())
    total = 64 << 20
    replica.writer.write(lines("HTTP/1.1 200 OK", f"Content-Length: {total}"))
    piece = b"x" * (1 << 20)
    await client.head()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    sent = 0
    while sent < total and replica.writer.transport.get_write_buffer_size() < 1 << 20:
        replica.writer.write(piece)
        sent += len(piece)
        await client_turn()
    assert sent < total
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    while sent < total:
        replica.writer.write(piece)
        sent += len(piece)
    assert len(await client.exactly(total)) == total


async def client_turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_backpressure_towards_the_replica(talk: Conversation) -> None:
    total = 32 << 20
    client, replica, _, _ = await pair(talk, get("/", f"Content-Length: {total}", method="POST"))
    replica.reader._transport.pause_reading()  # type: ignore[attr-defined]
    sent = 0
    piece = b"x" * (1 << 20)
    while sent < total and client.writer.transport.get_write_buffer_size() < 1 << 20:
        client.writer.write(piece)
        sent += len(piece)
        await client_turn()
    assert sent < total
    replica.reader._transport.resume_reading()  # type: ignore[attr-defined]
    while sent < total:
        client.writer.write(piece)
        sent += len(piece)
    assert len(await replica.exactly(total)) == total
    await replica.send(ok())
    await client.head()


async def test_behind_a_trusted_proxy(conversation: Starter) -> None:
    talk = await conversation(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    request = get("/", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Request-Id: mine")
    _, _, head, _ = await pair(talk, request)
    seen = fields(head)
    assert seen[b"x-forwarded-for"] == [b"1.2.3.4, 127.0.0.1"]
    assert seen[b"x-forwarded-proto"] == [b"https"]
    assert seen[b"x-request-id"] == [b"mine"]


async def test_the_access_log(conversation: Starter) -> None:
    out, log = os.pipe()
    talk = await conversation(log_fd=log)
    client, replica, _, _ = await pair(talk, get('/a"b\\c', "X: y"))
    await replica.send(ok(b"hello"))
    await client.head()
    await client.expect(b"hello")
    await client.send(get(host="nobody.test"))
    await client.head()
    broken = await talk.client()
    await broken.send(b"nonsense\r\n\r\n")
    await broken.rest()
    talk.log.close()
    os.close(log)
    with os.fdopen(out) as stream:
        first, second, third = (json.loads(line) for line in stream)
    assert first["path"] == '/a"b\\c'
    assert (first["service"], first["replica"], first["status"]) == ("acme/app", "replica-1", 200)
    assert first["bytes_out"] > 5
    assert {"id", "host", "method", "bytes_in", "retries"} <= set(first)
    assert {"hold_ms", "connect_ms", "first_byte_ms", "total_ms"} <= set(first)
    assert second["proxy_status"].startswith("wakegate; error=destination_not_found")
    assert third["status"] == 400


async def test_the_access_log_of_what_is_refused(conversation: Starter) -> None:
    """The same fields as of any other request, as far as they are known."""
    out, log = os.pipe()
    talk = await conversation(log_fd=log, head_timeout=0.3)
    first = await talk.client()
    await first.send(get(host="nobody.test"))
    await first.head()
    ids = []
    slow = b'GET /"a'
    for came in (get("/p?q", "Transfer-Encoding: gzip"), b"\x16\x03\x01 \xff", b"GET /" + b"a" * 9000, slow):
        client = await talk.client()
        await client.send(came)
        ids.append(fields(await client.head())[b"x-request-id"][0].decode())
    talk.log.close()
    os.close(log)
    with os.fdopen(out) as stream:
        usual, coded, binary, long, late = (json.loads(line) for line in stream)
    for line, request_id in zip((coded, binary, long, late), ids, strict=True):
        assert list(line) == list(usual)
        assert line["id"] == request_id
        assert line["client"] == "127.0.0.1"
        assert line["proxy_status"].startswith("wakegate; error=http_request_error; details=")
        assert line["bytes_out"] > 100
    assert (coded["method"], coded["path"], coded["host"], coded["status"]) == ("GET", "/p?q", "app.test", 501)
    assert (binary["method"], binary["path"], binary["host"], binary["status"]) == ("", "", "", 400)
    assert (long["method"], long["path"][:6], long["status"], long["bytes_in"]) == ("GET", "/aaaaa", 414, 9005)
    assert (late["method"], late["path"], late["status"]) == ("GET", '/"a', 408)
    assert 300 <= late["total_ms"] < 3000
    assert coded["total_ms"] == 0


async def test_drain(talk: Conversation) -> None:
    idle = await talk.client()
    await idle.send(get(host="nobody.test"))
    await idle.through(b"}\n")
    client, replica, _, _ = await pair(talk, get())
    drained = asyncio.get_running_loop().create_task(talk.edge.drain(5.0))
    await idle.closed()
    assert not drained.done()
    await replica.send(ok(b"x"))
    assert fields(await client.head())[b"connection"] == [b"close"]
    assert await client.rest() == b"x"
    assert await drained


async def test_a_body_half_sent_goes_on_at_another_replica(talk: Conversation) -> None:
    first, second = await talk.origin("a"), await talk.origin("b")
    talk.serve(first.endpoint())
    client = await talk.client()
    await client.send(get("/", "Content-Length: 6", method="PUT") + b"abc")
    replica = await first.peer()
    await replica.head()
    await replica.expect(b"abc")
    talk.serve(second.endpoint())
    replica.close()
    replica = await second.peer()
    await replica.head()
    await replica.expect(b"abc")
    await client.send(b"def")
    await replica.expect(b"def")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert talk.edge.counters()["services"]["service-app.test"]["errors"] == {"connection_terminated": 1}


async def test_draining_answers_a_first_request_that_is_on_its_way(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    early, partial = await talk.client(), await talk.client()
    await partial.send(get()[:20])
    await until(lambda: talk.edge.connections == 2)
    drained = asyncio.get_running_loop().create_task(talk.edge.drain(5.0))
    late = await talk.client()  # accepted by a listener that is not closed yet
    await partial.send(get()[20:])
    for client in (early, late):
        await client.send(get())
    for _ in range(3):
        replica = await origin.peer()
        await replica.head()
        await replica.send(ok(b"x", "Connection: close"))
    for client in (early, partial, late):
        answer = await client.rest()
        assert list(statuses(answer)) == [200]
        assert b"\r\nConnection: close\r\n" in answer
    assert await drained


async def test_draining_does_not_wait_long_for_a_silent_client(conversation: Starter) -> None:
    talk = await conversation(drain_grace=0.2)
    silent = await talk.client()
    await until(lambda: talk.edge.connections == 1)
    assert await talk.edge.drain(5.0)
    await silent.closed()


@pytest.mark.parametrize("number", [1, 100])
async def test_interim_responses_are_bounded_in_number(talk: Conversation, number: int) -> None:
    client, replica, _, origin = await pair(talk, get())
    hint = lines("HTTP/1.1 103 Early Hints", "X: y")
    await replica.send(hint * number)
    await client.expect(hint * number)
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.send(get("/2"))
    await replica.head()
    await replica.send(hint * 101)
    await client.expect(hint * 100)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b'error=http_protocol_error; details="too many interim responses"' in head
    await replica.closed()
    assert origin.connections == 1


async def test_a_folded_line_of_a_response_is_called_so(talk: Conversation) -> None:
    client, replica, _, _ = await pair(talk, get())
    await replica.send(lines("HTTP/1.1 200 OK", "X: y", " folded: z", "Content-Length: 0"))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b'details="folded field line"' in head
