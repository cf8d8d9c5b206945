"""What the gateway writes, for anything that it accepts: llhttp and h11 read it, and read the same.

tests/gateway/test_differential.py compares readers of what came in; here it is what goes out: heads, bodies, both ways.
"""

from __future__ import annotations

import h11
import httptools
from hypothesis import example, given, settings
from hypothesis import strategies as st
from readers import by_h11, by_llhttp

from gateway.errors import BadResponse, Malformed
from gateway.exchange import Exchange, Limits
from gateway.fields import allowed_trailers
from gateway.http1.body import Body
from gateway.http1.chunked import ChunkError, chunk, last_chunk
from gateway.http1.request_head import parse_request
from gateway.http1.request_writer import request_head
from gateway.http1.response_head import parse_response
from gateway.messages import UNKNOWN
from gateway.sides import Downstream, Keeper

VIA = b"\r\nVia: 1.1 wakegate\r\nX-Request-Id: "
FORWARDED = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: "

NAMES = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"TE", b"Trailer", b"Upgrade", b"Expect",
     b"Max-Forwards", b"Via", b"Cookie", b"X-A", b"x_b", b"Keep-Alive", b"Content_Length", b"X-Forwarded-For",
     b"Proxy-Connection", b"traceparent", b"tracestate", b"Accept", b"Date"]
)  # fmt: skip
KNOWN = st.sampled_from(
    [b"chunked", b"identity", b"gzip, chunked", b"close", b"keep-alive", b"upgrade", b"websocket", b"te", b"trailers",
     b"Host", b"X-A", b"100-continue", b"0", b"3", b"03", b"+3", b"3, 3", b"app.test", b"a:80", b"b c", b""]
)  # fmt: skip
BYTES = st.sampled_from([b"a", b" ", b"\t", b",", b";", b"=", b'"', b"\xe4", b"\x00", b"\r", b"\n", b":", b"0"])
LINES = st.tuples(
    NAMES, st.sampled_from([b": ", b":", b" : ", b":\t"]), st.one_of(KNOWN, st.lists(BYTES, max_size=8).map(b"".join))
).map(b"".join)
STARTS = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT http://app.test/x HTTP/1.1", b"OPTIONS * HTTP/1.1",
     b"GET //x HTTP/1.0", b"OPTIONS http://app.test HTTP/1.1", b"HEAD /%0d%0a HTTP/1.2", b"TRACE / HTTP/1.1"]
)  # fmt: skip


def written(head: bytes) -> tuple[bytes, int] | None:
    """What a replica gets of a request head, and the length of its body; None if it is refused."""
    try:
        request = parse_request(head, 100, 8192, False)
    except Malformed:
        return None
    request.request_id = b"0" * 32
    request.trace = request.trace or b"00-%b-%b-01" % (b"1" * 32, b"2" * 16)
    down = Downstream()
    down.forwarded = FORWARDED
    exchange = Exchange(request, down, Keeper(), Limits(1, 1, 1, 1, 1, -1), 0.0)
    return request_head(exchange, VIA), request.length


@settings(max_examples=1500)
@given(STARTS, st.lists(LINES, max_size=6), st.binary(min_size=1, max_size=30))
@example(b"POST / HTTP/1.1", [b"Transfer-Encoding: chunked", b"Connection: TE", b"TE: trailers"], b"a")
@example(b"PUT / HTTP/1.1", [b"Content-Length: 03", b"Expect: 100-continue"], b"abc")
@example(b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket"], b"a")
def test_requests_that_leave(start: bytes, lines: list[bytes], content: bytes) -> None:
    """One request with its body and one behind it are two requests with the same bodies to all."""
    found = written(b"\r\n".join([start, b"Host: app.test", *lines]))
    if found is None:
        return
    head, length = found
    if length == UNKNOWN:
        content, body = content, chunk(content) + last_chunk([b"X-Sum: 1"])
    else:
        content = (content * (length // len(content) + 1))[:length]
        body = content
    behind = written(b"GET /behind HTTP/1.1\r\nHost: app.test")
    assert behind is not None
    stream = head + body + behind[0]
    seen = by_h11(stream)
    assert seen == by_llhttp(stream)
    assert [request.target for request in seen[1:]] == [b"/behind"]
    assert (seen[0].body, seen[0].whole) == (content, True)
    assert head.count(b"\r\nX-Forwarded-For: ") == head.count(b"\r\nHost: ") == 1
    assert b"\r\n\r\n" not in head[:-4]


class Answered:
    """llhttp tells what it reads of a response."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


@settings(max_examples=1500)
@given(st.sampled_from([b"200 OK", b"204", b"304 ", b"103 x", b"500 \xe4"]), st.lists(LINES, max_size=6))
@example(b"200 OK", [b"Content-Length: 03", b"X-A : b"])
def test_responses_that_leave(status: bytes, lines: list[bytes]) -> None:
    """The fields of a response that we accept are the same to both, and no two of them frame a body."""
    try:
        response = parse_response(b"\r\n".join([b"HTTP/1.1 " + status, *lines]), b"GET")
    except BadResponse:
        return
    head = b"\r\n".join([b"HTTP/1.1 %d %b" % (response.status, response.reason), *response.lines, b"", b""])
    told = Answered()
    httptools.HttpResponseParser(told).feed_data(head)
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "app.test")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(head)
    event = peer.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert [(bytes(name), bytes(value)) for name, value in event.headers] == told.fields
    names = [name for name, _ in told.fields]
    assert names.count(b"content-length") <= 1
    assert b"transfer-encoding" not in names
    assert b"connection" not in names


PIECES = st.sampled_from(
    [b"3\r\nabc\r\n", b"0\r\n", b"\r\n", b"1;a=b\r\nx\r\n", b"X: y\r\n", b"Content-Length: 5\r\n", b"00\r\n", b"a",
     b"2 ;c\r\n\r\n\r\n", b"\n", b"\r", b"10\r\n0123456789abcdef\r\n", b"X_Forwarded_For: z\r\n", b"no colon\r\n",
     b" folded\r\n", b"-1\r\n", b"0x1\r\n", b'1;a="\r\nx\r\n']
)  # fmt: skip


@settings(max_examples=1500)
@given(st.lists(PIECES, max_size=8), st.lists(st.integers(1, 9), max_size=40))
@example([b"3\r\nabc\r\n", b"0\r\n", b"X: y\r\n", b"Content-Length: 5\r\n", b"\r\n"], [])
def test_chunked_bodies_that_leave(pieces: list[bytes], sizes: list[int]) -> None:
    """Whatever chunks came in, in whatever pieces: what leaves is a body that both read as we did."""
    data = b"".join(pieces)
    body = Body(UNKNOWN)
    out = content = b""
    at = 0
    try:
        while at < len(data) and not body.done:
            size = sizes.pop() if sizes else len(data)
            piece = body.feed(data[at : at + size])
            out += chunk(piece) if piece else b""
            content += piece
            at += size
    except ChunkError:
        return
    if body.done:
        out += last_chunk(allowed_trailers(body.trailers, [b"x"]))
    head = b"POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    seen = by_h11(head + out)
    assert seen == by_llhttp(head + out)
    assert [(request.body, request.whole) for request in seen] == [(content, body.done)]
