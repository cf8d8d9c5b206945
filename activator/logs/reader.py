"""Reading a service's log: the newest lines that match, found from the end backwards.

A page costs what it returns, not what the log holds: segments are picked by their names, a segment is read in blocks
from its end, and the place of `until` in it is found by bisection (its lines are sorted by time).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .line import LETTER_OF, LogLine, Stream, decode, split_fields

_BLOCK = 256 * 1024
_PROBE = 32 * 1024  # more than the longest entry


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines. `since` (strictly after) and `until` (up to and including) in microseconds since the epoch."""

    limit: int = 100
    since: int | None = None
    until: int | None = None
    replica: str | None = None
    deployment: str | None = None
    stream: Stream | None = None

    def matches(self, fields: Sequence[bytes]) -> bool:
        return (
            (self.replica is None or fields[2] == self.replica.encode())
            and (self.deployment is None or fields[3] == self.deployment.encode())
            and (self.stream is None or fields[1].lower() == LETTER_OF[self.stream].encode())
        )


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines, oldest first. `truncated`: older ones that match were left out. `next`: as `since` it goes on gapless."""

    items: tuple[LogLine, ...]
    truncated: bool
    next: int | None


def read(paths: Sequence[Path], query: Query) -> LogPage:
    """Read from segments (oldest first). One that is dropped meanwhile ends the log there. Raises `OSError`."""
    found: list[LogLine] = []
    truncated = False
    for fields in _backwards(_within(paths, query), query):
        if not query.matches(fields):
            continue
        if len(found) == query.limit:
            truncated = True
            break
        found.append(decode(fields))
    found.reverse()
    return LogPage(tuple(found), truncated, found[-1].time if found else query.since)


def _within(paths: Sequence[Path], query: Query) -> Iterator[Path]:
    """The segments that may have lines of the time, newest first. A segment ends before the next one's name."""
    next_start: int | None = None
    for path in reversed(paths):
        start = int(path.stem)
        if query.since is not None and next_start is not None and next_start <= query.since + 1:
            return
        next_start = start
        if query.until is None or start <= query.until:
            yield path


def _backwards(paths: Iterator[Path], query: Query) -> Iterator[Sequence[bytes]]:
    """The entries of the time, newest first."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            end = os.fstat(descriptor).st_size
            if query.until is not None:
                end = _position(descriptor, end, query.until)
            for entry in _entries(descriptor, end):
                fields = split_fields(entry)
                if len(fields) != 6 or (query.until is not None and int(fields[0]) > query.until):
                    continue
                if query.since is not None and int(fields[0]) <= query.since:
                    return
                yield fields
        finally:
            os.close(descriptor)


def _entries(descriptor: int, end: int) -> Iterator[bytes]:
    """The whole entries before `end`, newest first; a torn one at the end, and the header, are left out."""
    carry: bytes | None = None  # the end of an entry that begins before the block
    while end > 0:
        start = max(0, end - _BLOCK)
        first, *whole = (os.pread(descriptor, end - start, start) + (carry or b"")).split(b"\n")
        if whole or carry is not None:
            if carry is None:
                whole.pop()  # behind the last newline: nothing, or a write under way
            yield from reversed(whole)
            carry = first
        end = start
    if carry and not carry.startswith(b"#"):
        yield carry


def _position(descriptor: int, size: int, until: int) -> int:
    """A place behind the last entry of `until` and near it."""
    low, high = 0, size
    while high - low > _BLOCK:
        middle = (low + high) // 2
        moment = _time_after(descriptor, middle)
        if moment is not None and moment <= until:
            low = middle
        else:
            high = middle
    return min(size, high + _PROBE)


def _time_after(descriptor: int, position: int) -> int | None:
    """The time of the first entry that begins behind `position`."""
    data = os.pread(descriptor, _PROBE, position)
    begin = data.find(b"\n") + 1
    digits = data[begin : begin + 16]
    return int(digits) if begin and digits.isdigit() else None
