"""What is followed, read once for all who follow it.

Laws kept here: a follower is a place in what is kept (a log, the events of a service), so that nothing is missed or
seen twice, whatever he missed of the telling; one feed reads what is new and keeps the newest of it in memory, and who
is behind that reads for himself what is kept (law 7: no queue grows for him). Being told is a hurry, not the truth:
a feed looks by itself, too.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

BATCH: Final = 500  # entries of a page
ROOM: Final = 256 * 1024  # bytes of them, about
LOOK: Final = 2.0  # seconds after which a feed looks though nobody told it
_KEPT: Final = 1000  # entries in memory
_KEPT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One line or event: its place (places rise), what it is, and its JSON."""

    place: int
    value: Any
    data: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, oldest first, of all up to `place`.

    `gap`: some before them are not kept any more. `more`: what follows has not been looked at.
    """

    entries: Sequence[Entry]
    place: int
    gap: bool = False
    more: bool = False


class Kept(Protocol):
    """What a feed reads from; `wanted` are the filters of one follower, None for none."""

    async def newest(self) -> int:
        """The place of the newest entry; 0: there is none."""
        ...

    async def after(self, place: int, wanted: Any) -> Page:
        """The first entries behind a place that pass the filters, BATCH of them or about ROOM bytes."""
        ...

    def passes(self, value: Any, wanted: Any) -> bool: ...

    def watched(self, told: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Have `told` called, in the event loop, whenever there may be more."""
        ...


class Feed:
    """What is new of one followed thing: told by what keeps it while it is `followed`; `after` gives pages."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._followers: set[asyncio.Event] = set()
        self._telling = contextlib.ExitStack()
        self._reading = asyncio.Lock()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._low: int | None = None  # all behind it, up to `_high`, is in memory
        self._high = 0
        self._stale = True
        self._looked_at = 0.0

    @contextlib.contextmanager
    def followed(self, follower: asyncio.Event) -> Iterator[None]:
        """The event is set whenever there may be more."""
        if not self._followers:
            self._telling.enter_context(self._kept.watched(self.tell))
        self._followers.add(follower)
        try:
            yield
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._telling.close()

    @property
    def idle(self) -> bool:
        """Nobody follows."""
        return not self._followers

    def tell(self) -> None:
        """There may be more."""
        self._stale = True
        for follower in self._followers:
            follower.set()

    async def after(self, place: int, wanted: Any) -> Page:
        """What is behind a place, up to BATCH entries. Raises what reading raises."""
        async with self._reading:  # whoever comes first reads for all
            await self._refresh()
        if self._low is None or place < self._low:
            return await self._kept.after(place, wanted)
        found: list[Entry] = []
        room = ROOM
        for entry in self._entries[bisect.bisect_right(self._entries, place, key=lambda entry: entry.place) :]:
            if not self._kept.passes(entry.value, wanted):
                continue
            if len(found) == BATCH or room < 0:
                return Page(found, found[-1].place, more=True)
            found.append(entry)
            room -= len(entry.data)
        return Page(found, max(place, self._high), more=self._stale)

    async def _refresh(self) -> None:
        if self._low is None:
            self._low = self._high = await self._kept.newest()
        now = time.monotonic()
        if not self._stale and now - self._looked_at < LOOK:
            return
        self._stale, self._looked_at = False, now
        try:
            page = await self._kept.after(self._high, None)
        except BaseException:
            self._stale = True
            raise
        if page.gap and page.entries:
            self._entries, self._bytes, self._low = [], 0, page.entries[0].place - 1
        self._keep(page)
        self._stale = self._stale or page.more

    def _keep(self, page: Page) -> None:
        self._entries += page.entries
        self._bytes += sum(len(entry.data) for entry in page.entries)
        self._high = max(self._high, page.place)
        drop = 0
        while len(self._entries) - drop > _KEPT or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._entries[drop].data)
            drop += 1
        if drop:
            self._low = self._entries[drop - 1].place
            del self._entries[:drop]


class Feeds:
    """The feed of each thing that is followed now, by any key."""

    def __init__(self) -> None:
        self._feeds: dict[Any, Feed] = {}

    @contextlib.contextmanager
    def follow(self, key: Any, kept: Kept, follower: asyncio.Event) -> Iterator[Feed]:
        """The one feed of `key`; `kept` is used if nobody else follows it."""
        feed = self._feeds.setdefault(key, Feed(kept))
        try:
            with feed.followed(follower):
                yield feed
        finally:
            if feed.idle:
                self._feeds.pop(key, None)

    def tell(self, key: Any) -> None:
        """There may be more of it."""
        if feed := self._feeds.get(key):
            feed.tell()

    def __len__(self) -> int:
        return len(self._feeds)
