"""A worker's counters cut into windows of 10 s: what analytics are made of.

`Windows.sample` compares the cumulative numbers of each service with those of the look before, adds the difference to
the open window, and closes that when its slot of the wall clock is over. So the hot path goes on counting as it does;
a look costs a few microseconds for each service that did something, and next to nothing for the others.

Laws kept here:

- 1 and 7: closed slots wait for the store, as long as it takes and bounded in memory: beyond `WAITING` slots or `ROWS`
  services in them, those of one minute, then of one hour, then the oldest are merged. Counts are never dropped, only
  their time gets coarser.
- A slot whose delivery was tried is never changed: whether the store has it is not known.
- A window has at most `SERVICES` services; a slot with more of them is several windows. That bounds messages and the
  store's transactions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from state.counts import Counts, Header, encode_window, of_row, slot_of

SERVICES: Final = 1000  # in one window
WAITING: Final = 120  # closed slots that wait as they are
ROWS: Final = 50_000  # services in all of them together
_PAUSE: Final = 500  # services looked at between two turns of the loop
_COARSER: Final = (60, 3600)  # seconds
_LONGEST: Final = 10.0  # seconds that one look may stand for: the process may have been stopped


class Book(Protocol):
    """The cumulative counters of one service, and its load now. `gateway.service.Service` is one."""

    @property
    def id(self) -> str: ...
    @property
    def requests(self) -> Mapping[int, int]: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def duration(self) -> Mapping[int, int]: ...
    @property
    def hold(self) -> Mapping[int, int]: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def room(self) -> Collection[object]: ...


@dataclass(slots=True)
class _Seen:
    """A service's counters at the last look."""

    requests: int = 0
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    duration: dict[int, int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Row:
    """What a service did in the open slot, and that as JSON."""

    counts: Counts = field(default_factory=Counts)
    text: str = ""


@dataclass(slots=True, eq=False)
class _Closed:
    """A slot that is over: rows by service, and the numbers of the windows that they are told in."""

    slot: int
    numbers: list[int]
    rows: dict[str, str]
    tried: bool = False


class Windows:
    """`await sample(…)` about each second. `open()` is for who wants to know early; the closed ones go one by one:
    `oldest()` is delivered, then `delivered()` is said."""

    def __init__(self, worker: str) -> None:
        self.stored = 0  # number of the last window that was delivered
        self.merged = 0  # slots that lost their own time, for too many waited
        self._worker = worker
        self._number = 0  # of the last window
        self._slot = 0
        self._at: float | None = None
        self._seen: dict[str, _Seen] = {}
        self._numbers: list[int] = []  # of the windows of the open slot
        self._rows: dict[str, _Row] = {}  # of the open slot, in order of appearance
        self._closed: list[_Closed] = []
        self._looking = asyncio.Lock()

    @property
    def waiting(self) -> bool:
        """Whether there are closed windows to be delivered."""
        return bool(self._closed)

    async def sample(self, books: Collection[Book], now: float, monotonic: float) -> None:
        """Look at all services. `now`: Unix seconds; what happened since the last look is of the slot that is open."""
        async with self._looking:
            slot = slot_of(now)
            if self._at is None:
                self._slot = slot
            elapsed = 0.0 if self._at is None else min(monotonic - self._at, _LONGEST)
            self._at = monotonic
            known = 0
            for count, book in enumerate(books, 1):
                if book.id:
                    known += self._look(book, round(elapsed * 1000))
                if count % _PAUSE == 0:
                    await asyncio.sleep(0)
            if len(self._seen) > known:
                present = {book.id for book in books}
                self._seen = {service: seen for service, seen in self._seen.items() if service in present}
            if slot != self._slot:
                await self._close()
                self._slot = slot

    async def close(self, books: Collection[Book], now: float, monotonic: float) -> None:
        """The last look: nothing is counted any more."""
        await self.sample(books, now, monotonic)
        async with self._looking:
            await self._close()

    def open(self) -> list[bytes]:
        """The windows that are not over, as they are now."""
        rows = [(service, row.text) for service, row in self._rows.items()]
        return [self._wire(n, self._slot, part, compress=False) for n, part in _split(self._numbers, rows)]

    def oldest(self) -> tuple[int, bytes] | None:
        """Number and wire form of the window to be delivered next."""
        if not self._closed:
            return None
        closed = self._closed[0]
        closed.tried = True
        windows = _split(closed.numbers, list(closed.rows.items()))
        number, rows = next((n, part) for n, part in windows if n > self.stored)
        return number, self._wire(number, closed.slot, rows, compress=True)

    def delivered(self, number: int) -> None:
        """The store has this window, and all before it."""
        self.stored = max(self.stored, number)
        while self._closed and self._closed[0].numbers[-1] <= self.stored:
            del self._closed[0]

    def _wire(self, number: int, slot: int, rows: Sequence[tuple[str, str]], *, compress: bool) -> bytes:
        return encode_window(Header(self._worker, number, slot, self.stored, compress), rows)

    def _look(self, book: Book, elapsed: int) -> int:
        """Add what a service did since the last look. Returns how many are known: 1, or 0 if it never did anything."""
        total = sum(book.requests.values())
        held = len(book.room)
        seen = self._seen.get(book.id)
        if seen is None:
            if not total and not held and not book.in_flight:
                return 0
            seen = self._seen[book.id] = _Seen()
        elif total == seen.requests and not held and not book.in_flight:
            return 1
        row = self._row(book.id)
        counts = row.counts
        errors = sum(count for status, count in book.requests.items() if status >= 500)
        counts.requests += total - seen.requests
        counts.errors += errors - seen.errors
        counts.bytes_in += book.bytes_in - seen.bytes_in
        counts.bytes_out += book.bytes_out - seen.bytes_out
        counts.in_flight_ms += book.in_flight * elapsed
        counts.held_ms += held * elapsed
        _grow(counts.duration, book.duration, seen.duration)
        _grow(counts.hold, book.hold, seen.hold)
        seen.requests, seen.errors, seen.bytes_in, seen.bytes_out = total, errors, book.bytes_in, book.bytes_out
        row.text = _written(counts)
        return 1

    def _row(self, service: str) -> _Row:
        row = self._rows.get(service)
        if row is None:
            row = self._rows[service] = _Row()
            if _parts(len(self._rows)) > len(self._numbers):
                self._number += 1
                self._numbers.append(self._number)
        return row

    async def _close(self) -> None:
        if self._rows:
            rows = {service: row.text for service, row in self._rows.items()}
            self._closed.append(_Closed(self._slot, self._numbers, rows))
            self._numbers, self._rows = [], {}
        while self._too_many() and (pair := self._pair()) is not None:
            await self._merge(*pair)

    def _too_many(self) -> bool:
        return len(self._closed) > WAITING or sum(len(closed.rows) for closed in self._closed) > ROWS

    def _pair(self) -> tuple[_Closed, _Closed] | None:
        """Two neighbours that were not tried: of one minute, of one hour, or the oldest."""
        free = [i for i in range(len(self._closed) - 1) if not self._closed[i].tried]
        for first in (*(i for span in _COARSER for i in free if self._same(i, span)), *free):
            return self._closed[first], self._closed[first + 1]
        return None

    async def _merge(self, one: _Closed, other: _Closed) -> None:
        """Both in one, with the highest of their numbers; unless one of them is tried meanwhile."""
        rows = dict(one.rows)
        for count, (service, text) in enumerate(other.rows.items(), 1):
            rows[service] = _sum(rows[service], text) if service in rows else text
            if count % _PAUSE == 0:
                await asyncio.sleep(0)
        if not (one.tried or other.tried):
            one.rows, one.numbers = rows, (one.numbers + other.numbers)[-_parts(len(rows)) :]
            self._closed.remove(other)
            self.merged += 1

    def _same(self, first: int, span: int) -> bool:
        return self._closed[first].slot // span == self._closed[first + 1].slot // span


def _parts(services: int) -> int:
    """How many windows so many services are told in."""
    return -(-services // SERVICES)


def _split(numbers: Sequence[int], rows: Sequence[tuple[str, str]]) -> Iterator[tuple[int, Sequence[tuple[str, str]]]]:
    for part, number in enumerate(numbers):
        yield number, rows[part * SERVICES : (part + 1) * SERVICES]


def _written(counts: Counts) -> str:
    return json.dumps(counts.row(), separators=(",", ":"))


def _sum(one: str, other: str) -> str:
    counts = of_row(json.loads(one))
    counts.add(of_row(json.loads(other)))
    return _written(counts)


def _grow(into: dict[int, int], new: Mapping[int, int], seen: dict[int, int]) -> None:
    """Add what `new` counts beyond `seen`, which becomes `new`."""
    for bucket, count in new.items() - seen.items():
        into[bucket] = into.get(bucket, 0) + count - seen.get(bucket, 0)
        seen[bucket] = count
