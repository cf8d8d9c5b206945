"""Three readers of one head: what we accept, llhttp (Node's parser, by httptools) and h11 read in the same way.

Two readers who understand one message differently are a way to smuggle (RFC 9112 11.2), and a replica may be any of
these. What one of them accepts and we refuse is listed in `STRICTER`.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Malformed
from gateway.http1.request_head import parse_request

Fields = list[tuple[bytes, bytes]]


@dataclass
class Reading:
    """What a reader makes of a head. `chunked`, `length`: the framing of the body."""

    method: bytes
    target: bytes
    fields: Fields
    chunked: bool
    length: int
    keep_alive: bool | None  # None: it does not say


class Callbacks:
    """llhttp tells what it reads."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: Fields = []
        self.complete = False
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


def framing(fields: Fields) -> tuple[bool, int]:
    lengths = [int(value) for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    return codings == [b"chunked"], lengths[0] if lengths else 0


def by_httptools(head: bytes) -> Reading | None:
    told = Callbacks()
    try:
        told.parser.feed_data(head + b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    if not told.complete:
        return None
    return Reading(told.parser.get_method(), told.target, told.fields, *framing(told.fields), told.keep_alive)


def by_h11(head: bytes) -> Reading | None:
    peer = h11.Connection(h11.SERVER)
    try:
        peer.receive_data(head + b"\r\n\r\n")
        event = peer.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
    return Reading(event.method, event.target, fields, *framing(fields), None)


def agree(head: bytes) -> bool:
    """Whether we accept it; then both others do, and all three see the same message."""
    try:
        ours = parse_request(head, 100, 8192, False)
    except Malformed:
        return False
    for reading in (by_httptools(head), by_h11(head)):
        assert reading is not None
        assert reading.method == ours.method
        assert reading.target in (ours.target, head.split(b" ")[1])  # the absolute form is ours to split
        assert (reading.chunked, reading.length) == (ours.length < 0, max(ours.length, 0))
        assert reading.keep_alive in (ours.keep_alive, None)
        hosts = [value for name, value in reading.fields if name == b"host"]
        assert hosts in ([ours.host], []) or not reading.target.startswith(b"/")
        for line in ours.lines:
            name, _, value = line.partition(b":")
            if name != b"Content-Length":  # written anew: `03` leaves as `3`
                assert (name.lower(), value.strip(b" \t")) in reading.fields
    return True


def head_of(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.test") -> bytes:
    return b"\r\n".join([start, host, *lines])


ACCEPTED = [
    head_of(),
    head_of(start=b"GET /a?b=c&d=%20 HTTP/1.1"),
    head_of(start=b"OPTIONS * HTTP/1.1"),
    head_of(start=b"GET http://b.test/x HTTP/1.1"),
    head_of(start=b"GET / HTTP/1.0"),
    head_of(b"Connection: keep-alive", start=b"GET / HTTP/1.0"),
    head_of(b"Connection: close"),
    head_of(b"Connection: X-A, close", b"Accept: */*"),
    head_of(b"Content-Length: 0"),
    head_of(b"Content-Length: 12", start=b"POST / HTTP/1.1"),
    head_of(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.1"),
    head_of(b"Transfer-Encoding:Chunked", start=b"PUT / HTTP/1.1"),
    head_of(b"X-Empty:", b"X-Tab:\ta\tb ", b"X-Quoted: \"a, b\"", b"X-High: \xe4"),
    head_of(b"Cookie: a=b", b"Cookie: c=d"),
    head_of(host=b"Host: A.test:8080"),
    head_of(host=b"hOST:[::1]:80"),
]  # fmt: skip


@pytest.mark.parametrize("head", ACCEPTED)
def test_accepted_by_all_and_read_the_same(head: bytes) -> None:
    assert agree(head)


STRICTER = [  # (why, head, who accepts it)
    ("HTTP/0.9", b"GET /", "httptools"),
    ("two blanks in the request line", head_of(start=b"GET  / HTTP/1.1"), "httptools"),
    ("another major version", head_of(start=b"GET / HTTP/2.0"), "httptools h11"),
    ("CONNECT", head_of(start=b"CONNECT a.test:443 HTTP/1.1", host=b"Host: a.test:443"), "httptools h11"),
    ("a fragment", head_of(start=b"GET /#top HTTP/1.1"), "httptools h11"),
    ("user information", head_of(start=b"GET http://u@a/ HTTP/1.1"), "httptools h11"),
    ("no Host", b"GET / HTTP/1.1", "httptools"),
    ("two Hosts", head_of(b"Host: b.test"), "httptools"),
    ("a Host that is none", head_of(host=b"Host: a,b"), "httptools h11"),
    ("a bare LF", b"GET / HTTP/1.1\nHost: a", "h11"),
    ("a folded line", head_of(b" folded"), "h11"),
    ("a length that is a list", head_of(b"Content-Length: 3, 3"), "h11"),
    ("a length and chunks", head_of(b"Content-Length: 3", b"Transfer-Encoding: chunked"), "h11"),
    ("an empty coding", head_of(b"Transfer-Encoding: , chunked"), "httptools"),
    ("a coding before chunked", head_of(b"Transfer-Encoding: gzip, chunked"), "httptools"),
    ("chunks in HTTP/1.0", head_of(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), "httptools h11"),
]


@pytest.mark.parametrize(("head", "whom"), [row[1:] for row in STRICTER], ids=[row[0] for row in STRICTER])
def test_where_we_are_stricter(head: bytes, whom: str) -> None:
    assert not agree(head)
    others = {"httptools": by_httptools(head), "h11": by_h11(head)}
    assert " ".join(name for name, reading in others.items() if reading is not None) == whom


PIECES = st.sampled_from(
    [
        b"Content-Length: 3", b"Content-Length: 03", b"content-length:3", b"Content-Length: 3,3", b"Content-Length: ",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: \tchunked", b"Transfer-Encoding: identity",
        b"Connection: close", b"Connection: close, X-A", b"Connection:", b"X-A: b",
        b"X-A : b", b" folded", b"\tfolded: x", b"Host: b.test", b"X\x00: y", b"X: a\x00b", b"X: a\x0bb", b"X: \xff",
        b"TE: trailers", b"Expect: 100-continue", b"Content_Length: 5", b":", b"X", b"X:", b"X: a\nY: b", b"X: a\rY: b",
        b"Keep-Alive: 5", b"Max-Forwards: 0", b"Upgrade: h2c",
    ]
)  # fmt: skip
# Methods that llhttp knows: we pass on any token.
STARTS = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /a HTTP/1.1", b"PUT / HTTP/1.0", b"GET  / HTTP/1.1", b"GET http://b.test/ HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"PATCH / HTTP/1.1", b"GET /# HTTP/1.1", b"DELETE /?a HTTP/1.1", b"HEAD /%00 HTTP/1.1"]
)  # fmt: skip


@settings(max_examples=1000)
@given(STARTS, st.lists(PIECES, max_size=5))
def test_whatever_we_accept_all_read_the_same(start: bytes, pieces: list[bytes]) -> None:
    agree(head_of(*pieces, start=start))
