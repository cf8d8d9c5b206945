"""The log of each service: segments in `<data-dir>/logs/<service>/`, the oldest dropped when they are too many.

A segment is named by the time of its first line (`<microseconds>.log`), so segments sort by name. Each begins with a
header: how far every raw file had been taken in. Header and lines together say it exactly, so there is no second file
to disagree with: a control that was killed reads the newest segment, cuts a torn last line off, and goes on.
A line is in the log exactly once: it is appended whole or (a full disk) not at all, and its raw bytes are freed later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from .line import LETTER_OF, TIME_DIGITS, Piece, Stream, encode, pieces, split_fields
from .reader import LogPage, Query, read

log = logging.getLogger(__name__)

SUFFIX = ".log"
_RECENT = 64
_HEADER = 1_000


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bytes: of one segment, of all segments of a service, and of raw output that may wait to be taken in."""

    segment: int = 8 << 20
    total: int = 64 << 20
    backlog: int = 64 << 20


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
    """The writing side of one service's log. Methods do file work, may be called from any thread, raise `OSError`."""

    def __init__(self, directory: Path, limits: LogLimits, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        self._path: Path | None = None
        self._size = 0
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

    def append(self, origin: Origin, lines: Iterable[Piece]) -> None:
        """Add the lines, all or none. Each gets the time of now, a microsecond after the one before it at least."""
        with self._lock:
            now, entries, end = self._clock(), [], None
            moment = self._time
            for piece in lines:
                moment = max(now, moment + 1)
                entries.append(encode(moment, origin.stream, origin.replica, origin.deployment, piece))
                end = piece.end
            if end is not None:
                self._write(b"".join(entries), int(entries[0][:TIME_DIGITS]))
                self._time = moment
                if origin.replica is not None:
                    self._taken.pop(origin.key, None)
                    self._taken[origin.key] = end  # the newest is last

    def sync(self) -> None:
        """Have what was appended survive a power cut: call before raw bytes are freed."""
        with self._lock:
            if self._path is not None:
                _sync(self._path)

    def _write(self, data: bytes, first: int) -> None:
        if self._path is None or self._size + len(data) > self._limits.segment:
            data = self._header() + data
            self._roll(data, first)
        else:
            _append(self._path, data, self._size)
            self._size += len(data)

    def _roll(self, data: bytes, first: int) -> None:
        if self._path is not None:
            _sync(self._path)
        path = self._directory / f"{first:0{TIME_DIGITS}d}{SUFFIX}"
        try:
            _append(path, data, 0)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._path, self._size = path, len(data)
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Make room for the newest segment to fill up."""
        *older, _ = [(path, path.stat().st_size) for path in segments(self._directory)]
        excess = sum(size for _, size in older) + self._limits.segment - self._limits.total
        for path, size in older:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _header(self) -> bytes:
        newest = dict(list(self._taken.items())[-_HEADER:])  # of those that ended, some are never told
        return b"# " + json.dumps({"taken": newest}).encode() + b"\n"

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
        header, *entries = content[:whole].split(b"\n")
        self._taken.update(_parse_header(header))
        self._path, self._size, self._time = newest, whole, int(newest.stem)
        for entry in entries:
            self._note(split_fields(entry))

    def _note(self, fields: Sequence[bytes]) -> None:
        if len(fields) == 6:
            self._time = max(self._time, int(fields[0]))
            if fields[2] != b"-":
                self._taken[f"{fields[2].decode()} {fields[1].decode().lower()}"] = int(fields[4])


def segments(directory: Path) -> list[Path]:
    """The segments of a service, oldest first; none if it has no log."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def _parse_header(header: bytes) -> Mapping[str, int]:
    if not header.startswith(b"# "):
        return {}
    taken: Mapping[str, int] = json.loads(header[2:])["taken"]
    return taken


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

    def service(self, service_id: str) -> ServiceLog:
        """The writing side; one object per service. Raises `OSError`."""
        with self._lock:
            found = self._logs.get(service_id)
            if found is None:
                found = self._logs[service_id] = ServiceLog(self._root / service_id, self.limits, self._clock)
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
        """The newest lines that match, oldest first; an unknown service has none."""
        return await asyncio.to_thread(self.read_now, service_id, query)

    def read_now(self, service_id: str, query: Query) -> LogPage:
        """The same, as file work for a thread."""
        return read(segments(self._root / service_id), query)

    async def remove(self, service_id: str) -> None:
        """Drop all lines of a service that is gone."""
        with self._lock:
            self._logs.pop(service_id, None)
            self._recent.pop(service_id, None)
        await asyncio.to_thread(shutil.rmtree, self._root / service_id, ignore_errors=True)
