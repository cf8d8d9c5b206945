"""Request heads: what is read, and everything that is refused, as data; and against h11 where both must agree."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Malformed
from gateway.http1.request_head import parse_request
from gateway.messages import UNKNOWN, Request

H = b"GET / HTTP/1.1\r\nHost: a.test"


def read(head: bytes, trusted: bool = False) -> Request:
    return parse_request(head, 100, 8192, trusted)


REFUSED = [
    # the request line
    (b"", 400),
    (b"GET", 400),
    (b"GET /", 400),
    (b"GET / HTTP/1.1 \r\nHost: a", 400),
    (b"GET  / HTTP/1.1\r\nHost: a", 400),
    (b"GET /  HTTP/1.1\r\nHost: a", 400),
    (b" GET / HTTP/1.1\r\nHost: a", 400),
    (b"GET\t/ HTTP/1.1\r\nHost: a", 400),
    (b"GET / a HTTP/1.1\r\nHost: a", 400),
    (b"GET / HTTP/1.10\r\nHost: a", 400),
    (b"GET / HTTP/11\r\nHost: a", 400),
    (b"GET / http/1.1\r\nHost: a", 400),
    (b"GET / HTTP/1,1\r\nHost: a", 400),
    (b"GET / HTTP/a.1\r\nHost: a", 400),
    (b"GET / ICY/1.1\r\nHost: a", 400),
    (b"GET / HTTP/2.0\r\nHost: a", 505),
    (b"GET / HTTP/0.9\r\nHost: a", 505),
    (b"PRI * HTTP/2.0", 505),
    (b"G(T / HTTP/1.1\r\nHost: a", 400),
    (b"G\xc3T / HTTP/1.1\r\nHost: a", 400),
    (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443", 405),
    (b"GET /#top HTTP/1.1\r\nHost: a", 400),
    (b"GET /\xe4 HTTP/1.1\r\nHost: a", 400),
    (b"GET /\x7f HTTP/1.1\r\nHost: a", 400),
    (b"GET a HTTP/1.1\r\nHost: a", 400),
    (b"GET * HTTP/1.1\r\nHost: a", 400),
    (b"GET ftp://a/ HTTP/1.1\r\nHost: a", 400),
    (b"GET http:/a/ HTTP/1.1\r\nHost: a", 400),
    (b"GET http:/// HTTP/1.1\r\nHost: a", 400),
    (b"GET http://u@a/ HTTP/1.1\r\nHost: a", 400),
    (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: a", 414),
    # line ends and folding
    (b"GET / HTTP/1.1\nHost: a", 400),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y", 400),
    (b"GET / HTTP/1.1\r\nHost: a\rX: y", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n folded", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded: x", 400),
    (b"GET / HTTP/1.1\r\n Host: a", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0b", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f", 400),
    # names
    (b"GET / HTTP/1.1\r\nHost: a\r\nX : y", 400),
    (b"GET / HTTP/1.1\r\nHost : a", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nno colon", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: no name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: y", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX(: y", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3", 400),
    (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: y" * 100, 431),
    # Host
    (b"GET / HTTP/1.1", 400),
    (b"GET / HTTP/1.1\r\nX: y", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b", 400),
    (b"GET / HTTP/1.1\r\nHost:", 400),
    (b"GET / HTTP/1.1\r\nHost: a b", 400),
    (b"GET / HTTP/1.1\r\nHost: a,b", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b", 400),
    (b"GET / HTTP/1.1\r\nHost: u@a", 400),
    (b"GET / HTTP/1.1\r\nHost: a:x", 400),
    (b"GET / HTTP/1.1\r\nHost: a:80:80", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1", 400),
    (b"GET / HTTP/1.1\r\nHost: a#b", 400),
    (b"GET http://b/ HTTP/1.1", 400),
    # Content-Length
    (H + b"\r\nContent-Length: +3", 400),
    (H + b"\r\nContent-Length: -3", 400),
    (H + b"\r\nContent-Length: 3 3", 400),
    (H + b"\r\nContent-Length: 3, 3", 400),
    (H + b"\r\nContent-Length: 3\r\nContent-Length: 3", 400),
    (H + b"\r\nContent-Length: 3\r\nContent-Length: 4", 400),
    (H + b"\r\nContent-Length: 0x3", 400),
    (H + b"\r\nContent-Length: 1_0", 400),
    (H + b"\r\nContent-Length:", 400),
    (H + b"\r\nContent-Length: \xb2", 400),
    (H + b"\r\nContent-Length: 9999999999999999999", 400),
    (H + b'\r\nContent-Length: "3"', 400),
    # Transfer-Encoding
    (H + b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", 400),
    (H + b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", 400),
    (H + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    (H + b"\r\nTransfer-Encoding: chunked, chunked", 400),
    (H + b"\r\nTransfer-Encoding: chunked, identity", 400),
    (H + b"\r\nTransfer-Encoding: , chunked", 400),
    (H + b"\r\nTransfer-Encoding:", 400),
    (H + b"\r\nTransfer-Encoding: gzip, chunked", 501),
    (H + b"\r\nTransfer-Encoding: gzip", 501),
    (H + b"\r\nTransfer-Encoding: identity", 501),
    (H + b"\r\nTransfer-Encoding: xchunked", 501),
    (H + b"\r\nTransfer-Encoding: chunkedx", 501),
    (H + b"\r\nTransfer-Encoding: chunked;q=1", 501),
    (H + b'\r\nTransfer-Encoding: "chunked"', 501),
    (H + b"\r\nTransfer-Encoding: \x0bchunked", 400),
    (H + b"\r\nTransfer-Encoding : chunked", 400),
    (H + b"\r\n Transfer-Encoding: chunked", 400),
    (H + b"\r\nTransfer\x00-Encoding: chunked", 400),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
    # others
    (H + b"\r\nContent-Length: 3\r\nExpect: 200-maybe", 417),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3", 400),
    (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x", 400),
]


@pytest.mark.parametrize(("head", "status"), REFUSED)
def test_refused(head: bytes, status: int) -> None:
    with pytest.raises(Malformed) as caught:
        read(head)
    assert caught.value.status == status


def test_a_plain_request() -> None:
    request = read(b"POST /a?b HTTP/1.1\r\nHost: A.test:8080\r\nX-A: 1\r\nContent-Length: 3\r\nAccept: text/html")
    assert (request.method, request.target, request.host) == (b"POST", b"/a?b", b"A.test:8080")
    assert request.lines == [b"X-A: 1", b"Accept: text/html", b"Content-Length: 3"]
    assert request.length == 3
    assert request.keep_alive
    assert request.accept == b"text/html"


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://b.test/x?y", b"b.test", b"/x?y"),
        (b"HTTP://b.test:81", b"b.test:81", b"/"),
        (b"https://b.test?q", b"b.test", b"/?q"),
        (b"http://[::1]:80/", b"[::1]:80", b"/"),
    ],
)
def test_absolute_form_replaces_the_host(target: bytes, host: bytes, path: bytes) -> None:
    request = read(b"GET " + target + b" HTTP/1.1\r\nHost: a.test")
    assert (request.host, request.target) == (host, path)


def test_options_asterisk() -> None:
    assert read(b"OPTIONS * HTTP/1.1\r\nHost: a").target == b"*"
    assert read(b"OPTIONS http://a HTTP/1.1\r\nHost: a").target == b"*"


def test_chunked() -> None:
    request = read(H + b"\r\nTransfer-Encoding:  Chunked ")
    assert request.length == UNKNOWN
    assert request.lines == []


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [(b"1.1", b"x", True), (b"1.1", b"Close", False), (b"1.0", b"x", False), (b"1.0", b"keep-alive", True),
     (b"1.2", b"x", True), (b"1.1", b"keep-alive, close", False)],
)  # fmt: skip
def test_persistence(version: bytes, connection: bytes, kept: bool) -> None:
    assert read(b"GET / HTTP/%b\r\nHost: a\r\nConnection: %b" % (version, connection)).keep_alive is kept


def test_hop_by_hop_fields_are_dropped() -> None:
    head = H + (
        b"\r\nConnection: X-Hop, Host, content-length, X-Forwarded-For, Via\r\nConnection: other\r\nKeep-Alive: 5"
        b"\r\nProxy-Connection: x\r\nX-hop: 1\r\nOther: 2\r\nX-Stays: 3\r\nVia: 1.1 b\r\nContent-Length: 2"
        b"\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: x"
    )
    request = read(head)
    assert request.lines == [b"X-Stays: 3", b"Via: 1.1 b", b"Content-Length: 2"]
    assert request.host == b"a.test"
    assert not request.takes_trailers
    assert request.upgrade == b""


def test_forwarded_fields_are_believed_from_trusted_peers_only() -> None:
    head = H + (
        b"\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Request-Id: my-id"
        b"\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 7\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=1.2.3.4"
    )
    request = read(head)
    assert request.lines == []
    assert (request.forwarded_for, request.forwarded_proto, request.request_id) == (b"", b"", b"")
    request = read(head, trusted=True)
    assert request.forwarded_for == b"1.2.3.4"
    assert request.forwarded_proto == b"https"
    assert request.forwarded_host == b"b"
    assert request.request_id == b"my-id"
    assert request.lines == [b"Forwarded: for=1.2.3.4"]


def test_traceparent() -> None:
    good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert read(H + b"\r\ntraceparent: " + good).trace == good
    for bad in (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", good[:-1], b"ff" + good[2:], good.upper()):
        assert read(H + b"\r\nTraceparent: " + bad).trace == b""


def test_expect_and_upgrade() -> None:
    assert read(H + b"\r\nContent-Length: 3\r\nExpect: 100-Continue").expects_continue
    assert not read(H + b"\r\nExpect: 100-continue").expects_continue
    assert not read(b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue").expects_continue
    upgrade = b"\r\nConnection: Upgrade\r\nUpgrade: WebSocket"
    assert read(H + upgrade).upgrade == b"WebSocket"
    assert read(H + upgrade + b"\r\nContent-Length: 1").upgrade == b""
    assert read(H + b"\r\nUpgrade: websocket").upgrade == b""
    assert read(H + b"\r\nConnection: upgrade\r\nUpgrade: h2c").upgrade == b""


def test_max_forwards() -> None:
    options = b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: "
    assert read(options + b"0").max_forwards == 0
    assert read(options + b"3").lines == [b"Max-Forwards: 2"]
    assert read(H + b"\r\nMax-Forwards: 0").max_forwards == -1


TOKENS = st.text("abcXYZ019-!#$%&'*+.^_`|~", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(str.encode)


@settings(max_examples=300)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=8), VALUES.filter(lambda v: b"#" not in v))
def test_what_we_accept_h11_reads_in_the_same_way(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    head = b"\r\n".join([b"GET /" + path + b" HTTP/1.1", b"Host: a.test", *(n + b": " + v for n, v in fields)])
    try:
        request = read(head)
    except Malformed:
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(head + b"\r\n\r\n")
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == request.target
    theirs = [(bytes(name), bytes(value)) for name, value in event.headers]
    for line in request.lines:
        name, _, value = line.partition(b":")
        assert (name.lower(), value.strip()) in theirs


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    valid = b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nX-A: b"
    for head in (noise, valid[:at] + noise + valid[at:]):
        try:
            request = read(head)
        except Malformed:
            continue
        assert all(b"\n" not in line and b"\r" not in line for line in request.lines)
        assert request.target.startswith(b"/") or request.target == b"*"
