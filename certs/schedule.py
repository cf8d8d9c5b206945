"""When which claim is looked at: by its time, and in turn between namespaces. No clock, no I/O.

Law 7: one entry for each claim; one namespace has `share` of the looks at a time, however many claims it has. What an
owner asked for comes before what is due by its time, the last that he asked for first: what he waits for now doesn't
wait for the rest. Claims whose last look was left without an answer, and so take long, get half of the share: a dead
zone holds up none of its owner's other domains.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

_SPARE: Final = 1000  # dead entries in the heap, beyond as many as there are claims, until it is made anew
_LANES: Final = ((True, False), (True, True), (False, False), (False, True))  # (asked, silent), who comes first


@dataclass(slots=True)
class _Entry:
    """`version`: of the record that it was made of, or that was written of it. `at`: None: it waits in a queue.

    `asked`: its owner wants it looked at. `silent`: its last look was left without an answer.
    """

    namespace: str
    version: int
    at: int | None
    asked: bool
    silent: bool
    busy: bool = False
    again: bool = False  # changed while it was busy


class _Queue:
    """What is due of one namespace."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[bool, bool], OrderedDict[str, None]] = {lane: OrderedDict() for lane in _LANES}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __contains__(self, claim: str) -> bool:
        return any(claim in lane for lane in self._lanes.values())

    def append(self, claim: str, *, asked: bool, silent: bool) -> None:
        self._lanes[asked, silent][claim] = None

    def remove(self, claim: str) -> None:
        for lane in self._lanes.values():
            lane.pop(claim, None)

    def pop(self, *, silent: bool) -> str | None:
        """The next one. `silent`: whether it may be one of those."""
        for (asked, unanswered), lane in self._lanes.items():
            if lane and (silent or not unanswered):
                return lane.popitem(last=asked)[0]
        return None


class Schedule:
    """Claims by id. Times as the caller has them."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._silent_share = max(share // 2, 1)
        self._entries: dict[str, _Entry] = {}
        self._times: list[tuple[int, str]] = []
        self._ready: dict[str, _Queue] = {}  # by namespace, whose turn is next first
        self._busy: Counter[str] = Counter()  # by namespace
        self._busy_silent: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, claim: str) -> bool:
        return claim in self._entries

    def __repr__(self) -> str:
        ready = sum(map(len, self._ready.values()))
        return f"<Schedule: {len(self)} claims, {ready} due, {self._busy.total()} busy>"

    def put(
        self, claim: str, namespace: str, at: int, version: int, *, asked: bool = False, silent: bool = False
    ) -> None:
        """Of a record. One that is known by this version or a later one is left as it is.

        `silent`: what the record says of the last look; who asks has it as it was.
        """
        entry = self._entries.get(claim)
        if entry is not None and entry.version >= version:
            return
        if entry is None:
            entry = self._entries[claim] = _Entry(namespace, version, at, asked, silent)
            self._wait(claim, entry, at)
        elif entry.busy:
            entry.again, entry.asked = True, entry.asked or asked
        elif entry.at is not None or asked:
            self._unqueue(claim, entry)
            entry.asked, entry.silent = asked, entry.silent if asked else silent
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
            self._free(entry)
        elif entry is not None:
            self._unqueue(claim, entry)

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
                queue = self._ready.setdefault(entry.namespace, _Queue())
                queue.append(claim, asked=entry.asked, silent=entry.silent)
        return None

    def take(self) -> str | None:
        """The next claim whose turn it is, busy from here on; None if there is none, or its namespace has its share."""
        for namespace in list(self._ready):
            if self._busy[namespace] >= self._share:
                continue
            queue = self._ready[namespace]
            claim = queue.pop(silent=self._busy_silent[namespace] < self._silent_share)
            if claim is None:
                continue
            del self._ready[namespace]
            if queue:
                self._ready[namespace] = queue  # to the end
            entry = self._entries[claim]
            entry.busy, entry.asked = True, False
            self._busy[namespace] += 1
            self._busy_silent[namespace] += entry.silent
            return claim
        return None

    def done(self, claim: str, at: int, version: int | None = None, *, silent: bool | None = None) -> None:
        """No longer busy: looked at again at `at`, or sooner if it changed meanwhile. `version`: that was written.

        `silent`: whether it was left without an answer; None: nothing was asked.
        """
        entry = self._entries.get(claim)
        if entry is None or not entry.busy:
            return
        self._free(entry)
        entry.busy = False
        entry.silent = entry.silent if silent is None else silent
        if version is not None and version >= entry.version:
            entry.version, entry.again, entry.asked = version, False, False
        self._wait(claim, entry, 0 if entry.again else at)
        entry.again = False

    def _unqueue(self, claim: str, entry: _Entry) -> None:
        queue = self._ready.get(entry.namespace)
        if entry.at is None and queue is not None:
            queue.remove(claim)
            if not queue:
                del self._ready[entry.namespace]

    def _free(self, entry: _Entry) -> None:
        """The place that it took."""
        for places, taken in ((self._busy, True), (self._busy_silent, entry.silent)):
            places[entry.namespace] -= taken
            if not places[entry.namespace]:
                del places[entry.namespace]

    def _wait(self, claim: str, entry: _Entry, at: int) -> None:
        entry.at = at
        heapq.heappush(self._times, (at, claim))
        if len(self._times) > 2 * len(self._entries) + _SPARE:
            self._times = [(e.at, c) for c, e in self._entries.items() if e.at is not None]
            heapq.heapify(self._times)
