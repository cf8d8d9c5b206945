"""Reading a service's log: the newest lines that match, or the ones that follow a place in it.

Laws kept here: a page costs what it returns, not what the log holds (segments are picked by their names, the place of
a time in one is found by bisection, its lines being sorted by time); everything read is bounded, also in bytes (law 7).
What filters pass over is searched in blocks by one expression: this runs in threads beside control's one loop, and
lets go of the interpreter between two blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .line import LETTER_OF, TIME_DIGITS, LogLine, Stream, decode, entry_pattern, json_size

PAGE_BYTES: Final = 8 << 20

_BLOCK: Final = 256 * 1024
_PROBE: Final = 32 * 1024  # more than the longest entry


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines. `since` (strictly after) and `until` (up to and including) in microseconds since the epoch.

    Of those that match the newest `limit`; with `forward` the oldest, to go on from where another page ended. `room`:
    bytes of their text as JSON, which a page of very long lines ends with before its limit; one line fits always.
    """

    limit: int = 100
    since: int | None = None
    until: int | None = None
    replica: str | None = None
    deployment: str | None = None
    stream: Stream | None = None
    forward: bool = False
    room: int = PAGE_BYTES

    @property
    def searches(self) -> bool:
        """Whether it may pass over much to find little."""
        return (self.replica, self.deployment, self.stream) != (None, None, None)

    def matches(self, line: LogLine) -> bool:
        """Whether a line passes the filters (times aside)."""
        return (
            self.replica in (None, line.replica)
            and self.deployment in (None, line.deployment)
            and self.stream in (None, line.stream)
        )


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines, oldest first.

    `truncated`: older ones that match were left out, or (`forward`) lines that followed have been dropped meanwhile.
    `next`: as `since` of a `forward` query it goes on without a gap or a double, also behind what did not match.
    `more`: what is behind `next` has not been looked at.
    """

    items: tuple[LogLine, ...]
    truncated: bool
    next: int
    more: bool = False


def read(paths: Sequence[Path], query: Query) -> LogPage:
    """Read from segments (oldest first). One that is dropped meanwhile ends the log there. Raises `OSError`."""
    return _following(paths, query) if query.forward else _newest(paths, query)


def _newest(paths: Sequence[Path], query: Query) -> LogPage:
    filters, found = _Filters(query), list[LogLine]()
    room, truncated, reached = query.room, False, query.since or 0
    for block in _blocks(reversed(_within(paths, query)), query, _backward):
        reached = max(reached, _last_time(block))
        for fields in reversed(list(filters.entries(block))):
            room -= json_size(fields[-1])
            truncated = len(found) == query.limit or (room < 0 and bool(found))
            if truncated:
                break
            found.append(decode(fields))
        if truncated:
            break
    found.reverse()
    return LogPage(tuple(found), truncated, reached)


def _following(paths: Sequence[Path], query: Query) -> LogPage:
    filters, found, within = _Filters(query), list[LogLine](), _within(paths, query)
    room, reached = query.room, query.since or 0
    gap = bool(within) and _gap_before(within[0], reached)
    for block in _blocks(within, query, _forward):
        for fields in filters.entries(block):
            room -= json_size(fields[-1])
            if len(found) == query.limit or (room < 0 and found):
                return LogPage(tuple(found), gap, found[-1].time, more=True)
            found.append(decode(fields))
        reached = max(reached, _last_time(block))
    return LogPage(tuple(found), gap, reached)


def _within(paths: Sequence[Path], query: Query) -> list[Path]:
    """The segments that may have lines of the time. A segment ends before the next one's name."""
    starts = [*(int(path.stem) for path in paths), None]
    return [
        path
        for path, start, following in zip(paths, starts, starts[1:], strict=False)
        if (query.since is None or following is None or following > query.since + 1)
        and (query.until is None or start is None or start <= query.until)
    ]


def _gap_before(path: Path, moment: int) -> bool:
    """Whether lines behind `moment` and before this segment are there no more."""
    if int(path.stem) <= moment:
        return False
    try:
        with open(path, "rb") as file:
            return int(header(file.readline()).get("after", 0)) > moment
    except FileNotFoundError:
        return True


def header(line: bytes) -> dict[str, Any]:
    """What the first line of a segment says; nothing if it is none, or damaged."""
    try:
        told = json.loads(line[2:]) if line.startswith(b"# ") else {}
    except ValueError:
        told = {}
    return told if isinstance(told, dict) else {}


class _Filters:
    """Finds the entries that match in a block of whole lines."""

    def __init__(self, query: Query) -> None:
        ids = [query.replica, query.deployment]
        letter = None if query.stream is None else LETTER_OF[query.stream]
        names = [[name] for name in ids if name is not None] + ([[letter, letter.upper()]] if letter else [])
        self._pattern = entry_pattern(query.stream, *ids)
        self._needles = [[b" %b " % word.encode("utf-8", "surrogateescape") for word in words] for words in names]

    def entries(self, block: bytes) -> Iterator[Sequence[bytes]]:
        """The fields of each, oldest first. A block that can't have any, the common case, costs a quick search."""
        if all(any(needle in block for needle in needles) for needles in self._needles):
            yield from (match.groups() for match in self._pattern.finditer(block))


_Blocks = Callable[[int, int, int], Iterator[bytes]]


def _blocks(paths: Iterable[Path], query: Query, cut: _Blocks) -> Iterator[bytes]:
    """The whole lines of the time in blocks, in the order of `paths` and `cut`."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # the oldest was dropped meanwhile
        try:
            end = _whole(descriptor)
            if query.until is not None:
                end = _behind(descriptor, end, query.until)
            begin = 0 if query.since is None else _behind(descriptor, end, query.since)
            yield from cut(descriptor, begin, end)
        finally:
            os.close(descriptor)


def _backward(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """The lines between two ends of lines, the newest block first."""
    size = _BLOCK
    while end > begin:
        start = max(begin, end - size)
        data = os.pread(descriptor, end - start, start)
        cut = 0 if start == begin else data.find(b"\n") + 1
        if start > begin and cut in (0, len(data)):  # less than a line
            size *= 2
            continue
        yield data[cut:]
        end, size = start + cut, _BLOCK


def _forward(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """The lines between two ends of lines, the oldest block first."""
    size = _BLOCK
    while begin < end:
        data = os.pread(descriptor, min(size, end - begin), begin)
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            if begin + size >= end:
                return  # it was cut short behind us: a write that failed
            size *= 2
            continue
        yield data[:cut]
        begin, size = begin + cut, _BLOCK


def _whole(descriptor: int) -> int:
    """The end of the last whole line; behind it is nothing, or a write under way."""
    size = os.fstat(descriptor).st_size
    start = size
    while start > 0:
        start = max(0, start - _PROBE)
        newline = os.pread(descriptor, _PROBE, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
    return 0


def _behind(descriptor: int, size: int, moment: int) -> int:
    """The end of the last line that is not later than `moment`, among the first `size` bytes: whole, sorted lines."""
    low, high = 0, size  # all that begins before `low` is earlier or at that moment, all at or behind `high` later
    while high - low > _PROBE:
        middle = (low + high) // 2
        place, time = _line_behind(descriptor, middle)
        if time is not None and time <= moment and place < high:
            low = place
        else:
            high = middle
    for block in _forward(descriptor, low, size):
        for line in block[:-1].split(b"\n"):
            if (_time_of(line) or 0) > moment:
                return low
            low += len(line) + 1
    return size


def _line_behind(descriptor: int, position: int) -> tuple[int, int | None]:
    """Where the first line that begins behind `position` does, and its time; None: it is far behind."""
    data = os.pread(descriptor, _PROBE, position)
    begin = data.find(b"\n") + 1
    return position + begin, _time_of(data[begin : begin + TIME_DIGITS]) if begin else None


def _last_time(block: bytes) -> int:
    return _time_of(block[block.rfind(b"\n", 0, -1) + 1 :][:TIME_DIGITS]) or 0


def _time_of(line: bytes) -> int | None:
    digits = line[:TIME_DIGITS]
    return int(digits) if len(digits) == TIME_DIGITS and digits.isdigit() else None
