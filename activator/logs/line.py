"""One line of a service's log, and its form on disk. Pure.

`<time> <stream> <replica> <deployment> <end> <text>\\n`: microseconds since the epoch in 16 digits, `o`, `e` or `b`
(upper case: the line goes on in the next entry), ids or `-`, the offset in the replica's raw file just behind the
line, and the line's bytes as they were written. An operator can grep it; sorting by bytes is sorting by time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_TEXT = 16 * 1024
TIME_DIGITS = 16


class Stream(enum.StrEnum):
    """Where a line was written."""

    STDOUT = "stdout"
    STDERR = "stderr"
    BUILD = "build"


_LETTERS = {Stream.STDOUT: b"o", Stream.STDERR: b"e", Stream.BUILD: b"b"}
_STREAMS = {letter[0]: stream for stream, letter in _LETTERS.items()}
LETTER_OF = {stream: letter.decode() for stream, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class LogLine:
    """`time` in microseconds, unlike any other of the service. `partial`: the line goes on in the next one."""

    time: int
    stream: Stream
    replica: str | None
    deployment: str | None
    line: str
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A raw line, or a part of one: its bytes, where it ended in the raw file, and whether it goes on."""

    text: bytes
    end: int
    partial: bool = False


def encode(time: int, stream: Stream, replica: str | None, deployment: str | None, piece: Piece) -> bytes:
    letter = _LETTERS[stream].upper() if piece.partial else _LETTERS[stream]
    head = f"{replica or '-'} {deployment or '-'} {piece.end} ".encode()
    return b"%0*d %b %b%b\n" % (TIME_DIGITS, time, letter, head, piece.text)


def split_fields(entry: bytes) -> Sequence[bytes]:
    """The six fields of an entry without its newline; fewer if it is none (a header, a torn write)."""
    return entry.split(b" ", 5)


def decode(fields: Sequence[bytes]) -> LogLine:
    """The line; bytes that are not UTF-8 become U+FFFD."""
    time, letter, replica, deployment, _, text = fields
    return LogLine(
        time=int(time),
        stream=_STREAMS[letter.lower()[0]],
        replica=None if replica == b"-" else replica.decode(),
        deployment=None if deployment == b"-" else deployment.decode(),
        line=text.decode("utf-8", "replace"),
        partial=letter.isupper(),
    )


def pieces(data: bytes, start: int, *, final: bool = False) -> Iterator[Piece]:
    """Cut raw bytes that begin at offset `start` into lines; the last one is kept back unless it is `final` or long.

    A line over 16 KiB is cut into parts, not within a UTF-8 character. A carriage return before the newline goes.
    """
    at = 0
    while at < len(data):
        newline = data.find(b"\n", at)
        end = len(data) if newline < 0 else newline
        while end - at > MAX_TEXT:
            cut = _boundary(data, at + MAX_TEXT)
            yield Piece(data[at:cut], start + cut, partial=True)
            at = cut
        if newline < 0:
            if final:
                yield Piece(data[at:end], start + end)
            return
        yield Piece(data[at:end].removesuffix(b"\r"), start + end + 1)
        at = end + 1


def _boundary(data: bytes, at: int) -> int:
    """The nearest start of a character at or before `at` (three bytes before it at most)."""
    for back in range(4):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at
