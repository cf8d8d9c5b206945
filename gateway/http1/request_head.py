"""A request head from bytes: one strict reading, or `Malformed` (RFC 9112 2-6, RFC 9110 5-7).

What comes out is end-to-end: hop-by-hop fields and fields named by `Connection` are gone, framing is a number, and the
fields that the gateway writes itself have been taken out. Bare CR or LF, folded lines, blanks around names, two Hosts,
Content-Length beside Transfer-Encoding are refused, never repaired.
"""

from __future__ import annotations

from typing import Final

from gateway import fields
from gateway.errors import Malformed
from gateway.fields import (
    ACCEPT,
    CONNECTION,
    CONTENT_LENGTH,
    CONTROLS,
    DROP,
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HOST,
    MAX_FORWARDS,
    PLAIN,
    REQUEST_CODES,
    REQUEST_ID,
    TE,
    TRACEPARENT,
    TRACESTATE,
    TRANSFER_ENCODING,
    UPGRADE,
    USER_AGENT,
    bare_line_feed,
    elements,
    is_token,
    request_code,
)
from gateway.guards import (
    check_host,
    check_target,
    check_transfer_encoding,
    content_length,
    expects_continue,
    split_absolute,
    traceparent,
    valid_request_id,
)
from gateway.messages import UNKNOWN, Request

_METHODS: Final = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"}

_LONGEST_METHOD: Final = 256  # bytes; the longest that is registered has 17 (RFC 9110 18.2)


class _Framing:
    """What the fields said about framing and the connection, until all of them are read."""

    __slots__ = ("chunked", "connection", "expect", "hosts", "length", "parents", "states", "upgrade")

    def __init__(self) -> None:
        self.hosts = 0
        self.length = UNKNOWN
        self.chunked = False
        self.connection: list[bytes] | None = None
        self.expect = b""
        self.parents = 0  # traceparent fields
        self.states: list[bytes] | None = None  # tracestate fields
        self.upgrade = b""


def parse_request(head: bytes, field_limit: int, target_limit: int, trusted: bool) -> Request:
    """`head` without its final empty line. `trusted`: the peer's X-Forwarded-*, X-Request-Id are believed."""
    lines = head.split(b"\r\n")
    count = len(lines) - 1
    if len(head.translate(None, CONTROLS)) + 2 * count != len(head):
        raise Malformed("control character in the header section")
    request = _request_line(lines[0], target_limit)
    if count > field_limit:
        raise Malformed("too many fields", 431)
    framing = _Framing()
    kept = request.lines
    for at in range(1, count + 1):
        line = lines[at]
        colon = line.find(b":")
        if colon < 1:
            raise _misnamed(line)
        name = line[:colon]
        code = REQUEST_CODES.get(name, -1)
        if code < 0:
            code = request_code(name)
        if code == PLAIN:
            kept.append(line)
        elif code == USER_AGENT:
            kept.append(line)
            request.user_agent = line
        elif code != DROP:
            if code < 0:
                raise _misnamed(line)
            _special(code, line[colon + 1 :].strip(b" \t"), line, request, framing, trusted)
    _conclude(request, framing)
    return request


def _misnamed(line: bytes) -> Malformed:
    """Why no field name could be read from `line` (RFC 9112 5)."""
    if line.startswith((b" ", b"\t")):
        return Malformed("folded field line")
    return Malformed("field without a name" if line.find(b":") < 1 else "invalid field name")


def check_partial(data: bytes, head_limit: int, target_limit: int, known: int = 0) -> None:
    """Raises Malformed if what has come (at least a byte, no empty line yet) can't become a head any more.

    `known`: bytes that an earlier call has looked at, with one more behind them. A head that comes byte by byte must
    not be read anew with each.
    """
    line = data.find(b"\r\n")
    if (line < 0 and len(data) > target_limit + 64) or line > target_limit + 64:
        raise Malformed("request target too long", 414)
    if len(data) > head_limit:
        raise Malformed("header section too large", 431)
    if data == b"\r":
        return  # half of an empty line before the request (RFC 9112 2.2)
    if data[0] < 0x21 or data[0] > 0x7E or bare_line_feed(data, known):
        raise Malformed("not an HTTP/1 request")


def _request_line(line: bytes, target_limit: int) -> Request:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Malformed("invalid request line")
    method, target, version = parts
    if version != b"HTTP/1.1":
        _check_version(version)
    if method not in _METHODS:
        _check_method(method)
    if len(target) > target_limit:
        raise Malformed("request target too long", 414)
    check_target(target)
    if not target.startswith(b"/") and target.find(b"://") < 0 and (target != b"*" or method != b"OPTIONS"):
        raise Malformed("invalid request target")
    return Request(method, target, version == b"HTTP/1.0")


def _check_version(version: bytes) -> None:
    if len(version) != 8 or not version.startswith(b"HTTP/") or version[6:7] != b"." or not _digits(version):
        raise Malformed("invalid HTTP version")
    if version[5:6] != b"1":
        raise Malformed("HTTP version not supported", 505)


def _digits(version: bytes) -> bool:
    return version[5:6].isdigit() and version[7:8].isdigit()


def _check_method(method: bytes) -> None:
    if len(method) > _LONGEST_METHOD:
        raise Malformed("method too long", 501)
    if not is_token(method):
        raise Malformed("invalid method")
    if method == b"CONNECT":
        raise Malformed("CONNECT is not allowed", 405)


def _special(code: int, value: bytes, line: bytes, request: Request, framing: _Framing, trusted: bool) -> None:
    """A field that is not simply passed on."""
    if code == HOST:
        framing.hosts += 1
        request.host = value
    elif code == ACCEPT:
        request.accept = value
        request.lines.append(line)
    elif code == CONNECTION:
        found = elements(value)
        framing.connection = found if framing.connection is None else framing.connection + found
    elif code == CONTENT_LENGTH:
        if framing.length != UNKNOWN:
            raise Malformed("more than one Content-Length")
        framing.length = content_length(value)
    elif code == TRANSFER_ENCODING:
        if framing.chunked:
            raise Malformed("more than one Transfer-Encoding")
        check_transfer_encoding(value)
        framing.chunked = True
    else:
        _rarer(code, value, line, request, framing, trusted)


def _rarer(code: int, value: bytes, line: bytes, request: Request, framing: _Framing, trusted: bool) -> None:
    if code in (TRACEPARENT, TRACESTATE):
        _trace(code, value, line, request, framing)
    elif code == UPGRADE:
        framing.upgrade = value
    elif code == EXPECT:
        framing.expect = framing.expect + b", " + value if framing.expect else value
    elif code == TE:
        request.takes_trailers = request.takes_trailers or b"trailers" in elements(value)
    elif code == MAX_FORWARDS:
        _max_forwards(value, line, request)
    elif trusted:
        _believed(code, value, line, request)


def _trace(code: int, value: bytes, line: bytes, request: Request, framing: _Framing) -> None:
    """W3C Trace Context 3.2, 3.3: one traceparent or none, with the tracestate before and behind it."""
    if code == TRACEPARENT:
        framing.parents += 1
        request.trace = traceparent(value) if framing.parents == 1 else b""
    else:
        framing.states = [line] if framing.states is None else [*framing.states, line]


def _max_forwards(value: bytes, line: bytes, request: Request) -> None:
    """RFC 9110 7.6.2: counts for OPTIONS and TRACE only."""
    if request.method not in (b"OPTIONS", b"TRACE"):
        request.lines.append(line)
        return
    if not value.isdigit() or len(value) > 9 or request.max_forwards >= 0:
        raise Malformed("invalid Max-Forwards")
    request.max_forwards = int(value)
    if request.max_forwards > 0:
        request.lines.append(b"Max-Forwards: %d" % (request.max_forwards - 1))


def _believed(code: int, value: bytes, line: bytes, request: Request) -> None:
    """Fields that only a trusted proxy before us may set."""
    if code == FORWARDED_FOR:
        request.forwarded_for = request.forwarded_for + b", " + value if request.forwarded_for else value
    elif code == FORWARDED_PROTO:
        if value in (b"http", b"https"):
            request.forwarded_proto = value
    elif code == FORWARDED_HOST:
        request.forwarded_host = value
    elif code == FORWARDED:
        request.lines.append(line)
    elif code == REQUEST_ID and valid_request_id(value):
        request.request_id = value


def _conclude(request: Request, framing: _Framing) -> None:
    """What can only be judged once all fields are known."""
    if framing.hosts != 1 and (framing.hosts > 1 or not request.old):
        raise Malformed("exactly one Host is required")
    if framing.hosts:
        check_host(request.host)
    if not request.target.startswith(b"/") and request.target != b"*":
        request.host, request.target = split_absolute(request.target, request.method)
        check_host(request.host)
    if framing.chunked:
        if framing.length != UNKNOWN:
            raise Malformed("both Content-Length and Transfer-Encoding")
        if request.old:
            raise Malformed("Transfer-Encoding in HTTP/1.0")
        request.length = UNKNOWN
    elif framing.length != UNKNOWN:
        request.length = framing.length
        request.lines.append(b"Content-Length: %d" % framing.length)
    if framing.states is not None and request.trace:
        request.lines += framing.states
    if framing.connection is not None:
        _connection(request, framing, framing.connection)
    else:
        request.takes_trailers = False  # TE counts only if Connection names it (RFC 9110 10.1.4)
    if framing.expect and not request.old:
        request.expects_continue = expects_continue(framing.expect) and request.length != 0
    if request.method == b"TRACE" and request.length != 0:
        raise Malformed("TRACE with a body")


def _connection(request: Request, framing: _Framing, options: list[bytes]) -> None:
    """RFC 9112 9.3; an upgrade is only meant if `Connection` names it, and none starts after a body."""
    if b"close" in options:
        request.keep_alive = False
    elif request.old and b"keep-alive" in options:
        request.keep_alive = True
    if b"upgrade" in options and framing.upgrade and not request.old and request.length == 0:
        request.upgrade = framing.upgrade if framing.upgrade.lower() == b"websocket" else b""
    if b"te" not in options:
        request.takes_trailers = False
    nominated = [name for name in options if name not in (b"close", b"keep-alive", b"upgrade", b"te")]
    if nominated:
        request.nominated = nominated
        request.lines = fields.without(request.lines, nominated)
