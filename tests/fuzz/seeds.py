"""Conversations to begin with, as text; the fuzzer makes the others. Each is right, or wrong in one way."""

from __future__ import annotations

import contextlib
import ssl
import struct

from program import encode

GET = "c GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
POST = "c POST /p HTTP/1.1\r\nHost: app.test\r\n"
OK = "r HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = "r HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
HINT = "r HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n"
HINTS = "r " + "HTTP/1.1 103 Early Hints\r\n\r\n" * 49
HEAD = "c HEAD /h HTTP/1.1\r\nHost: app.test\r\n\r\n"
CHUNKS = "r HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
UPGRADE = "c GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = "r HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
TWO = "GET / HTTP/1.1\r\nHost: two.test\r\n\r\n"
ASLEEP = "GET / HTTP/1.1\r\nHost: asleep.test\r\n\r\n"

PLANE: list[bytes] = [
    encode(GET, OK),
    encode(GET, OK, GET, OK),
    encode(GET, CHUNKED, GET, OK),
    encode("C \x03GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "R \x02HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    encode(POST + "Content-Length: 10\r\n\r\n", "c worldworld", OK),
    encode("C \x01POST /p HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nworldworld", OK, GET, OK),
    encode(POST + "Transfer-Encoding: chunked\r\n\r\n", "c 5\r\nhello\r\n", "c 0\r\nX-T: 1\r\n\r\n", OK),
    encode(
        POST + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        "r HTTP/1.1 100 Continue\r\n\r\n",
        "c 5\r\nhello\r\n0\r\n\r\n",
        OK,
    ),
    encode(GET + "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", OK, CHUNKED),
    encode("c GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n", OK, OK),
    encode(HEAD, "r HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", GET, OK),
    encode(HEAD, CHUNKS + "\r\n", GET, OK),
    encode(GET, "r HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", GET, OK),
    encode(GET, "r HTTP/1.1 204 No Content\r\n\r\n", GET, OK),
    encode(GET, "r HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n", OK),
    encode("c " + TWO, HINTS, OK, "c " + TWO, HINTS, OK, "c " + TWO, HINT, HINT, OK),
    encode(GET, "r HTTP/1.1 200 OK\r\n\r\nhello", "r worldworld", "f"),
    encode(GET, "r HTTP/1.1 200 OK\r\n\r\nhello", "z"),
    encode("c GET /o HTTP/1.0\r\nHost: app.test\r\n\r\n", "r HTTP/1.1 200 OK\r\n\r\nhello", "f"),
    encode("c GET /o HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n", CHUNKED[:-5], "r 0\r\n\r\n"),
    encode(GET, "r HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "f"),
    encode(GET, CHUNKS + "\r\n5\r\nhello\r\n", "z"),
    encode(GET, CHUNKS + "Trailer: X-T\r\n\r\n5\r\nhello\r\n", "r 0\r\nX-T: 1\r\n\r\n"),
    encode(GET, OK + "worldworld", GET, OK),
    encode(GET, OK, "r hello", GET, OK),
    encode(UPGRADE, SWITCH, "c hello", "r worldworld", "h", "f"),
    encode(UPGRADE + "hello", SWITCH + "worldworld", "f", "c hello", "h"),
    encode(UPGRADE, "r HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello", GET, OK),
    encode("c " + ASLEEP, "u \x04", OK),
    encode("c " + ASLEEP, "n " + ASLEEP, "x", "u \x04", OK),
    encode("c POST /s HTTP/1.1\r\nHost: asleep.test\r\nContent-Length: 10\r\n\r\nworldworld", "w \x03", "u \x04", OK),
    encode("c " + ASLEEP + "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "u \x05"),
    encode("c " + ASLEEP, "w \x05"),
    encode("c " + TWO, "n " + TWO, OK, OK, "k", "c " + TWO, OK),
    encode("c " + TWO, "n " + TWO, "x", OK),
    encode("v", GET, "n GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "A", "a", OK, "v", OK),
    encode("v", GET, "x", "a"),
    encode(GET, "z", OK),
    encode(POST + "Content-Length: 5\r\n\r\nhello", "z"),
    encode(GET, OK, "l", "f", GET, "l", OK),
    encode("c " + TWO, OK, "l", "f", "c POST /t HTTP/1.1\r\nHost: two.test\r\n\r\n", "l", OK),
    encode(GET, "s ", "r HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + "C" * 40_000, "t"),
    encode(GET, "s ", "r HTTP/1.1 200 OK\r\n\r\n" + "B" * 3000, "x", "w \x01"),
    encode("p ", POST + "Content-Length: 40000\r\n\r\n", "p ", "c " + "C" * 40_000, "q", OK),
    encode("c PUT /u HTTP/1.1\r\nHost: app.test\r\nContent-Length: 600\r\n\r\n" + "A" * 600, "z", OK),
    encode(POST + "Content-Length: 10\r\n\r\nhello", OK, "c world", GET),
    encode(GET, "u \x01", OK, "u \x02", GET, "u \x00", OK),
    encode(GET, "g", OK, GET),
    encode("g", GET, OK),
    encode(GET[:-2] + "Connection: x-a, x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n", OK),
    encode(GET, "r HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nX-C: 3\r\nContent-Length: 0\r\n\r\n"),
    encode("c GET / HTTP/1.1\r\nHost: app.test\r\nConnection: TE\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\n\r\n", OK),
    encode("c TRACE /r HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: 0\r\n\r\n"),
    encode("c OPTIONS * HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: 3\r\n\r\n", OK),
    encode("c GET http://app.test/abs HTTP/1.1\r\nHost: other.test\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n", OK),
    encode("c GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\nGET / HTTP/1.1\r\nHost: gone.test\r\n\r\n"),
    encode("c GET / HTTP/1.1\r\nHost: app.test\r\n", "w \x04"),
    encode("c \r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "h", OK),
    encode("c GET / HTTP/1.1\r\nHost: app.test\r\nHost: two.test\r\n\r\n"),
    encode(POST + "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n\r\nhello"),
]

REQUEST_HEAD: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: a.test",
    b"POST /a?b=c HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 5\r\nConnection: close, X-A\r\nX-A: 1",
    b"GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\nAccept: */*",
    b"PUT / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTE: trailers",
    b"OPTIONS * HTTP/1.0\r\nMax-Forwards: 3\r\nX-Forwarded-For: 1.2.3.4",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nCookie: a=b",
]
RESPONSE_HEAD: list[bytes] = [
    b"GHTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: x",
    b"HHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close",
    b"GHTTP/1.0 404 Not Found\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nKeep-Alive: timeout=5",
    b"GHTTP/1.1 304\r\nContent-Length: 10\r\nSet-Cookie: a=b",
    b"GHTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket",
]
CHUNKED_BODY: list[bytes] = [
    b"\x01\x005\r\nhello\r\n0\r\n\r\n",
    b"\x07\x035;a=b\r\nhello\r\na\r\nworldworld\r\n0\r\nX-T: 1\r\n\r\nGET /",
    b"\x02\x01005 ;x\r\nhello\r\n0\r\n\r\n",
]


def _hello(name: str | None, protocols: list[str]) -> bytes:
    """A real ClientHello of this OpenSSL, behind the byte that says how it is split."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return b"\x03" + out.read()


CLIENT_HELLO: list[bytes] = [_hello("app.test", ["h2", "http/1.1"]), _hello("a.app.test", []), _hello(None, [])]
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_PREFACE: list[bytes] = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\nGET / HTTP/1.1",
    b"PROXY TCP6 2001:db8::1 ::1 1000 80\r\n",
    b"PROXY UNKNOWN\r\n\x16\x03\x01",
    b"GET / HTTP/1.1\r\n",
    _SIGNATURE + b"\x20\x00" + struct.pack("!H", 0) + b"GET",
    _SIGNATURE + b"\x21\x11" + struct.pack("!H", 12) + bytes(range(12)) + b"GET",
    _SIGNATURE + b"\x21\x21" + struct.pack("!H", 39) + bytes(range(36)) + b"\x04\x00\x00",
    _SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + bytes(216) + b"GET",
]
