"""From the windows that workers deliver to what is kept: the leader's part of analytics, and reading it again.

Laws kept here: 4 and 6 (each pass goes on from what is stored; its commits are fenced and whole, so that a leader may
be killed at any line, and one whose answer was lost looks again), 7 (passes do a bounded amount of work).

- `fold`, 2 s after each slot: windows in the inbox become lines of their services. What all workers say of one slot is
  one line.
- `tend`, ten minutes after a service's first line: its lines become parts of its chunks, chunks that are over go.
- Wills: what a worker that was killed last said of its open windows is delivered in its place.
- Hourly: what is left of services whose logs are gone, too, is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from control.analytics import chunks, series
from control.analytics.chunks import LEVELS, Rows
from control.analytics.gpus import GpuLooks
from control.analytics.heard import LATE, Heard, window_counts
from control.analytics.replicas import ReadyReplicas, ReplicaLevels
from control.analytics.resolution import DAY, HOUR, Range, tier_of
from control.ports import Objects
from control.services import remains
from state.counts import MalformedWindow, decode_window, slot_of
from state.kinds import Kind
from state.rollups import Compaction, Fold, Rollups, Stored
from state.store import WINDOWS, Fence, Fenced, Store, StoreError

_PASS: Final = 1.0  # seconds between passes
_GRACE: Final = 2.0  # seconds after a slot's end, for all workers to have delivered it
_LOOKED: Final = 30.0  # seconds after which it is said that the replicas are still as they were
_TENDED: Final = 600  # seconds after its first line that a service is tended
_LINES: Final = 2000  # of a service that are looked at in one go
_WINDOWS: Final = 16  # windows that are folded in one commit…
_BYTES: Final = 32 * 1024  # …or so many bytes of them, if they are large
_AT_ONCE: Final = 200  # services tended in one pass
_BUSY: Final = 0.25  # seconds that a pass tends services for

_log = logging.getLogger("wakegate.analytics")


class Analytics:
    """One per control process: `await run()` for ever, `changed` for the mirror, `read` for the API.

    `fence` is of the lease, None for who does not lead. `gpus`: percent that the GPUs of services are busy, by id, of
    those for which it was measured.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        fence: Callable[[], Fence | None],
        gpus: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.unreadable = 0  # windows and lines that could not be read
        self._store = store
        self._objects = objects
        self._fence = fence
        self._gpus = gpus
        self._looks = GpuLooks()
        self._rollups = Rollups(store)
        self._heard = Heard()
        self._ready = ReadyReplicas(objects)
        self._levels = ReplicaLevels(self._ready)
        self._tenure: Fence | None = None
        self._connected: tuple[str, float] = ("", 0.0)  # run of the store, since when
        self._folded_at = 0  # the slot before which all is folded
        self._put_at = float("-inf")
        self._swept_at = float("-inf")

    @property
    def dropped(self) -> int:
        """Messages of workers and changes of replicas that were not kept."""
        return self._heard.dropped + self._heard.unreadable + self._levels.dropped + self.unreadable

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        self._levels.changed(self._ready.changed(touched), time.time())

    def heard(self, data: bytes) -> None:
        """What a worker says of a window that it still fills."""
        self._heard.take(data, time.monotonic())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="windows")
            tasks.create_task(self._lead(), name="rollups")

    async def close(self) -> None:
        """The last look at the replicas: who leads next knows until when they were there."""
        fence = self._fence()
        if fence is not None and fence == self._tenure:
            self._put_at = float("-inf")
            with contextlib.suppress(StoreError):
                await self._put_down(fence, time.time())

    async def read(self, service: str, wanted: Range, now: int) -> dict[str, Any]:
        """The answer of the API. Raises Unavailable."""
        names = [*wanted.tier.kept(wanted.start, wanted.end, now), LEVELS]
        heard = self._heard.windows(service)  # before the store: what is delivered meanwhile is in either, or both
        stored = await self._rollups.read(service, names)
        return await asyncio.to_thread(_read, service, wanted, stored, heard, now)

    async def _listen(self) -> None:
        async for _, data in self._store.subscribe(WINDOWS):
            self.heard(data)

    async def _lead(self) -> None:
        while True:
            await asyncio.sleep(_PASS)
            fence = self._fence()
            if fence is None or not self._objects.connected:
                self._tenure = None
                self._levels.end()
            try:
                if fence is not None and self._objects.connected:
                    await self.work(fence, time.time())
                else:
                    await self._compare()
            except StoreError as error:
                self._tenure = None  # whether it was stored is not known: look again
                log = _log.warning if isinstance(error, Fenced) else _log.debug
                log("analytics are folded later: %s", error)
            except Exception:
                self._tenure = None
                _log.exception("analytics are folded later")

    async def work(self, fence: Fence, now: float) -> None:
        """One pass of the leader. `now`: Unix seconds. Raises Fenced, Unavailable."""
        if self._tenure != fence:
            stored, looked_at = await self._rollups.ready()
            self._levels.begin(stored, now if looked_at is None else looked_at, now)
            self._tenure = fence
        await self._compare()
        await self._execute_wills()
        await self._put_down(fence, now)
        if slot_of(now - _GRACE) != self._folded_at:
            await self.fold(fence, int(now))
            self._folded_at = slot_of(now - _GRACE)
        await self._tend(fence, int(now))
        if now - self._swept_at >= HOUR:
            self._swept_at = now
            await self.sweep(int(now))

    async def _compare(self) -> None:
        """Forget what is in the store, and services that are no more."""
        self._levels.keep(self._objects.records(Kind.SERVICE))
        folded = {worker: number for worker, (number, _) in (await self._rollups.folded()).items()}
        self._heard.stored(_delivered(folded, await self._rollups.waiting()))

    async def _execute_wills(self) -> None:
        """A worker that is not registered any more and silent is dead; only then nothing more can come of it."""
        now, run_id = time.monotonic(), self._objects.run_id
        if self._connected[0] != run_id:
            self._connected = (run_id, now)
        if now - self._connected[1] < LATE or not (silent := self._heard.silent(now)):
            return
        for worker in silent - await self._store.registered():
            for number, window in self._heard.of(worker):
                await self._rollups.deliver(worker, number, window, unless_there=True)

    async def _put_down(self, fence: Fence, now: float) -> None:
        lines, ready = self._levels.take()
        self._looks.look(self._gpus(), now)
        for service, of_gpus in self._looks.take().items():
            lines.setdefault(service, []).extend(of_gpus)
        if ready or lines or now - self._put_at >= _LOOKED:
            self._put_at = now
            await self._rollups.fold(Fold((), lines, ready, int(now)), fence, int(now), int(now) + _TENDED)

    async def fold(self, fence: Fence, now: int) -> None:
        """Everything in the inbox. Raises Fenced, Unavailable."""
        waiting = sorted(await self._rollups.waiting())
        for start in range(0, len(waiting), _WINDOWS):
            windows = await self._rollups.windows(waiting[start : start + _WINDOWS])
            for part in _parts(windows):
                lines, unreadable = await asyncio.to_thread(_lines, part)
                self.unreadable += unreadable
                await self._rollups.fold(Fold(list(part), lines), fence, now, now + _TENDED)

    async def _tend(self, fence: Fence, now: int) -> None:
        until = time.monotonic() + _BUSY
        for service in await self._rollups.due(now, _AT_ONCE):
            try:
                await self.tend(service, fence, now)
            except StoreError:
                raise
            except Exception:  # one service must not stand in the way of the others
                self.unreadable += 1
                _log.exception("analytics of %s can't be tended", service)
            if time.monotonic() >= until:
                return

    async def tend(self, service: str, fence: Fence, now: int) -> None:
        """A service's lines become parts of its chunks. Raises Fenced, Unavailable."""
        lines = await self._rollups.lines(service, _LINES)
        told = await asyncio.to_thread(chunks.read_lines, lines)
        self.unreadable += told.unreadable
        names = await self._rollups.names(service)
        known = await self._rollups.chunks(service, chunks.touched(told, now))
        put = await asyncio.to_thread(chunks.compacted, known, told, now)
        expiries = {name: tier.expires(name) for name in {*names, *put} if (tier := tier_of(name)) is not None}
        drop = [name for name, at in expiries.items() if at <= now]
        left = {*names, *put} - set(drop)
        due = min([at for name, at in expiries.items() if name in left] + [now + DAY]) if left else None
        await self._rollups.compact(Compaction(service, len(lines), put, drop, due), fence, now + _TENDED)

    async def sweep(self, now: int) -> None:
        """Forget services whose time is over, and workers that ended long ago. Raises Unavailable."""
        if not self._objects.connected:
            return
        services = self._objects.records(Kind.SERVICE)
        for service in await self._rollups.services():
            if service in services or remains.find(self._objects, service) is not None:
                continue
            if await self._store.get(Kind.SERVICE, service) is None:  # else it is newer than our copy
                await self._rollups.forget(service)
        registered = await self._store.registered()
        folded = await self._rollups.folded()
        ended = [worker for worker, (_, at) in folded.items() if worker not in registered and now - at > DAY]
        await self._rollups.forget_workers(ended)


def _delivered(folded: Mapping[str, int], inbox: Iterable[tuple[str, int]]) -> dict[str, int]:
    """By worker the number up to which all of its windows are in the store: they are delivered in order, and one that
    is not there was merged into a later one."""
    numbers = dict(folded)
    for worker, number in inbox:
        numbers[worker] = max(number, numbers.get(worker, 0))
    return numbers


def _parts(windows: Mapping[tuple[str, int], bytes]) -> list[dict[tuple[str, int], bytes]]:
    """In commits of a bearable size."""
    parts: list[dict[tuple[str, int], bytes]] = []
    size = _BYTES
    for window, data in windows.items():
        if size + len(data) > _BYTES:
            parts.append({})
            size = 0
        parts[-1][window] = data
        size += len(data)
    return parts


def _lines(windows: Mapping[tuple[str, int], bytes]) -> tuple[dict[str, list[bytes]], int]:
    """The lines of each service; and how many windows can't be read."""
    rows: dict[str, Rows] = {}
    unreadable = 0
    for (worker, number), data in windows.items():
        try:
            window = decode_window(data)
        except MalformedWindow as error:
            unreadable += 1
            _log.error("window %d of %s: %s", number, worker, error)
            continue
        for service, counts in window.rows.items():
            chunks.merge(rows.setdefault(service, {}), window.header.slot, counts)
    return {s: [chunks.row_line(at, counts) for at, counts in of.items()] for s, of in rows.items()}, unreadable


def _read(
    service: str, wanted: Range, stored: Stored, heard: Mapping[tuple[str, int], bytes], now: int
) -> dict[str, Any]:
    rows: Rows = {}
    levels: chunks.Levels = []
    for name, chunk in stored.chunks.items():
        try:
            if name == LEVELS:
                levels = chunks.unpack_levels(chunk)
            else:
                rows |= chunks.unpack(chunk)
        except chunks.MalformedChunk as error:
            _log.error("%s of %s: %s", name, service, error)
    told = chunks.read_lines(stored.lines)
    for at, counts in told.rows.items():
        chunks.merge(rows, at, counts)
    delivered = _delivered(stored.folded, stored.inbox)
    early = {key: data for key, data in heard.items() if key[1] > delivered.get(key[0], 0)}
    for data in (*stored.inbox.values(), *early.values()):
        for at, counts in window_counts(data, service):
            chunks.merge(rows, at, counts)
    return series.answer(wanted, rows, chunks.joined(levels, told.levels), now)
