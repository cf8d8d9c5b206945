"""Chunked transfer coding, both ways (RFC 9112 7.1), strict: CRLF only, plain hexadecimal sizes, bounded extensions.

Chunks are decoded and made anew, never copied through, so that nobody behind us reads an extension or a size in another
way than we did.
"""

from __future__ import annotations

from typing import Final

from gateway.fields import CONTROLS, is_token

_SIZE: Final = 0  # reading a size line
_DATA: Final = 1
_AFTER: Final = 2  # the line end behind a chunk's data
_TRAILERS: Final = 3
_END: Final = 4

_LINE_LIMIT: Final = 1024  # bytes of a size line with its extensions
_EXTENSION_LIMIT: Final = 16 * 1024  # bytes of all extensions of a body: a client can't make us read overhead for ever
_TRAILER_LIMIT: Final = 16 * 1024
_HEX: Final = b"0123456789abcdefABCDEF"
_DIGITS: Final = 15  # of a size: below 2^60

LAST: Final = b"0\r\n\r\n"


class ChunkError(ValueError):
    """The coding is broken; where the message ends is unknown."""


class Decoder:
    """`feed` bytes, get payload; `done` and `rest` once the body is over."""

    __slots__ = ("_buffer", "_extensions", "_left", "_state", "done", "rest", "trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._buffer = b""
        self._extensions = 0
        self.done = False
        self.rest = b""  # bytes behind the body
        self.trailers: list[bytes] = []  # validated lines

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises `ChunkError`; what came before the error in the same call is lost."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        out: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and self._state != _END:
            if self._state == _DATA:
                take = min(self._left, end - at)
                out.append(data[at : at + take])
                at += take
                self._left -= take
                if self._left == 0:
                    self._state = _AFTER
                continue
            after = self._line(data, at)
            if after < 0:
                break
            at = after
        if self._state == _END:
            self.done = True
            self.rest = data[at:]
        elif at < end:
            self._buffer = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)

    def _line(self, data: bytes, at: int) -> int:
        """Read what is neither data nor end, from `at`. The place after it, or -1: more bytes are needed."""
        if self._state == _AFTER:
            mark = data[at : at + 2]
            if mark == b"\r\n":
                self._state = _SIZE
                return at + 2
            if mark == b"\r":
                return -1
            raise ChunkError("chunk longer than its size")
        if self._state == _SIZE:
            return self._size_line(data, at)
        return self._trailer_line(data, at)

    def _size_line(self, data: bytes, at: int) -> int:
        stop = data.find(b"\r\n", at, at + _LINE_LIMIT)
        if stop < 0:
            stray = data.find(b"\n", at) >= 0 or 0 <= data.find(b"\r", at) < len(data) - 1
            if stray or len(data) - at >= _LINE_LIMIT or data[at : at + 1] not in _HEX:
                raise ChunkError("invalid chunk size")
            return -1
        self._left = self._size(data[at:stop])
        self._state = _DATA if self._left else _TRAILERS
        return stop + 2

    def _size(self, line: bytes) -> int:
        digits, mark, extension = line.partition(b";")
        if mark:
            digits = digits.rstrip(b" \t")
            self._extensions += len(extension) + 1
            if self._extensions > _EXTENSION_LIMIT or len(extension.translate(None, CONTROLS)) != len(extension):
                raise ChunkError("invalid chunk extension")
        if not digits or len(digits) > _DIGITS or digits.translate(None, _HEX):
            raise ChunkError("invalid chunk size")
        return int(digits, 16)

    def _trailer_line(self, data: bytes, at: int) -> int:
        stop = data.find(b"\r\n", at, at + _TRAILER_LIMIT)
        if stop < 0:
            if len(data) - at >= _TRAILER_LIMIT:
                raise ChunkError("trailer section too long")
            return -1
        line = data[at:stop]
        if not line:
            self._state = _END
            return stop + 2
        self._extensions += len(line)
        if self._extensions > _TRAILER_LIMIT or not is_token(line[: max(line.find(b":"), 0)]):
            raise ChunkError("invalid trailer section")
        if len(line.translate(None, CONTROLS)) != len(line):
            raise ChunkError("invalid trailer section")
        self.trailers.append(line)
        return stop + 2


def chunk(data: bytes) -> bytes:
    """One chunk; `data` must not be empty (that would be the last one)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[bytes]) -> bytes:
    if not trailers:
        return LAST
    return b"0\r\n" + b"\r\n".join(trailers) + b"\r\n\r\n"
