"""Response heads: framing by status, method and fields; everything ambiguous is refused."""

from __future__ import annotations

import pytest

from gateway.errors import BadResponse
from gateway.http1.response_head import parse_response
from gateway.messages import UNKNOWN

OK = b"HTTP/1.1 200 OK"

REFUSED = [
    b"",
    b"HTTP/1.1",
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 abc OK",
    b"HTTP/1.1 099 X",
    b"HTTP/1.1 600 X",
    b"HTTP/2 200 OK",
    b"http/1.1 200 OK",
    b"ICY 200 OK",
    b"<html>",
    OK + b"\nX: y",
    OK + b"\r\nX: a\rb",
    OK + b"\r\nX: \x00",
    OK + b"\r\n folded: x",
    OK + b"\r\nX: y\r\n z",
    OK + b"\r\nno colon",
    OK + b"\r\nContent-Length : 1",
    OK + b"\r\nX y : z",
    OK + b"\r\nContent-Length: 1\r\nContent-Length: 1",
    OK + b"\r\nContent-Length: 1, 1",
    OK + b"\r\nContent-Length: -1",
    OK + b"\r\nContent-Length: x",
    OK + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    OK + b"\r\nTransfer-Encoding: gzip, chunked",
    OK + b"\r\nTransfer-Encoding: identity",
    OK + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
]


@pytest.mark.parametrize("head", REFUSED)
def test_refused(head: bytes) -> None:
    with pytest.raises(BadResponse) as caught:
        parse_response(head, b"GET")
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("head", "method", "length", "bodiless", "kept"),
    [
        (OK + b"\r\nContent-Length: 5", b"GET", 5, False, True),
        (OK + b"\r\nContent-Length: 5", b"HEAD", 5, True, True),
        (OK + b"\r\nTransfer-Encoding: chunked", b"GET", UNKNOWN, False, True),
        (OK + b"\r\nTransfer-Encoding: chunked\r\nConnection: close", b"GET", UNKNOWN, False, False),
        (OK + b"\r\nTransfer-Encoding: chunked", b"HEAD", UNKNOWN, True, True),
        (OK, b"GET", UNKNOWN, False, False),
        (OK, b"HEAD", UNKNOWN, True, True),
        (b"HTTP/1.1 204 No Content", b"GET", UNKNOWN, True, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9", b"GET", 9, True, True),
        (b"HTTP/1.1 103 Early Hints", b"GET", UNKNOWN, True, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0", b"GET", 0, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive", b"GET", 0, False, True),
        (b"HTTP/1.1 200", b"GET", UNKNOWN, False, False),
    ],
)
def test_framing(head: bytes, method: bytes, length: int, bodiless: bool, kept: bool) -> None:
    response = parse_response(head, method)
    assert (response.length, response.bodiless, response.keep_alive) == (length, bodiless, kept)


def test_fields() -> None:
    response = parse_response(
        OK
        + b"\r\nDate: x\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nKeep-Alive: timeout=5, max=9\r\nUpgrade: h2c"
        b"\r\nX-Request-Id: forged\r\nContent-Length: 0",
        b"GET",
    )
    assert response.lines == [b"Date: x", b"X-Kept: 2", b"Content-Length: 0"]
    assert response.dated
    assert response.reuse_for == 5
    assert response.upgrade == b""


def test_204_never_has_a_length() -> None:
    assert parse_response(b"HTTP/1.1 204 No Content\r\nContent-Length: 0", b"GET").lines == []
