"""Forwarding: what the origin sees, what the client gets, connections kept and used again."""

from __future__ import annotations

import pytest
from wire import Conversation, fields, get, lines, ok, statuses, until


async def test_a_request_and_its_response(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/a?b=c", "User-Agent: x"))
    replica = await origin.peer()
    head = await replica.head()
    assert head.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: app.test\r\n")
    seen = fields(head)
    assert seen[b"user-agent"] == [b"x"]
    assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert seen[b"x-forwarded-proto"] == [b"http"]
    assert seen[b"x-forwarded-host"] == [b"app.test"]
    assert seen[b"via"] == [b"1.1 wakegate"]
    assert len(seen[b"x-request-id"][0]) == 32
    assert seen[b"traceparent"][0].startswith(b"00-")
    assert b"connection" not in seen
    await replica.send(ok(b"hello", "X-Own: 1"))
    answer = await client.head()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    got = fields(answer)
    assert got[b"content-length"] == [b"5"]
    assert got[b"x-own"] == [b"1"]
    assert got[b"via"] == [b"1.1 wakegate"]
    assert got[b"x-request-id"] == seen[b"x-request-id"]
    assert b"date" in got
    assert b"server-timing" not in got
    await client.expect(b"hello")


async def test_both_connections_are_kept(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/1"))
    replica = await origin.peer()
    for at in range(1, 6):
        assert (await replica.head()).startswith(b"GET /%d " % at)
        await replica.send(ok(b"x"))
        await client.head()
        await client.expect(b"x")
        await client.send(get(f"/{at + 1}"))
    await replica.head()
    await replica.send(ok())
    await client.head()
    assert origin.connections == 1
    assert talk.count() == {"200": 6}


async def test_unknown_host_is_404_and_the_connection_stays(talk: Conversation) -> None:
    client = await talk.client()
    for _ in range(2):
        await client.send(get(host="nobody.test"))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
        seen = fields(head)
        assert seen[b"proxy-status"][0].startswith(b"wakegate; error=destination_not_found; details=")
        await client.exactly(int(seen[b"content-length"][0]))


async def test_a_body_of_known_length_arrives_whole(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    body = bytes(range(256)) * 4096
    await client.send(get("/", f"Content-Length: {len(body)}", method="POST") + body[:1000])
    replica = await origin.peer()
    assert fields(await replica.head())[b"content-length"] == [b"%d" % len(body)]
    await client.send(body[1000:])
    assert await replica.exactly(len(body)) == body
    await replica.send(ok(body))
    await client.head()
    assert await client.exactly(len(body)) == body


async def test_chunks_both_ways(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3;x=y\r\nabc\r\n")
    replica = await origin.peer()
    assert fields(await replica.head())[b"transfer-encoding"] == [b"chunked"]
    await replica.expect(b"3\r\nabc\r\n")
    await client.send(b"0\r\nX-Sum: 9\r\n\r\n")
    await replica.expect(b"0\r\nX-Sum: 9\r\n\r\n")
    await replica.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n"))
    assert fields(await client.head())[b"transfer-encoding"] == [b"chunked"]
    await client.expect(b"2\r\nhi\r\n")
    await replica.send(b"0\r\nX-Sum: 1\r\n\r\n")
    await client.expect(b"0\r\nX-Sum: 1\r\n\r\n")
    await client.send(get("/next"))
    assert (await replica.head()).startswith(b"GET /next ")
    await replica.send(ok())
    await client.head()


async def test_pipelined_requests_are_answered_in_order(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/1") + get("/x", host="nobody.test") + get("/2", "Connection: close"))
    replica = await origin.peer()
    for at in (1, 2):
        assert (await replica.head()).startswith(b"GET /%d " % at)
        await replica.send(ok())
    assert list(statuses(await client.rest())) == [200, 404, 200]


async def test_the_client_leaving_closes_the_replicas_connection(talk: Conversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    client.close()
    await replica.closed()
    await until(lambda: talk.in_flight == 0)
    assert talk.count() == {"499": 1}


@pytest.mark.parametrize("parent", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "nonsense"])
async def test_tracestate_goes_with_its_traceparent(talk: Conversation, parent: str) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    parents = [f"traceparent: {parent}"] if parent else []
    await client.send(get("/", "tracestate: a=1", *parents, "Tracestate: b=2", "X: y"))
    seen = fields(await (await origin.peer()).head())
    valid = parent.startswith("00-")
    assert (seen[b"traceparent"] == [parent.encode()]) is valid
    assert seen.get(b"tracestate", []) == ([b"a=1", b"b=2"] if valid else [])
    assert seen[b"x"] == [b"y"]
