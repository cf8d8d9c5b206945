"""The log of each service: segments in `<data-dir>/logs/<service>/`, the oldest dropped by size and by age.

A segment is named by the time of its first line (`<microseconds>.log`), so segments sort by name. Each begins with a
header: how far every raw file had been taken in (`taken`), and the time of the last line before it (`after`). Header
and lines together say it exactly, so there is no second file to disagree with: a control that was killed reads the
newest segment, cuts a torn last line off, and goes on. A line is in the log exactly once: it is appended whole or (a
full disk) not at all, and its raw bytes are freed later. Times of a service's lines always rise, so that a time is a
place in its log.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from .line import LETTER_OF, TIME_DIGITS, Piece, Stream, encoder, entry_pattern, pieces
from .reader import LogPage, Query, header, read

log = logging.getLogger(__name__)

SUFFIX = ".log"
_RECENT = 64
_HEADER = 1_000
_READERS = 2  # threads that read at once, and as many that search: neither keeps the others from their turn
_ENTRY = entry_pattern()
_MICROSECONDS = 1_000_000
_EXPIRE_EVERY = 3600.0


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bytes: of one segment, of all segments of a service, of raw output that may wait to be taken in, and how many of
    them are taken in per second of one replica's stream. Seconds: how old a line may get, and how long one segment
    is written to.
    """

    segment: int = 8 << 20
    total: int = 64 << 20
    backlog: int = 64 << 20
    rate: int = 16 << 20
    age: float = 30 * 86_400.0
    segment_age: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose lines they are."""

    stream: Stream
    replica: str | None
    deployment: str | None

    @property
    def key(self) -> str:
        return f"{self.replica} {LETTER_OF[self.stream]}"


def wall_clock() -> int:
    return time.time_ns() // 1000


class ServiceLog:
    """The writing side of one service's log. Methods do file work, may be called from any thread, raise `OSError`.

    `told` is called after each append, in the thread of the writer.
    """

    def __init__(
        self, directory: Path, limits: LogLimits, clock: Callable[[], int], told: Callable[[], None] = lambda: None
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._clock = clock
        self._told = told
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        self._path: Path | None = None
        self._size = 0
        self._begun = 0
        self._time = 0
        for path in (directory.parent, directory):  # each with its mode: that of `parents=True` is open to all
            path.mkdir(mode=0o700, exist_ok=True)
        self._recover()

    def taken(self, origin: Origin) -> int:
        """The offset in the raw file up to which its lines are in the log."""
        with self._lock:
            return self._taken.get(origin.key, 0)

    def ended(self, replica: str) -> None:
        """The replica's raw files are gone: the next headers need not mention them."""
        with self._lock:
            for key in [key for key in self._taken if key.split(" ")[0] == replica]:
                del self._taken[key]

    def append(self, origin: Origin, lines: Iterable[Piece]) -> int:
        """Add the lines, all or none. Each gets the time of now, a microsecond after the one before it at least.

        Returns how many bytes they take in the log.
        """
        encode = encoder(origin.stream, origin.replica, origin.deployment)
        with self._lock:
            now, moment, entries, end = self._clock(), self._time, list[bytes](), 0
            for piece in lines:
                moment = max(now, moment + 1)
                entries.append(encode(moment, piece))
                end = piece.end
            if not entries:
                return 0
            data = b"".join(entries)
            self._write(data, int(entries[0][:TIME_DIGITS]))
            self._time = moment
            if origin.replica is not None:
                self._taken.pop(origin.key, None)
                self._taken[origin.key] = end  # the newest is last
        self._told()
        return len(data)

    def sync(self) -> None:
        """Have what was appended survive a power cut: call before raw bytes are freed."""
        with self._lock:
            if self._path is not None:
                _sync(self._path)

    def expire(self) -> None:
        """Drop the lines that are older than the limit, but for those that share a segment with younger ones."""
        with self._lock:
            known, oldest = segments(self._directory), self._oldest_kept()
            if self._path is not None and self._time < oldest and self._size > len(self._header()):
                begun = max(self._clock(), self._time + 1)
                self._begin(b"", begun)  # what was taken in stays known
                self._time = begun - 1
                for path in known:
                    path.unlink(missing_ok=True)
            drop_old(segments(self._directory), oldest)

    def _oldest_kept(self) -> int:
        return self._clock() - int(self._limits.age * _MICROSECONDS)

    def _write(self, data: bytes, first: int) -> None:
        full = self._size + len(data) > self._limits.segment
        if self._path is None or full or first - self._begun > self._limits.segment_age * _MICROSECONDS:
            self._begin(data, first)
        else:
            _append(self._path, data, self._size)
            self._size += len(data)

    def _begin(self, data: bytes, first: int) -> None:
        """A new segment. The one before it is whole on the disk by then: none else is looked at after a power cut."""
        if self._path is not None:
            _sync(self._path)
        data = self._header() + data
        path = self._directory / f"{first:0{TIME_DIGITS}d}{SUFFIX}"
        try:
            _append(path, data, 0)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._path, self._size, self._begun = path, len(data), first
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Make room for the newest segment to fill up."""
        found = segments(self._directory)
        drop_old(found, self._oldest_kept())
        *older, _ = [(path, _size_of(path)) for path in found]
        excess = sum(size for _, size in older) + self._limits.segment - self._limits.total
        for path, size in older:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _header(self) -> bytes:
        newest = dict(list(self._taken.items())[-_HEADER:])  # of those that ended, some are never told
        return b"# " + json.dumps({"taken": newest, "after": self._time}).encode() + b"\n"

    def _recover(self) -> None:
        newest = next(iter(reversed(segments(self._directory))), None)
        if newest is None:
            return
        content = newest.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole == 0:  # not even its header: nothing was taken in by it
            newest.unlink()
            self._recover()
            return
        if whole < len(content):
            os.truncate(newest, whole)
        first, _, entries = content[:whole].partition(b"\n")
        told = header(first + b"\n")
        self._taken.update(told.get("taken", {}))
        self._path, self._size, self._begun = newest, whole, int(newest.stem)
        self._time = max(self._begun - 1, told.get("after", 0))
        for match in _ENTRY.finditer(entries):
            self._note(match.groups())

    def _note(self, fields: Sequence[bytes]) -> None:
        self._time = max(self._time, int(fields[0]))
        if fields[2] != b"-":
            self._taken[f"{fields[2].decode()} {fields[1].decode().lower()}"] = int(fields[4])


def segments(directory: Path) -> list[Path]:
    """The segments of a service, oldest first; none if it has no log."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def drop_old(found: Sequence[Path], oldest: int) -> None:
    """Remove the segments whose last line is older; never the newest, which says what was taken in."""
    for path, following in itertools.pairwise(found):
        if int(following.stem) > oldest:
            return
        path.unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _append(path: Path, data: bytes, size: int) -> None:
    """Add `data` at `size`, the end of the file; on any failure the file is as before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], size + written)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


class LogStore:
    """The logs of all services of this node."""

    def __init__(self, root: Path, limits: LogLimits | None = None, clock: Callable[[], int] = wall_clock) -> None:
        self.limits = limits or LogLimits()
        self._root = root
        self._clock = clock
        self._lock = threading.Lock()
        self._logs: WeakValueDictionary[str, ServiceLog] = WeakValueDictionary()
        self._recent: OrderedDict[str, ServiceLog] = OrderedDict()  # opening one reads a segment
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._watching = threading.Lock()  # never held for file work: the event loop takes it
        self._reading, self._searching = asyncio.Semaphore(_READERS), asyncio.Semaphore(_READERS)

    def service(self, service_id: str) -> ServiceLog:
        """The writing side; one object per service. Raises `OSError`."""
        with self._lock:
            found = self._logs.get(service_id)
            if found is None:
                told = functools.partial(self._told, service_id)
                found = ServiceLog(self._root / service_id, self.limits, self._clock, told)
                self._logs[service_id] = found
            self._recent[service_id] = found
            self._recent.move_to_end(service_id)
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return found

    def append(
        self, service_id: str, deployment_id: str | None, lines: Iterable[str], stream: Stream = Stream.BUILD
    ) -> None:
        """Add lines that no raw file holds (a build's). File work; raises `OSError`, and nothing is added then."""
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        self.service(service_id).append(Origin(stream, None, deployment_id), pieces(data, 0))

    def build_log(self, service_id: str, deployment_id: str) -> Callable[[Sequence[str]], None]:
        """What a driver's `build` takes: lines that can't be kept (a full disk) are told and not kept."""

        def take(lines: Sequence[str]) -> None:
            try:
                self.append(service_id, deployment_id, lines)
            except OSError as error:
                log.warning("%d lines of the build of deployment %s not kept: %s", len(lines), deployment_id, error)

        return take

    async def read(self, service_id: str, query: Query) -> LogPage:
        """The lines that match, oldest first; an unknown service has none."""
        async with self._searching if query.searches else self._reading:
            return await asyncio.to_thread(self.read_now, service_id, query)

    def read_now(self, service_id: str, query: Query) -> LogPage:
        """The same, as file work for a thread."""
        return read(segments(self._root / service_id), query)

    @contextmanager
    def watching(self, service_id: str, told: Callable[[], None]) -> Iterator[None]:
        """Have `told` called whenever this service's log has grown: in the thread of the writer, and at once."""
        with self._watching:
            self._watchers.setdefault(service_id, []).append(told)
        try:
            yield
        finally:
            with self._watching:
                self._watchers[service_id].remove(told)
                if not self._watchers[service_id]:
                    del self._watchers[service_id]

    def _told(self, service_id: str) -> None:
        with self._watching:
            watchers = list(self._watchers.get(service_id, ()))
        for told in watchers:
            told()

    async def keep_house(self) -> None:
        """For ever: drop now and then what is too old."""
        while True:
            try:
                await self.expire()
            except OSError as error:
                log.warning("old lines are looked for again in an hour: %s", error)
            await asyncio.sleep(_EXPIRE_EVERY)

    async def expire(self) -> None:
        """Drop the lines of all services that are older than the limit. Raises `OSError`."""
        await asyncio.to_thread(self._expire)

    def _expire(self) -> None:
        oldest = self._clock() - int(self.limits.age * _MICROSECONDS)
        for directory in self._root.iterdir() if self._root.exists() else ():
            found = segments(directory)
            drop_old(found, oldest)
            if found and int(found[-1].stem) <= oldest and found[-1].stat().st_mtime_ns // 1000 <= oldest:
                self.service(directory.name).expire()

    async def remove(self, service_id: str) -> None:
        """Drop all lines of a service that is gone."""
        with self._lock:
            self._logs.pop(service_id, None)
            self._recent.pop(service_id, None)
        await asyncio.to_thread(shutil.rmtree, self._root / service_id, ignore_errors=True)
