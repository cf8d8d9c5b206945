"""A replica's response head from bytes: one strict reading, or `BadResponse` (RFC 9112 4, 6.3).

As with requests, what comes out is end-to-end and framing is a number. The reader is told the request's method, because
HEAD, 204 and 304 have no body whatever their fields say.
"""

from __future__ import annotations

from typing import Final

from gateway import fields
from gateway.errors import BadResponse
from gateway.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    CONTROLS,
    DATE,
    DROP,
    KEEP_ALIVE,
    PLAIN,
    RESPONSE_CODES,
    TRANSFER_ENCODING,
    UPGRADE,
    elements,
    response_code,
)
from gateway.messages import UNKNOWN, Response

_FIELD_LIMIT: Final = 500  # bounded by the size of the head anyway
_CONTENT_LENGTH: Final = b"Content-Length: "


class _Framing:
    """What the fields said about framing and the connection, until all of them are read."""

    __slots__ = ("chunked", "length", "options")

    def __init__(self) -> None:
        self.length = UNKNOWN
        self.chunked = False
        self.options: list[bytes] | None = None


def _unreadable(count: int) -> BadResponse:
    if count > _FIELD_LIMIT:
        return BadResponse("too many fields", "http_response_header_section_size")
    return BadResponse("control character in the header section")


def parse_response(head: bytes, method: bytes) -> Response:
    """`head` without its final empty line. Raises `BadResponse`."""
    lines = head.split(b"\r\n")
    count = len(lines) - 1
    if count > _FIELD_LIMIT or len(head.translate(None, CONTROLS)) + 2 * count != len(head):
        raise _unreadable(count)
    response = _status_line(lines[0])
    kept = response.lines
    framing = _Framing()
    for at in range(1, count + 1):
        line = lines[at]
        colon = line.find(b":")
        if colon < 1:
            raise _misnamed(line)
        name = line[:colon]
        code = RESPONSE_CODES.get(name, -1)
        if code < 0:
            code = response_code(name)
            if code < 0 and name.endswith((b" ", b"\t")):
                name = name.rstrip(b" \t")
                code = _blank_behind(name)
                line = name + line[colon:]
                colon = len(name)
        if code == PLAIN:
            kept.append(line)
        elif code == DATE:
            response.dated = True
            kept.append(line)
        elif code != DROP:
            if code < 0:
                raise _misnamed(line)
            _special(code, line[colon + 1 :].strip(b" \t"), response, framing)
    if framing.chunked and (framing.length != UNKNOWN or not response.keep_alive):
        raise BadResponse("ambiguous framing")  # Content-Length beside it, or in HTTP/1.0
    response.length = framing.length
    response.chunked = framing.chunked
    if framing.options is not None:
        _connection(response, framing.options)
    _conclude(response, method)
    return response


def _misnamed(line: bytes) -> BadResponse:
    """Why no field name could be read from `line` (RFC 9112 5)."""
    if line.startswith((b" ", b"\t")):
        return BadResponse("folded field line")
    return BadResponse("field without a name" if line.find(b":") < 1 else "invalid field name")


def _blank_behind(name: bytes) -> int:
    """RFC 9112 5.1: a proxy removes blanks between name and colon; not of fields that others may read otherwise."""
    code = response_code(name)
    if code in (CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION):
        raise BadResponse("blank before a colon")
    return code


def _special(code: int, value: bytes, response: Response, framing: _Framing) -> None:
    """A field that is not simply passed on."""
    if code == CONTENT_LENGTH:
        if framing.length != UNKNOWN:
            raise BadResponse("more than one Content-Length")
        framing.length = _length(value)
    elif code == TRANSFER_ENCODING:
        if framing.chunked or value.lower() != b"chunked":
            raise BadResponse("unknown transfer coding", "http_response_transfer_coding")
        framing.chunked = True
    elif code == CONNECTION:
        framing.options = (framing.options or []) + elements(value)
    elif code == KEEP_ALIVE:
        response.reuse_for = _reuse_for(elements(value))
    elif code == UPGRADE:
        response.upgrade = value


def _status_line(line: bytes) -> Response:
    """RFC 9112 4; without a reason the blank after the status may be missing. 1.2 is read as 1.1 (RFC 9110 2.5)."""
    version = line[:9]
    status = line[9:12]
    if version != b"HTTP/1.1 " and (version[:7] != b"HTTP/1." or not version[7:8].isdigit() or version[8:] != b" "):
        raise BadResponse("invalid status line")
    if not status.isdigit() or len(status) != 3:
        raise BadResponse("invalid status line")
    if line[12:13] not in (b" ", b"") or status < b"100" or status > b"599":
        raise BadResponse("invalid status line")
    response = Response(int(status), line[13:])
    response.old = version == b"HTTP/1.0 "
    response.keep_alive = not response.old
    return response


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadResponse("invalid Content-Length")
    return int(value)


def _reuse_for(parameters: list[bytes]) -> int:
    for parameter in parameters:
        if parameter.startswith(b"timeout=") and parameter[8:].isdigit() and len(parameter) < 16:
            return int(parameter[8:])
    return 0


def _connection(response: Response, options: list[bytes]) -> None:
    if b"close" in options:
        response.keep_alive = False
    elif b"keep-alive" in options:
        response.keep_alive = True
    if b"upgrade" not in options:
        response.upgrade = b""
    nominated = [name for name in options if name not in (b"close", b"keep-alive", b"upgrade", b"te")]
    if nominated:
        response.nominated = nominated
        response.lines = fields.without(response.lines, nominated)


def _conclude(response: Response, method: bytes) -> None:
    """RFC 9112 6.3: who has a body, and where it ends. Content-Length is told again where it may be."""
    status = response.status
    response.bodiless = method == b"HEAD" or status < 200 or status == 204 or status == 304
    if response.length != UNKNOWN and status >= 200 and status != 204:
        response.lines.append(_CONTENT_LENGTH + str(response.length).encode())
    if response.length == UNKNOWN and not response.chunked and not response.bodiless:
        response.keep_alive = False  # ends with the connection
