"""The PROXY protocol (2020/03), versions 1 and 2: what a proxy in front says of the client whom it speaks for.

Pure: bytes in, an address out. Only the client's address is taken. Everything else is skipped within bounds: the
destination, ports, and the vectors of version 2. That holds for PP2_TYPE_SSL, too: whether a connection is secure is
told in one way only, by X-Forwarded-Proto of a trusted peer. Checksums (PP2_TYPE_CRC32C) aren't checked: TCP has one.
"""

from __future__ import annotations

import socket
from typing import Final

_LINE: Final = b"PROXY "
_LINE_LIMIT: Final = 107  # bytes with CRLF
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_HEADER: Final = 16
_BLOCK_LIMIT: Final = 16 * 1024  # bytes of addresses and vectors

_LOCAL: Final = 0x20  # version 2, and the commands
_PROXY: Final = 0x21
_INET: Final = 1  # address families, and how many bytes theirs take with both ports
_INET6: Final = 2
_UNIX: Final = 3
_SIZES: Final = {_INET: 12, _INET6: 36, _UNIX: 216}
_STREAM: Final = 1
_DGRAM: Final = 2


class BadPreface(Exception):
    """It began as one and can't be read."""


class Preface:
    """What was read. `address`: the client's, "" if the preface names none; `rest`: bytes that belong to the client.

    `found`: there was a preface at all. `relayed`: what follows is a client's, known or not, and not the proxy's own.
    """

    __slots__ = ("address", "found", "relayed", "rest")

    def __init__(self, found: bool, relayed: bool, address: str, rest: bytes) -> None:
        self.found = found
        self.relayed = relayed
        self.address = address
        self.rest = rest


def read(data: bytes) -> Preface | None:
    """`data`: all that has come, at least a byte. None: more is needed to tell. Raises BadPreface."""
    if data.startswith(_LINE):
        return _read_line(data)
    if data.startswith(_SIGNATURE):
        return _read_block(data)
    if _LINE.startswith(data) or _SIGNATURE.startswith(data):
        return None
    return Preface(False, False, "", data)


def _read_line(data: bytes) -> Preface | None:
    """Version 1 (section 2.1)."""
    end = data.find(b"\r\n", 0, _LINE_LIMIT)
    if end < 0:
        if len(data) >= _LINE_LIMIT:
            raise BadPreface("no end of line")
        return None
    rest = data[end + 2 :]
    words = data[:end].split(b" ")
    kind = words[1]
    if kind == b"UNKNOWN":  # a client all the same; whatever follows on the line is to be ignored
        return Preface(True, True, "", rest)
    if len(words) != 6 or kind not in (b"TCP4", b"TCP6"):
        raise BadPreface("not a line of version 1")
    family = socket.AF_INET if kind == b"TCP4" else socket.AF_INET6
    source = _text_address(family, words[2])
    _text_address(family, words[3])
    _check_port(words[4])
    _check_port(words[5])
    return Preface(True, True, source, rest)


def _text_address(family: socket.AddressFamily, text: bytes) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text.decode("ascii")))
    except (OSError, ValueError):  # ValueError: not ASCII, or a NUL
        raise BadPreface("not an address") from None


def _check_port(text: bytes) -> None:
    if not text.isdigit() or len(text) > 5 or (text[:1] == b"0" and text != b"0") or int(text) > 65535:
        raise BadPreface("not a port")


def _read_block(data: bytes) -> Preface | None:
    """Version 2 (section 2.2)."""
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise BadPreface("unknown version or command")
    if len(data) < _HEADER:
        return None
    size = data[14] << 8 | data[15]
    if size > _BLOCK_LIMIT:
        raise BadPreface("too long")
    family, transport = data[13] >> 4, data[13] & 15
    if data[12] == _PROXY and (family > _UNIX or transport > _DGRAM):
        raise BadPreface("unknown family or transport")
    end = _HEADER + size
    if len(data) < end:
        return None
    return Preface(True, data[12] == _PROXY, _block_address(data, family, transport, size), data[end:])


def _block_address(data: bytes, family: int, transport: int, size: int) -> str:
    """ "" where the real address counts: LOCAL, UNSPEC, and what can't be the client of a TCP connection."""
    if data[12] == _LOCAL or family not in _SIZES:
        return ""
    if size < _SIZES[family]:
        raise BadPreface("too short for its addresses")
    if transport != _STREAM or family == _UNIX:
        return ""
    if family == _INET:
        return socket.inet_ntop(socket.AF_INET, data[_HEADER : _HEADER + 4])
    return socket.inet_ntop(socket.AF_INET6, data[_HEADER : _HEADER + 16])
