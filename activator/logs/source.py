"""Taking in the raw output of one replica: from where the service's log says it was, in bounded pieces."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .line import Piece, Stream, pieces
from .raw import KEEP, RawFile
from .store import LogLimits, LogStore, Origin, ServiceLog

CHUNK = 256 * 1024
_FREE_AT = 1 << 20  # each time costs an fdatasync of the log
_BURST = 4  # seconds of the rate that may come at once
_STREAMS = {"stdout": Stream.STDOUT, "stderr": Stream.STDERR}


@dataclass(frozen=True, slots=True)
class Source:
    """A replica's raw output: the files `stdout` and `stderr` in `directory`."""

    service_id: str
    deployment_id: str
    replica_id: str
    directory: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.directory / name for name in _STREAMS)


class Intake:
    """Moves a source's lines into its service's log. Methods do file work in any thread and raise `OSError`."""

    def __init__(self, source: Source, store: LogStore) -> None:
        self.source = source
        self.dropped = 0  # bytes
        self._store = store
        self._lock = threading.Lock()
        self._flows: list[_Flow] | None = None
        self._closed = False

    def take(self, *, final: bool = False) -> bool:
        """Take in a piece of each stream; whether there may be more. `final`: also a last line without a newline."""
        with self._lock:
            if self._closed:
                return False
            more = [flow.take(final) for flow in self._open()]
            self.dropped = sum(flow.dropped for flow in self._open())
            return any(more)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for flow in self._flows or ():
                flow.close()
            self._flows = None

    def _open(self) -> list[_Flow]:
        if self._flows is None:
            log = self._store.service(self.source.service_id)
            flows: list[_Flow] = []
            try:
                for path, stream in zip(self.source.paths, _STREAMS.values(), strict=True):
                    origin = Origin(stream, self.source.replica_id, self.source.deployment_id)
                    flows.append(_Flow(RawFile(path), log, origin, self._store.limits))
            except OSError:
                for flow in flows:
                    flow.close()
                raise
            self._flows = flows
        return self._flows


class Allowance:
    """Bytes that may go to the log: so many per second, and those of some seconds at once. Pure; times are monotonic.

    One replica that writes without end costs control a bounded share of its time, and others their lines nothing.
    """

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._bytes = float(rate * _BURST)
        self._at = now

    def left(self, now: float) -> bool:
        self._bytes = min(self._rate * _BURST, self._bytes + (now - self._at) * self._rate)
        self._at = now
        return self._bytes > 0

    def spend(self, count: int) -> None:
        self._bytes -= count


class _Flow:
    """One of the two streams."""

    def __init__(self, raw: RawFile, log: ServiceLog, origin: Origin, limits: LogLimits) -> None:
        self.dropped = 0
        self._raw = raw
        self._log = log
        self._origin = origin
        self._backlog = limits.backlog
        self._allowance = Allowance(limits.rate, time.monotonic())
        self._offset = log.taken(origin)

    def take(self, final: bool) -> bool:
        size = self._raw.size()
        if size < self._offset:  # somebody truncated it
            self._raw.restart()
            self._offset = 0
        if size - self._offset > self._backlog:
            self._skip(size)
        if not final and not self._allowance.left(time.monotonic()):
            return False  # looked at again by the next sweep, or when more was written
        data = self._raw.read(self._offset, CHUNK)
        last = final and self._offset + len(data) >= size
        cut = list(pieces(data, self._offset, final=last))
        if cut:
            self._allowance.spend(self._log.append(self._origin, cut))
            self._offset = cut[-1].end
        if self._raw.freeable(self._offset) >= _FREE_AT:
            self._log.sync()
            self._raw.free(self._offset)
        return bool(cut) and self._offset < size

    def _skip(self, size: int) -> None:
        """Written faster than it can be kept: go on with the newest of it, and say so in the log."""
        target = max(self._offset, size - self._backlog // 2)
        target += self._raw.read(target, KEEP).find(b"\n") + 1
        lost = target - self._offset
        note = f"wakegate: {lost} bytes of output were dropped here, written faster than they can be kept"
        self._log.append(self._origin, [Piece(note.encode(), target)])
        self._offset = target
        self.dropped += lost

    def close(self) -> None:
        self._raw.close()
