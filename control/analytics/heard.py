"""The windows that workers are still filling, as they tell them each second: what is known before it is delivered.

Every control hears them all. They make answers fresh, and they are what is left of a worker that was killed: then the
leader delivers them in its place, so that no more than its last second is lost. Bounded in bytes; what had no room is
counted. Pure: time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from state.counts import Counts, Header, MalformedWindow, decode_window, read_header

BYTES: Final = 64 * 2**20  # of all windows together
LATE: Final = 3.0  # seconds without a word after which a worker may be gone


@dataclass(frozen=True, slots=True)
class _Told:
    header: Header
    data: bytes


class Heard:
    """`take` every message; `forget` what is in the store."""

    def __init__(self) -> None:
        self.unreadable = 0  # messages
        self.dropped = 0  # windows that had no room
        self._windows: OrderedDict[tuple[str, int], _Told] = OrderedDict()  # the longest unheard first
        self._spoke: dict[str, float] = {}  # when, by worker that has windows here; monotonic
        self._bytes = 0

    def take(self, data: bytes, now: float) -> None:
        """A worker's window, of which it knows more than before. `now`: monotonic seconds."""
        try:
            header = read_header(data)
        except MalformedWindow:
            self.unreadable += 1
            return
        self._drop((header.worker, header.number))
        self._windows[header.worker, header.number] = _Told(header, data)
        self._bytes += len(data)
        self._spoke[header.worker] = now
        for key in [(w, n) for w, n in self._windows if w == header.worker and n <= header.delivered]:
            self._drop(key)
        while self._bytes > BYTES:
            self.dropped += 1
            self._drop(next(iter(self._windows)))

    def stored(self, numbers: Mapping[str, int]) -> None:
        """The store has all windows up to these numbers, by worker."""
        for worker, number in list(self._windows):
            if number <= numbers.get(worker, 0):
                self._drop((worker, number))
        heard = {worker for worker, _ in self._windows}
        self._spoke = {worker: at for worker, at in self._spoke.items() if worker in heard}

    def silent(self, now: float) -> set[str]:
        """Workers that have windows here and have not spoken for LATE seconds."""
        return {worker for worker, at in self._spoke.items() if now - at >= LATE}

    def of(self, worker: str) -> list[tuple[int, bytes]]:
        """A worker's windows by number."""
        return sorted((number, told.data) for (of, number), told in self._windows.items() if of == worker)

    def windows(self, service: str) -> dict[tuple[str, int], bytes]:
        """By worker and number, those in which a service may be."""
        name = service.encode()
        return {key: t.data for key, t in self._windows.items() if t.header.compressed or name in t.data}

    def _drop(self, key: tuple[str, int]) -> None:
        told = self._windows.pop(key, None)
        if told is not None:
            self._bytes -= len(told.data)


def window_counts(data: bytes, service: str) -> Iterator[tuple[int, Counts]]:
    """What a service did by slot, by a window in its wire form; nothing if that can't be read."""
    try:
        window = decode_window(data, only=service)
    except MalformedWindow:
        return
    for counts in window.rows.values():
        yield window.header.slot, counts
