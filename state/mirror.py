"""An in-memory copy of some kinds of objects that follows the feed.

Laws kept here: 1 (with the store gone the copy stays as it was and says so by `connected`) and 6 (a gap in the
revisions, a revision that went back or another run of the server means a full resync, never a guess).

Within one run of the server an entry applies only over a lower version, so the order in which the snapshot and the
feed are seen doesn't matter. Records stay undecoded until somebody asks for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from state.codec import decode
from state.kinds import Kind
from state.store import Entry, Record, Store, StoreError

T = TypeVar("T")

OnChange = Callable[[Sequence[tuple[Kind, str]]], None]

_CHECK_EVERY: Final = 5.0  # seconds; a feed that fell behind our position stays silent for ever (measured)
_SLICE: Final = 1000  # records compared, or told, between two turns of the loop
_RETRY_EVERY: Final = 0.2  # seconds between attempts to reach a store that is gone


class _Lost(Exception):
    """The feed and the copy don't fit any more."""


class Mirror:
    """`await run()` keeps it; everything else is synchronous reading.

    `on_change` is called after each applied entry with what it touched, and after a resync with everything that
    differs. It must not raise or block. If it keeps indexes that cost something per object, let it be called in
    `slices`: one after the other, with turns of the loop between; all but the last while the mirror is not connected
    and at revision 0, so that nobody takes a part for the whole.
    """

    def __init__(
        self, store: Store, kinds: Sequence[Kind], on_change: OnChange | None = None, *, slices: bool = False
    ) -> None:
        self.revision = 0
        self.run_id = ""
        self.connected = False
        self._store = store
        self._objects: dict[Kind, dict[str, Record]] = {kind: {} for kind in kinds}
        self._decoded: dict[tuple[Kind, str], tuple[Record, Any]] = {}
        self._on_change = on_change
        self._slices = slices
        self._synced = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._checked_at = 0.0

    def get(self, kind: Kind, object_id: str) -> Record | None:
        return self._objects[kind].get(object_id)

    def records(self, kind: Kind) -> Mapping[str, Record]:
        """All objects of a kind by id: the live mapping, to be read and not kept across an await."""
        return self._objects[kind]

    def decoded(self, kind: Kind, object_id: str, model: type[T]) -> T | None:
        """An object as its model; decoded once per version. Raises DecodeError."""
        record = self._objects[kind].get(object_id)
        if record is None:
            return None
        known = self._decoded.get((kind, object_id))
        if known is not None and (known[0] is record or known[0] == record):
            value: T = known[1]
            return value
        value = decode(model, record.value)
        self._decoded[kind, object_id] = (record, value)
        return value

    async def synced(self) -> None:
        """Returns once a first whole snapshot is in."""
        await self._synced.wait()

    async def reached(self, revision: int) -> None:
        """Returns once everything up to `revision` has been applied."""
        if self.revision >= revision and self._synced.is_set():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((revision, waiter))
        await waiter

    async def run(self) -> None:
        """Follow the store for ever; a store that is gone is waited for."""
        while True:
            try:
                await self._resync()
                while True:
                    await self._follow()
            except _Lost:
                continue
            except StoreError:
                self.connected = False
                await asyncio.sleep(_RETRY_EVERY)

    async def _resync(self) -> None:
        """Read everything anew; what changes meanwhile comes by the feed, which is noted first."""
        run_id = await self._store.run_id()
        revision = await self._store.revision()
        fresh = {kind: {i: r async for i, r in self._store.scan(kind)} for kind in self._objects}
        if await self._store.run_id() != run_id:
            raise _Lost  # the server was replaced meanwhile: the two halves may be of two histories
        touched = [pair for kind, new in fresh.items() async for pair in self._differing(kind, new)]
        for kind, new in fresh.items():
            self._objects[kind] = new
        rest = await self._tell_in_slices(touched)
        self.run_id, self.revision, self.connected = run_id, revision, True
        self._checked_at = time.monotonic()
        self._prune(rest)
        self._synced.set()
        self._tell(rest)

    async def _tell_in_slices(self, touched: Sequence[tuple[Kind, str]]) -> Sequence[tuple[Kind, str]]:
        """Tell all but the last slice; returns that one, which is told once the whole counts."""
        if not self._slices or len(touched) <= _SLICE:
            return touched
        self.revision, self.connected = 0, False
        for start in range(0, len(touched) - _SLICE, _SLICE):
            part = touched[start : start + _SLICE]
            self._prune(part)
            if self._on_change is not None:
                self._on_change(part)
            await asyncio.sleep(0)
        return touched[start + _SLICE :]

    async def _differing(self, kind: Kind, new: Mapping[str, Record]) -> AsyncIterator[tuple[Kind, str]]:
        """What is new, changed or gone. In slices: comparing 100,000 records at once stopped the loop for 0.4 s."""
        old = self._objects[kind]
        for count, (object_id, record) in enumerate(new.items()):
            known = old.get(object_id)
            if known is None or known.version != record.version or known.value != record.value:
                yield kind, object_id
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        for object_id in [i for i in old if i not in new]:
            yield kind, object_id

    async def _follow(self) -> None:
        """Apply what comes within a second."""
        entries = await self._store.read_feed(self.revision)
        for entry in entries:
            if entry.revision != self.revision + 1:
                raise _Lost
            await self._apply(entry)
        if not entries or time.monotonic() - self._checked_at > _CHECK_EVERY:
            await self._check()

    async def _check(self) -> None:
        """Is it the same server, and is our position one that it has reached?"""
        self._checked_at = time.monotonic()
        if await self._store.run_id() != self.run_id or await self._store.revision() < self.revision:
            raise _Lost
        self.connected = True

    async def _apply(self, entry: Entry) -> None:
        changes = [(kind, i, None if v is None else Record(v, entry.revision)) for kind, i, v in entry.changes]
        for kind, object_id in entry.large:
            if kind in self._objects:
                changes.append((kind, object_id, await self._store.get(kind, object_id)))
        touched = [(kind, i) for kind, i, record in changes if self._put(kind, i, record, entry.revision)]
        self.revision = entry.revision
        self._prune(touched)
        self._tell(touched)

    def _put(self, kind: Kind, object_id: str, record: Record | None, revision: int) -> bool:
        """Apply over lower versions only: the snapshot may have seen a later state than this entry."""
        objects = self._objects.get(kind)
        if objects is None:
            return False
        known = objects.get(object_id)
        if known is not None and known.version >= (revision if record is None else record.version):
            return False
        if record is not None:
            objects[object_id] = record
        elif known is not None:
            del objects[object_id]
        return record is not None or known is not None

    def _prune(self, touched: Sequence[tuple[Kind, str]]) -> None:
        for key in touched:
            self._decoded.pop(key, None)

    def _tell(self, touched: Sequence[tuple[Kind, str]]) -> None:
        if self._on_change is not None:
            self._on_change(touched)
        due = [waiter for revision, waiter in self._waiters if revision <= self.revision]
        self._waiters = [(r, w) for r, w in self._waiters if r > self.revision and not w.done()]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
