"""What is fuzzed: each target takes bytes, and raises if anything is wrong with what the gateway makes of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import httptools
import program
import seeds
import strict_reader
import wire_seeds

from gateway import proxy_protocol
from gateway.errors import BadResponse, Malformed
from gateway.http1.chunked import ChunkError, Decoder
from gateway.http1.request_head import parse_request
from gateway.http1.response_head import parse_response
from gateway.messages import UNKNOWN, Request
from gateway.tls.alerts import Refusal
from gateway.tls.client_hello import LIMIT, ClientHello, HelloReader

Target = Callable[[bytes], None]


def plane(data: bytes) -> None:
    """A conversation through the whole data plane (`program.py`)."""
    program.play(data)


class _Callbacks:
    """llhttp, another reader of requests."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def request_head(data: bytes) -> None:
    """What is accepted is read in the same way by the strict reader, and by llhttp if that accepts it."""
    end = data.find(b"\r\n\r\n")
    head = (data if end < 0 else data[:end]).lstrip(b"\r\n")
    if not head:
        return
    try:
        ours = parse_request(head, 50, 1024, bool(len(data) & 1))
    except Malformed:
        return
    theirs = strict_reader.read_request(head + b"\r\n\r\n", 0)
    assert ours.method == theirs.method
    assert ours.target == program.origin_form(theirs)
    assert ours.length == theirs.length
    _no_invented_fields(ours, theirs)
    llhttp = _Callbacks()
    parser = httptools.HttpRequestParser(llhttp)
    try:
        parser.feed_data(head + b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return  # it has a list of methods, refuses HTTP/1.2 and a tab behind `chunked`: all that is written anew
    assert llhttp.complete
    assert parser.get_method() == ours.method
    assert llhttp.target == theirs.target
    assert llhttp.fields == [(name.lower(), value) for name, value in theirs.fields]


def _no_invented_fields(ours: Request, theirs: strict_reader.Message) -> None:
    fields = [(name.lower(), value) for name, value in theirs.fields]
    for line in ours.lines:
        name, colon, value = line.partition(b":")
        assert colon
        assert b"\r" not in line
        assert b"\n" not in line
        if name not in (b"Content-Length", b"Max-Forwards"):  # those are written anew
            assert (name.lower(), value.strip(b" \t")) in fields
    named = set(theirs.listed(b"connection"))
    for line in ours.lines:
        name = line.partition(b":")[0].lower()
        assert name not in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te")
        assert name not in named or name in program.KEPT or name.startswith(b"x-forwarded-")


def response_head(data: bytes) -> None:
    """What is accepted is read in the same way by the strict reader."""
    method = b"HEAD" if data[:1] == b"H" else b"GET"
    end = data.find(b"\r\n\r\n")
    head = data[1:] if end < 0 else data[1:end]
    try:
        ours = parse_response(head, method)
    except BadResponse:
        return
    theirs = strict_reader.read_response(head + b"\r\n\r\n", 0, method, "") if ours.status >= 200 else None
    if theirs is None:
        return
    assert (b"%03d" % ours.status, ours.reason) == theirs.line
    length = 0 if ours.bodiless else -1 if ours.chunked else -2 if ours.length == UNKNOWN else ours.length
    assert length == theirs.length
    if b"close" in theirs.listed(b"connection") or length == -2:
        assert not ours.keep_alive
    for line in ours.lines:
        name, colon, value = line.partition(b":")
        assert colon
        assert b"\r" not in line
        assert b"\n" not in line
        if name != b"Content-Length":
            assert (name.lower(), value.strip(b" \t")) in [(key.lower(), kept) for key, kept in theirs.fields]


def chunked(data: bytes) -> None:
    """However it is split, a chunked body is the same; and the strict reader agrees."""
    if len(data) < 2:
        return
    body = data[2:]
    whole, split = Decoder(), Decoder()
    first = _decode(whole, [body])
    step, other = data[0] % 7 + 1, data[1] % 5 + 1
    pieces, at = [], 0
    while at < len(body):
        pieces.append(body[at : at + step])
        at += step
        step, other = other, step
    second = _decode(split, pieces)
    assert whole.done == split.done or first is None
    if first is not None and second is not None:
        assert first == second
        assert whole.trailers == split.trailers
    if whole.done:
        assert first is not None
        assert second is not None
        rest = b"".join(pieces)[len(body) - len(whole.rest) :] if whole.rest else b""
        assert whole.rest == rest
        theirs = strict_reader.Body()
        strict_reader.read_chunks(body, 0, theirs)
        assert theirs.complete
        assert theirs.content == first
        assert body[theirs.end :] == whole.rest
        assert [b"%b:%b" % field for field in theirs.trailers] == [
            b"%b:%b" % (name, value.strip(b" \t"))
            for name, _, value in (line.partition(b":") for line in whole.trailers)
        ]
    elif first is None:
        assert second is None, "an error only if it comes in one piece"
    else:
        assert second is not None, "an error only if it comes in pieces"
        theirs = strict_reader.Body()
        strict_reader.read_chunks(body, 0, theirs)
        assert theirs.content == first


def _decode(decoder: Decoder, pieces: list[bytes]) -> bytes | None:
    out = []
    try:
        for piece in pieces:
            if decoder.done:
                decoder.rest += piece
            else:
                out.append(decoder.feed(piece))
    except ChunkError:
        return None
    return b"".join(out)


def client_hello(data: bytes) -> None:
    """However it is split, a ClientHello is the same; and a name is one that a certificate could be for."""
    if not data:
        return
    whole = _hello([data[1:]])
    step = data[0] % 9 + 1
    split = _hello([data[at : at + step] for at in range(1, len(data), step)])
    assert repr(whole) == repr(split)
    if isinstance(whole, ClientHello):
        name = whole.server_name
        assert name == name.lower()
        assert len(name) <= 255
        assert all(letter.isascii() and (letter.isalnum() or letter in "-_.") for letter in name)
        assert not name.startswith(".")
        assert ".." not in name
        assert all(0 < len(protocol) < 256 for protocol in whole.protocols)
        assert all(0 <= version < 0x10000 for version in whole.versions)


def _hello(pieces: list[bytes]) -> ClientHello | str | None:
    reader = HelloReader()
    for piece in pieces:
        try:
            found = reader.feed(piece)
        except Refusal:
            return "refused"
        if found is not None:
            return found
        assert len(reader.data) <= LIMIT + 16 * 1024 + 8
    return None


def proxy_preface(data: bytes) -> None:
    """More bytes never change what was read; an address is one; what belongs to the client is all there."""
    results: list[object] = []
    for size in range(1, len(data) + 1):
        try:
            found = proxy_protocol.read(data[:size])
        except proxy_protocol.BadPreface:
            results.append("bad")
            break
        if found is not None:
            if found.address:
                ipaddress.ip_address(found.address)
            assert data[:size].endswith(found.rest)
            assert found.found or (found.rest == data[:size] and not found.address)
            results.append((found.found, found.address, size - len(found.rest) if found.found else 0))
    decided = [one for one in results if one is not None]
    assert decided[:-1] == decided[1:], "what was read once stays so"


TARGETS: dict[str, tuple[Target, list[bytes]]] = {
    "plane": (plane, seeds.PLANE + wire_seeds.programs()),
    "request-head": (request_head, seeds.REQUEST_HEAD + wire_seeds.request_heads()),
    "response-head": (response_head, seeds.RESPONSE_HEAD + wire_seeds.response_heads()),
    "chunked": (chunked, seeds.CHUNKED_BODY),
    "client-hello": (client_hello, seeds.CLIENT_HELLO),
    "proxy-preface": (proxy_preface, seeds.PROXY_PREFACE),
}
