"""`scaling.hold_keepalive` in bytes: what a held client gets to see, and that what follows is read as it was meant.

What the client has received is read by h11 and by llhttp, too.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace

import h11
import httptools
import pytest
from wire import Conversation, Peer, Starter, fields, get, lines, log_pipe, ok, until

from gateway.errors import Failure
from gateway.events import accepted, continues, error_event
from gateway.messages import Request, Response
from gateway.patience import EVENTS, INTERIM, PAGE, SILENT, manner
from state.ids import now_us
from state.models import Phase, StartPhases

EVERY = {"hold_keepalive_every": 0.01}  # each tick of the sweep
SSE = "Accept: text/event-stream"
STREAM = ("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")


def request(*more: bytes, method: bytes = b"GET", accept: bytes = b"") -> Request:
    made = Request(method, b"/", False)
    made.accept = accept
    made.lines = list(more)
    return made


@pytest.fixture
async def talk(conversation: Starter) -> Conversation:
    talk = await conversation(**EVERY)
    talk.serve(hold_keepalive=True)
    return talk


async def held(talk: Conversation, *more: str, method: str = "GET", path: str = "/", body: bytes = b"") -> Peer:
    client = await talk.client()
    await client.send(get(path, *more, method=method) + body)
    await until(lambda: talk.held == 1)
    return client


async def streaming(talk: Conversation, *more: str, method: str = "GET", body: bytes = b"") -> tuple[Peer, bytes]:
    """A client that has got the head of a stream and its first comment."""
    client = await held(talk, SSE, *more, method=method, body=body)
    head = await client.head()
    await client.expect(b"b\r\n: waiting\n\n\r\n")
    return client, head


def by_h11(data: bytes, method: str = "GET") -> tuple[list[int], int, bytes, bool]:
    """1xx, the final status, its content, whether it is complete."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "app.test")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    interims: list[int] = []
    status, content = 0, b""
    while True:
        event = peer.next_event()
        if isinstance(event, h11.InformationalResponse):
            interims.append(event.status_code)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            content += bytes(event.data)
        else:
            return interims, status, content, isinstance(event, h11.EndOfMessage)


def by_llhttp(data: bytes) -> list[tuple[int, bytes]]:
    """All responses, 1xx too."""

    class Told:
        def __init__(self) -> None:
            self.seen: list[tuple[int, bytes]] = []
            self.content = b""

        def on_message_begin(self) -> None:
            self.content = b""

        def on_body(self, body: bytes) -> None:
            self.content += body

        def on_message_complete(self) -> None:
            self.seen.append((parser.get_status_code(), self.content))

    told = Told()
    parser = httptools.HttpResponseParser(told)
    parser.feed_data(data)
    return told.seen


def told_error(event: bytes) -> dict[str, object]:
    """The JSON of an event `error`, however it is laid out (HTML 9.2.6)."""
    members = dict(line.split(": ", 1) for line in event.decode().strip("\n").split("\n"))
    assert members["event"] == "error"
    document: dict[str, object] = json.loads(members["data"])
    return document


# What is decided.


@pytest.mark.parametrize(
    ("made", "how"),
    [
        (request(), INTERIM),
        (request(accept=b"*/*"), INTERIM),
        (request(accept=b"text/event-stream"), EVENTS),
        (request(accept=b"text/event-stream", method=b"POST"), EVENTS),
        (request(accept=b"text/event-stream;q=0.9, application/json;q=0.1"), EVENTS),
        (request(accept=b"application/json, text/event-stream", method=b"POST"), INTERIM),
        (request(accept=b"text/event-stream;q=0"), INTERIM),
        (request(accept=b"text/event-stream", method=b"HEAD"), INTERIM),
        (request(accept=b"text/event-stream", method=b"PUT"), INTERIM),
        (request(accept=b"text/html"), PAGE),
    ],
)
def test_how_a_client_is_treated(made: Request, how: int) -> None:
    assert manner(made, True, True) == how
    assert manner(made, False, True) == (PAGE if how == PAGE else SILENT)


def test_who_could_misunderstand_is_told_nothing() -> None:
    old = Request(b"GET", b"/", True)
    assert manner(old, True, True) == SILENT
    upgrade = request(accept=b"text/event-stream")
    upgrade.upgrade = b"websocket"
    assert manner(upgrade, True, True) == SILENT
    expects = request(accept=b"text/event-stream", method=b"POST")
    expects.expects_continue = True
    assert not accepted(expects)


@pytest.mark.parametrize(
    ("status", "more", "follows"),
    [
        (200, [b"Content-Type: text/event-stream"], True),
        (200, [b"content-type:Text/Event-Stream; charset=utf-8", b"Content-Encoding: identity"], True),
        (200, [b"Content-Type: text/event-stream", b"Content-Encoding: gzip"], False),
        (200, [b"Content-Type: application/json"], False),
        (200, [b"Content-Type: text/event-streams"], False),
        (200, [], False),
        (206, [b"Content-Type: text/event-stream"], False),
        (429, [b"Content-Type: text/event-stream"], False),
    ],
)
def test_what_can_follow(status: int, more: list[bytes], follows: bool) -> None:
    response = Response(status, b"")
    response.lines = more
    assert continues(response) == follows


def test_an_error_event_is_one_line_of_json_and_a_retry() -> None:
    event = error_event(Failure(503, "x", 'a "b"\n\u00e4', 2), b"id")
    assert event.startswith(b"retry: 2000\nevent: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 4
    assert told_error(event)["error"] == {"message": 'a "b"\n\u00e4', "type": "x", "code": 503, "param": None}


# Interim responses.


async def test_interim_responses_until_the_answer(talk: Conversation) -> None:
    client = await held(talk)
    for _ in range(2):
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    assert b"100" not in await replica.head()
    await replica.send(ok(b"done"))
    got = await client.through(b"done")
    interims, status, content, complete = by_h11(got)
    assert (set(interims) <= {100}, status, content, complete) == (True, 200, b"done", True)
    assert by_llhttp(got)[-1] == (200, b"done")
    await client.send(get("/next"))
    await replica.head()
    await replica.send(ok(b"again"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.expect(b"again")


async def test_head_gets_interim_ones_and_no_body(talk: Conversation) -> None:
    client = await held(talk, SSE, method="HEAD")
    await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    talk.serve(phase=Phase.REFUSING, reason="broken", hold_keepalive=True)
    got = await client.through(b"\r\nX-Request-Id: ") + await client.head()
    assert by_h11(got, "HEAD")[1:] == (503, b"", True)


async def test_who_waits_for_continue_gets_102_and_keeps_the_body_until_told(talk: Conversation) -> None:
    client = await held(talk, SSE, "Expect: 100-continue", "Content-Length: 2", method="POST")
    await client.expect(b"HTTP/1.1 102 Processing\r\n\r\n")
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines("HTTP/1.1 100 Continue"))
    await client.through(b"HTTP/1.1 100 Continue\r\n\r\n")
    await client.send(b"ab")
    await replica.expect(b"ab")
    await replica.send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_never_to_http_1_0_nor_before_an_upgrade_nor_unless_asked_for(talk: Conversation) -> None:
    old = await talk.client()
    await old.send(lines("GET / HTTP/1.0", "Host: app.test"))
    upgrade = await talk.client()
    await upgrade.send(get("/", "Connection: upgrade", "Upgrade: websocket"))
    talk.serve(host="other.test")
    other = await talk.client()
    await other.send(get("/", SSE, host="other.test"))
    control = await talk.client()
    await control.send(get())
    for _ in range(2):
        await control.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    for client in (old, upgrade, other):
        await client.silent()


async def test_who_leaves_leaves(talk: Conversation) -> None:
    for more in ((), (SSE,)):
        client = await held(talk, *more)
        await client.through(b"\r\n\r\n")
        client.close()
        await until(lambda: talk.held == 0)
    assert talk.count() == {"499": 2}


# Events.


async def test_comments_then_the_replicas_own_stream(talk: Conversation) -> None:
    client, head = await streaming(talk, "Accept-Encoding: gzip")
    found = fields(head)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert found[b"content-type"] == [b"text/event-stream"]
    assert found[b"cache-control"] == [b"no-store"]
    assert found[b"transfer-encoding"] == [b"chunked"]
    await client.expect(b"b\r\n: waiting\n\n\r\n")
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    assert b"accept-encoding" not in fields(await replica.head())
    await replica.send(lines("HTTP/1.1 103 Early Hints", "Link: </x>"))
    await replica.send(lines(*STREAM, "Trailer: X", body=b"9\r\ndata: 1\n\n\r\n"))
    await client.through(b"9\r\ndata: 1\n\n\r\n")
    await replica.send(b"9\r\ndata: 2\n\n\r\n0\r\nX: y\r\n\r\n")
    await client.expect(b"9\r\ndata: 2\n\n\r\n0\r\nX: y\r\n\r\n")
    await client.send(get("/next"))
    assert (await replica.head()).startswith(b"GET /next ")
    await replica.send(ok(b"plain"))
    assert fields(await client.head())[b"content-length"] == [b"5"]
    await client.expect(b"plain")
    assert talk.count() == {"200": 2}


async def test_the_first_byte_of_a_cold_start_is_the_replicas_not_a_comment(talk: Conversation) -> None:
    client, _ = await streaming(talk)
    await client.expect(b"b\r\n: waiting\n\n\r\n")
    origin = await talk.origin()
    started = replace(origin.endpoint(), ready_at=now_us(), phases=StartPhases(ready=1))
    talk.serve(started, hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    assert talk.answers == []
    await replica.send(lines(*STREAM, body=b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"))
    await client.expect(b"9\r\ndata: 1\n\n\r\n0\r\n\r\n")
    assert [told for told, _ in talk.answers] == [started.id]


@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_a_stream_of_known_length_goes_out_in_chunks(talk: Conversation, pieces: int) -> None:
    client, head = await streaming(talk, method="POST", body=b"")
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    answer = ok(b"data: 1\n\ndata: 2\n\n", "Content-Type: text/event-stream")
    at = [0, len(answer), len(answer)] if pieces == 1 else [0, len(answer) - 9, len(answer)]
    if pieces == 3:
        at = [0, answer.index(b"\r\n\r\n") + 4, len(answer) - 9, len(answer)]
    for start, stop in itertools.pairwise(at):
        await replica.send(answer[start:stop])
        await until(lambda stop=stop: talk.in_flight == 0 or stop < len(answer))
    body = await client.through(b"\r\n0\r\n\r\n")
    interims, status, content, complete = by_h11(head + body)
    assert (interims, status, complete) == ([], 200, True)
    assert content.replace(b": waiting\n\n", b"") == b"data: 1\n\ndata: 2\n\n"
    assert by_llhttp(head + body) == [(200, content)]


async def test_a_body_that_waits_with_it_gets_to_the_replica(talk: Conversation) -> None:
    client, _ = await streaming(talk, "Content-Length: 5", method="POST", body=b"he")
    await client.send(b"llo" + get("/behind", SSE))
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    await replica.expect(b"hello")
    await replica.send(ok(b"data: 1\n\n", "Content-Type: text/event-stream"))
    await client.through(b"9\r\ndata: 1\n\n\r\n0\r\n\r\n")
    assert (await replica.head()).startswith(b"GET /behind ")
    await replica.send(ok(b"data: 2\n\n", "Content-Type: text/event-stream"))
    assert fields(await client.head())[b"content-length"] == [b"9"]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (ok(b"slow down", "Retry-After: 7", status="429 Too Many Requests"), 429, "answered 429 Too Many Requests"),
        (ok(b"{}", "Content-Type: application/json"), 502, "did not answer with server-sent events"),
        (ok(b"", status="204 No Content"), 502, "answered 204 No Content"),
        (ok(b"x", "Content-Type: text/event-stream", "Content-Encoding: gzip"), 502, "did not answer"),
        (lines("HTTP/1.1 500 Oops", "Content-Length: 100", body=b"some"), 500, "answered 500 Oops"),
        (lines("HTTP/1.1 500 Oops", "Transfer-Encoding: chunked", body=b"4\r\nsome\r\n"), 500, "answered 500 Oops"),
        (b"rubbish\r\n\r\n", 502, "invalid status line"),
    ],
)
async def test_anything_else_is_one_error_event(talk: Conversation, answer: bytes, status: int, message: str) -> None:
    client, head = await streaming(talk)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    await replica.send(answer)
    body = await client.through(b"\r\n0\r\n\r\n")
    _, sent, content, complete = by_h11(head + body)
    assert (sent, complete) == (200, True)
    error = told_error(content.replace(b": waiting\n\n", b""))
    assert error["status"] == status
    assert message in error["error"]["message"]  # type: ignore[index]
    assert talk.count() == {str(status): 1}, "what became of it, not what its head said"
    await client.send(get("/next", SSE))
    replica = replica if answer.startswith(b"HTTP/1.1 4") or b"json" in answer or b"204" in answer else None
    if replica is not None:
        assert (await replica.head()).startswith(b"GET /next ")
        await replica.send(ok())
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_wake_that_fails_and_one_that_takes_too_long(conversation: Starter) -> None:
    reading, writing = log_pipe()
    talk = await conversation(log_fd=writing, **EVERY)
    talk.serve(hold_keepalive=True)
    client, head = await streaming(talk)
    talk.serve(phase=Phase.REFUSING, reason="exited with code 4", hold_keepalive=True)
    body = await client.through(b"\r\n0\r\n\r\n")
    content = by_h11(head + body)[2].replace(b": waiting\n\n", b"")
    assert content.startswith(b"retry: 1000\nevent: error\n")
    error = told_error(content)
    assert error["error"] == {
        "message": "exited with code 4",
        "type": "destination_unavailable",
        "code": 503,
        "param": None,
    }
    assert error["request_id"] == fields(head)[b"x-request-id"][0].decode()
    talk.serve(hold_keepalive=True, hold_timeout=1)
    await client.send(get("/", SSE))
    got = await client.through(b"\r\n0\r\n\r\n")
    assert b'"code":504' in got
    assert talk.count() == {"503": 1, "504": 1}
    talk.log.close()
    entries = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
    assert [entry["status"] for entry in entries] == [503, 504]
    assert "exited with code 4" in entries[0]["proxy_status"]


async def test_an_error_with_a_body_unread_ends_the_connection(talk: Conversation) -> None:
    client, head = await streaming(talk, "Content-Length: 100", method="POST", body=b"part")
    talk.serve(phase=Phase.REFUSING, reason="no", hold_keepalive=True)
    body = await client.rest()
    assert by_h11(head + b"b\r\n: waiting\n\n\r\n" + body)[3]


async def test_sent_again_while_nothing_of_a_body_was_relayed(talk: Conversation) -> None:
    client, _ = await streaming(talk)
    first, second = await talk.origin("one"), await talk.origin("two")
    talk.serve(first.endpoint(), hold_keepalive=True)
    replica = await first.peer()
    await replica.head()
    talk.serve(second.endpoint(), hold_keepalive=True)
    replica.close()
    replica = await second.peer()
    await replica.head()
    await replica.send(lines(*STREAM, body=b"9\r\ndata: 1\n\n\r\n"))
    await client.through(b"9\r\ndata: 1\n\n\r\n")
    replica.close()
    assert b"0\r\n\r\n" not in await client.rest(), "cut, never ended cleanly"


async def test_over_http_1_0_the_stream_ends_with_the_connection(talk: Conversation) -> None:
    client = await talk.client()
    await client.send(lines("GET / HTTP/1.0", "Host: app.test", SSE, "Connection: keep-alive"))
    head = await client.head()
    assert b"transfer-encoding" not in fields(head)
    assert fields(head)[b"connection"] == [b"close"]
    await client.expect(b": waiting\n\n")
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    await replica.send(lines(*STREAM, body=b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"))
    assert (await client.rest()).replace(b": waiting\n\n", b"") == b"data: 1\n\n"


async def test_draining_lets_a_stream_end(talk: Conversation) -> None:
    client, _ = await streaming(talk)
    talk.edge.hurry()
    origin = await talk.origin()
    talk.serve(origin.endpoint(), hold_keepalive=True)
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"data: 1\n\n", "Content-Type: text/event-stream"))
    assert (await client.rest()).endswith(b"9\r\ndata: 1\n\n\r\n0\r\n\r\n")
