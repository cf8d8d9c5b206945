"""One line of a service's log, and its form on disk. Pure.

`<time> <stream> <replica> <deployment> <end> <text>\\n`: microseconds since the epoch in 16 digits, `o`, `e` or `b`
(upper case: the line goes on in the next entry), ids or `-`, the offset in the replica's raw file just behind the
line, and the line's bytes as they were written. An operator can grep it; sorting by bytes is sorting by time.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_TEXT = 16 * 1024
TIME_DIGITS = 16


class Stream(enum.StrEnum):
    """Where a line was written."""

    STDOUT = "stdout"
    STDERR = "stderr"
    BUILD = "build"


_LETTERS = {Stream.STDOUT: b"o", Stream.STDERR: b"e", Stream.BUILD: b"b"}
_STREAMS = {letter[0]: stream for stream, letter in _LETTERS.items()}
_CONTROLS = bytes(range(0x20))
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


class Piece(NamedTuple):
    """A raw line, or a part of one: its bytes, where it ended in the raw file, and whether it goes on."""

    text: bytes
    end: int
    partial: bool = False


def encoder(stream: Stream, replica: str | None, deployment: str | None) -> Callable[[int, Piece], bytes]:
    """Makes the entries of one origin: of a time and a piece."""
    ids = f"{replica or '-'} {deployment or '-'}".encode()
    whole, partial = (b" %b %b " % (letter, ids) for letter in (_LETTERS[stream], _LETTERS[stream].upper()))

    def encode(time: int, piece: Piece) -> bytes:
        return b"%016d%b%d %b\n" % (time, partial if piece.partial else whole, piece.end, piece.text)

    return encode


def entry_pattern(
    stream: Stream | None = None, replica: str | None = None, deployment: str | None = None
) -> re.Pattern[bytes]:
    """Finds entries in a block of whole lines; its groups are the six fields. Headers and torn writes are none."""

    def one(wanted: str | None) -> bytes:
        if wanted is None:
            return rb"[^ \n]+"
        never = wanted == "-" or not wanted or bool(re.search(r"[ \n]", wanted))  # no id is like that
        return rb"(?!)" if never else re.escape(wanted.encode("utf-8", "surrogateescape"))

    letter = b"[oebOEB]" if stream is None else b"[%b%b]" % (_LETTERS[stream], _LETTERS[stream].upper())
    fields = (rb"\d{%d}" % TIME_DIGITS, letter, one(replica), one(deployment), rb"\d+", rb"[^\n]*")
    return re.compile(b"^" + b" ".join(b"(%b)" % field for field in fields) + b"$", re.MULTILINE)


def decode(fields: Sequence[bytes]) -> LogLine:
    """The line of an entry's six fields; bytes that are not UTF-8 become U+FFFD."""
    time, letter, replica, deployment, _, text = fields
    return LogLine(
        time=int(time),
        stream=_STREAMS[letter.lower()[0]],
        replica=None if replica == b"-" else replica.decode(),
        deployment=None if deployment == b"-" else deployment.decode(),
        line=text.decode("utf-8", "replace"),
        partial=letter.isupper(),
    )


def json_size(text: bytes) -> int:
    """How many bytes of JSON a line's bytes become, or a few more: most control characters are six each."""
    size = len(text) if text.isascii() else len(text.decode("utf-8", "replace").encode())
    return size + 5 * (len(text) - len(text.translate(None, _CONTROLS))) + text.count(b'"') + text.count(b"\\")


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
