"""A ClientHello from bytes, as they come (RFC 8446 4.1.2 and 5.1, RFC 5246 7.4.1.2), before any TLS is spoken.

Only what decides about the certificate and the protocol is read; OpenSSL reads the same bytes again and judges the
rest. What could be understood in two ways (a field twice, two names, a length that doesn't fit) is refused, so that
both readers see the same name. Pure; at most 17 KiB are ever kept, and kept once.
"""

from __future__ import annotations

from typing import Final

from gateway.tls.alerts import (
    DECODE_ERROR,
    ILLEGAL_PARAMETER,
    PROTOCOL_VERSION,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    Refusal,
)

# Bytes of all records together. BoringSSL, and so Google's and Cloudflare's front ends, takes a message of 16 KiB. With
# ML-KEM and a ticket OpenSSL and Chrome send 1.8 KiB; 5.5 KiB (Envoy, with a large ticket) is the most that we know of.
LIMIT: Final = 17 * 1024

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_FRAGMENT: Final = 1 << 14  # of one record
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_TLS12: Final = 0x0303  # the newest that is offered without that extension (RFC 8446 4.2.1)
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_"


class ClientHello:
    """`server_name`: in lower case; "" if the client sent none, or one that no certificate can be for.

    `protocols`: of ALPN, in the client's order, empty if there was none. `versions`: all that the client offers.
    """

    __slots__ = ("protocols", "server_name", "versions")

    def __init__(self, server_name: str, protocols: list[bytes], versions: list[int]) -> None:
        self.server_name = server_name
        self.protocols = protocols
        self.versions = versions

    def __repr__(self) -> str:
        return f"<ClientHello {self.server_name!r} {self.protocols!r} {[hex(version) for version in self.versions]}>"


class HelloReader:
    """`feed` what comes until it returns the hello; `data` is all that was fed, and less than `LIMIT` until then."""

    __slots__ = ("_at", "_carried", "_header", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._at = 0  # where the next record begins
        self._carried = 0  # bytes of the message in the records before it…
        self._header = b""  # …and the first four of them

    def feed(self, data: bytes) -> ClientHello | None:
        """None: there is more to come. Raises Refusal."""
        self.data += data
        while self._take_record():
            length = self._message_length()
            if 0 <= length <= self._carried:
                return parse_hello(self._message()[4:length])
        return None

    def _message(self) -> bytes:
        """What the records so far carried."""
        data, at = self.data, 0
        fragments: list[bytes] = []
        while at < self._at:
            end = at + 5 + (data[at + 3] << 8 | data[at + 4])
            fragments.append(bytes(data[at + 5 : end]))
            at = end
        return b"".join(fragments)

    def _take_record(self) -> bool:
        """Go on to behind the next record, if it is complete."""
        data, at = self.data, self._at
        waiting = len(data) - at
        if waiting and data[at] != _HANDSHAKE:
            # An SSL 2.0 hello is no TLS at all, but says what it is (RFC 5246 E.2).
            old = at == 0 and data[0] & 0x80 and (waiting < 3 or data[2] == _CLIENT_HELLO)
            raise Refusal(PROTOCOL_VERSION, "version") if old else Refusal(UNEXPECTED_MESSAGE, "malformed")
        if waiting > 1 and data[at + 1] != 3:
            raise Refusal(PROTOCOL_VERSION, "version")
        if waiting < 5:
            return False
        length = data[at + 3] << 8 | data[at + 4]
        if length > _FRAGMENT:
            raise Refusal(RECORD_OVERFLOW, "malformed")
        if length == 0 or at + 5 + length > LIMIT:  # RFC 8446 5.1: no empty fragments
            raise Refusal(DECODE_ERROR, "malformed")
        if waiting < 5 + length:
            return False
        missing = 4 - len(self._header)
        if missing:
            self._header += bytes(data[at + 5 : at + 5 + min(length, missing)])
        self._carried += length
        self._at = at + 5 + length
        return True

    def _message_length(self) -> int:
        """With its header of four bytes; -1: that is not there yet."""
        header = self._header
        if header[0] != _CLIENT_HELLO:
            raise Refusal(UNEXPECTED_MESSAGE, "malformed")
        if len(header) < 4:
            return -1
        length = 4 + (header[1] << 16 | header[2] << 8 | header[3])
        if length > LIMIT:
            raise Refusal(DECODE_ERROR, "malformed")
        return length


class _Cursor:
    """Reads vectors; every length must fit (RFC 8446 3.4)."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise Refusal(DECODE_ERROR, "malformed")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int) -> bytes:
        """With a length of `size` bytes; at least `least` long."""
        found = self.take(self.number(size))
        if len(found) < least:
            raise Refusal(DECODE_ERROR, "malformed")
        return found

    def more(self) -> bool:
        return self.at < len(self.data)


def parse_hello(body: bytes) -> ClientHello:
    """The body of a ClientHello message. Raises Refusal."""
    cursor = _Cursor(body)
    legacy = cursor.number(2)
    cursor.take(32)  # random
    session = cursor.vector(1, 0)
    suites = cursor.vector(2, 2)
    cursor.vector(1, 1)  # compression methods
    if len(session) > 32 or len(suites) % 2:
        raise Refusal(DECODE_ERROR, "malformed")
    found = _extensions(cursor.vector(2, 0)) if cursor.more() else {}
    if cursor.more():
        raise Refusal(DECODE_ERROR, "malformed")
    name, protocols, versions = found.get(_SERVER_NAME), found.get(_ALPN), found.get(_SUPPORTED_VERSIONS)
    return ClientHello(
        "" if name is None else _server_name(name),
        [] if protocols is None else _protocols(protocols),
        [min(legacy, _TLS12)] if versions is None else _versions(versions),
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    cursor = _Cursor(data)
    found: dict[int, bytes] = {}
    while cursor.more():
        kind = cursor.number(2)
        if kind in found:  # RFC 8446 4.2
            raise Refusal(ILLEGAL_PARAMETER, "malformed")
        found[kind] = cursor.vector(2, 0)
    return found


def _server_name(data: bytes) -> str:
    """RFC 6066 3: a list with one host name."""
    cursor = _whole(data, 2, 1)
    names: list[bytes] = []
    while cursor.more():
        kind = cursor.number(1)
        name = cursor.vector(2, 1)
        if kind == 0:
            names.append(name)
    if len(names) > 1:
        raise Refusal(DECODE_ERROR, "malformed")
    return checked_name(names[0]) if names else ""


def checked_name(name: bytes) -> str:
    """In lower case and without a final dot; "" if it isn't a name that a certificate can be for (an address isn't)."""
    lower = name.lower().removesuffix(b".")
    labels = lower.split(b".")
    if len(lower) > 253 or labels[-1].isdigit():
        return ""
    for label in labels:
        if not 0 < len(label) <= 63 or label.translate(None, _LETTERS):
            return ""
    return lower.decode("ascii")


def _protocols(data: bytes) -> list[bytes]:
    """RFC 7301 3.1: a list of names, none of it empty."""
    cursor = _whole(data, 2, 2)
    found: list[bytes] = []
    while cursor.more():
        found.append(cursor.vector(1, 1))
    return found


def _versions(data: bytes) -> list[int]:
    """RFC 8446 4.2.1."""
    cursor = _whole(data, 1, 2)
    found: list[int] = []
    while cursor.more():
        found.append(cursor.number(2))
    return found


def _whole(data: bytes, size: int, least: int) -> _Cursor:
    """Inside a vector that is all of `data`."""
    cursor = _Cursor(data)
    inside = cursor.vector(size, least)
    if cursor.more():
        raise Refusal(DECODE_ERROR, "malformed")
    return _Cursor(inside)
