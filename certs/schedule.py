"""When which claim is looked at: by its time, and in turn between namespaces. No clock, no I/O.

Law 7: one entry for each claim; one namespace has `share` of the looks at a time, however many claims it has.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

_SPARE: Final = 1000  # dead entries in the heap, beyond as many as there are claims, until it is made anew


@dataclass(slots=True)
class _Entry:
    """`version`: of the record that it was made of, or that was written of it. `at`: None: it waits in a queue."""

    namespace: str
    version: int
    at: int | None
    busy: bool = False
    again: bool = False  # changed while it was busy


class Schedule:
    """Claims by id. Times as the caller has them."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._entries: dict[str, _Entry] = {}
        self._times: list[tuple[int, str]] = []
        self._ready: dict[str, deque[str]] = {}  # by namespace, whose turn is next first
        self._busy: Counter[str] = Counter()  # by namespace

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        ready = sum(map(len, self._ready.values()))
        return f"<Schedule: {len(self)} claims, {ready} due, {self._busy.total()} busy>"

    def put(self, claim: str, namespace: str, at: int, version: int) -> None:
        """Of a record. One that is known by this version or a later one is left as it is."""
        entry = self._entries.get(claim)
        if entry is not None and entry.version >= version:
            return
        if entry is None:
            entry = self._entries[claim] = _Entry(namespace, version, at)
            self._wait(claim, entry, at)
        elif entry.busy:
            entry.again = True
        elif entry.at is not None:
            self._wait(claim, entry, at)
        entry.version = version

    def hasten(self, claim: str) -> None:
        """It is due."""
        entry = self._entries.get(claim)
        if entry is not None and entry.at is not None and not entry.busy:
            self._wait(claim, entry, 0)

    def hasten_all(self) -> None:
        for claim in list(self._entries):
            self.hasten(claim)

    def drop(self, claim: str) -> None:
        """Its record is gone. What is busy with it may still end."""
        entry = self._entries.pop(claim, None)
        if entry is not None and entry.busy:
            self._free(entry.namespace)

    def due(self, now: int) -> int | None:
        """Moves what is due into the queues; returns when the next is, None if nothing waits for its time."""
        while self._times:
            at, claim = self._times[0]
            entry = self._entries.get(claim)
            alive = entry is not None and entry.at == at
            if alive and at > now:
                return at
            heapq.heappop(self._times)
            if alive and entry is not None:
                entry.at = None
                self._ready.setdefault(entry.namespace, deque()).append(claim)
        return None

    def take(self) -> str | None:
        """The next claim whose turn it is, busy from here on; None if there is none, or its namespace has its share."""
        for namespace in list(self._ready):
            if self._busy[namespace] >= self._share:
                continue
            queue = self._ready.pop(namespace)
            claim = self._first_alive(queue)
            if queue:
                self._ready[namespace] = queue  # to the end
            if claim is not None:
                self._entries[claim].busy = True
                self._busy[namespace] += 1
                return claim
        return None

    def done(self, claim: str, at: int, version: int | None = None) -> None:
        """No longer busy: looked at again at `at`, or sooner if it changed meanwhile. `version`: that was written."""
        entry = self._entries.get(claim)
        if entry is None or not entry.busy:
            return
        entry.busy = False
        self._free(entry.namespace)
        if version is not None and version >= entry.version:
            entry.version, entry.again = version, False
        self._wait(claim, entry, 0 if entry.again else at)
        entry.again = False

    def _first_alive(self, queue: deque[str]) -> str | None:
        """Claims that went, or got a later time, are passed over."""
        while queue:
            claim = queue.popleft()
            entry = self._entries.get(claim)
            if entry is not None and entry.at is None and not entry.busy:
                return claim
        return None

    def _free(self, namespace: str) -> None:
        self._busy[namespace] -= 1
        if not self._busy[namespace]:
            del self._busy[namespace]

    def _wait(self, claim: str, entry: _Entry, at: int) -> None:
        entry.at = at
        heapq.heappush(self._times, (at, claim))
        if len(self._times) > 2 * len(self._entries) + _SPARE:
            self._times = [(e.at, c) for c, e in self._entries.items() if e.at is not None]
            heapq.heapify(self._times)
