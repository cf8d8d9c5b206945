"""Analytics in the store: windows of workers on their way in, each service's lines and chunks, and who is to be tended.

- `inbox` (hash, `<worker> <number>`): windows that workers delivered and the leader has not folded yet.
- `folded` (hash, worker: `<number> <time>`): up to which number a worker's windows are in the lines. Written in the
  same script as the lines, so that a window counts once whoever delivers it, however often.
- `<service>:lines` (list): JSON, `[slot, …row]` of `state.counts`, or `[time, level]`: ready replicas from then on.
- `<service>` (hash): chunks by name, as `control.analytics.chunks` makes them of the lines.
- `ready` (hash): the ready replicas of each service as they were put down last, and when they were looked at.
- `due` (sorted set): when a service is to be tended next.

Laws kept here: 6 (what the leader writes is fenced, and all or nothing) and 7 (the inbox is bounded; a worker whose
window finds no room keeps it). All keys share the tag `{wg}`, for one script writes several of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from state.store import LEASES_KEY, Fence, Fenced, Store, script, translated

INBOX: Final = 2000  # windows
INBOX_KEY: Final = "{wg}:analytics:inbox"
FOLDED_KEY: Final = "{wg}:analytics:folded"
READY_KEY: Final = "{wg}:analytics:ready"
DUE_KEY: Final = "{wg}:analytics:due"

_BATCH: Final = 1000  # of a scan
_LOOKED: Final = "@"  # the field of the time; no service has such an id


@dataclass(frozen=True, slots=True)
class Fold:
    """What one commit of the leader adds: windows by worker and number, lines by service.

    `ready`: by service the ids of its ready replicas, where they changed; `looked_at`: Unix seconds, None = not now.
    """

    windows: Sequence[tuple[str, int]]
    lines: Mapping[str, Sequence[bytes]]
    ready: Mapping[str, Collection[str]] = field(default_factory=dict)
    looked_at: int | None = None


@dataclass(frozen=True, slots=True)
class Compaction:
    """`lines` of a service, the oldest, are in its chunks now. `due`: when there is something to do without new lines
    (Unix seconds; None: never)."""

    service: str
    lines: int
    put: Mapping[str, bytes]
    drop: Sequence[str]
    due: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """All that is known of a service, of one moment: chunks by name, lines, and the windows that wait to be folded.

    `folded`: by worker, up to which number.
    """

    chunks: Mapping[str, bytes]
    lines: Sequence[bytes]
    inbox: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    folded: Mapping[str, int] = field(default_factory=dict)


class Rollups:
    """Analytics of a store. Everything raises Unavailable."""

    def __init__(self, store: Store) -> None:
        self._client: Any = store.client
        self._deliver = self._client.register_script(script("deliver.lua"))
        self._fold = self._client.register_script(script("fold.lua"))
        self._compact = self._client.register_script(script("compact.lua"))

    async def deliver(self, worker: str, number: int, window: bytes, *, unless_there: bool = False) -> bool:
        """A window is in the store now, once, however often this is called. False: there is no room, try again.

        `unless_there`: for who knows less than the worker itself; what that has delivered stays.
        """
        args = [worker, number, window, INBOX, "1" if unless_there else "0"]
        async with translated():
            answer: bytes = await self._deliver(keys=[INBOX_KEY, FOLDED_KEY], args=args)
        return answer != b"full"

    async def inbox(self) -> dict[tuple[str, int], bytes]:
        """The windows that wait to be folded, by worker and number."""
        async with translated():
            return _inbox(await self._client.hgetall(INBOX_KEY))

    async def waiting(self) -> list[tuple[str, int]]:
        """Which windows wait to be folded."""
        async with translated():
            return [_window(name) for name in await self._client.hkeys(INBOX_KEY)]

    async def windows(self, which: Sequence[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
        """Those of them that wait."""
        if not which:
            return {}
        async with translated():
            found = await self._client.hmget(INBOX_KEY, [f"{worker} {number}" for worker, number in which])
        return {window: data for window, data in zip(which, found, strict=True) if data is not None}

    async def folded(self) -> dict[str, tuple[int, int]]:
        """By worker: the number of its last window that was folded, and when (Unix seconds)."""
        async with translated():
            return _folded(await self._client.hgetall(FOLDED_KEY))

    async def ready(self) -> tuple[dict[str, frozenset[str]], int | None]:
        """The ready replicas of each service as they were put down last; and when that was (None: never)."""
        async with translated():
            found = {name.decode(): ids.decode() for name, ids in (await self._client.hgetall(READY_KEY)).items()}
        looked_at = found.pop(_LOOKED, None)
        ready = {service: frozenset(ids.split(",")) for service, ids in found.items()}
        return ready, None if looked_at is None else int(looked_at)

    async def fold(self, fold: Fold, fence: Fence, now: int, due: int) -> None:
        """All of it, or nothing. `due`: when its services are to be tended at the latest. Raises Fenced, too."""
        keys = [LEASES_KEY, INBOX_KEY, FOLDED_KEY, DUE_KEY, READY_KEY, *(lines_key(s) for s in fold.lines)]
        args: list[Any] = [fence.lease, fence.token, due, len(fold.windows)]
        for worker, number in fold.windows:
            args += (worker, number, now)
        ready = {service: ",".join(sorted(ids)) for service, ids in fold.ready.items()}
        if fold.looked_at is not None:
            ready[_LOOKED] = str(fold.looked_at)
        args.append(len(ready))
        for name, value in ready.items():
            args += (name, value)
        for service, lines in fold.lines.items():
            args += (service, len(lines), *lines)
        async with translated():
            _not_fenced(await self._fold(keys=keys, args=args), fence)

    async def due(self, now: int, limit: int) -> list[str]:
        """The services that are to be tended now, the longest due first."""
        async with translated():
            found = await self._client.zrangebyscore(DUE_KEY, "-inf", now, start=0, num=limit)
        return [service.decode() for service in found]

    async def names(self, service: str) -> list[str]:
        """Of its chunks."""
        async with translated():
            return [name.decode() for name in await self._client.hkeys(chunks_key(service))]

    async def lines(self, service: str, limit: int) -> list[bytes]:
        """The oldest."""
        async with translated():
            found: list[bytes] = await self._client.lrange(lines_key(service), 0, limit - 1)
        return found

    async def chunks(self, service: str, names: Sequence[str]) -> dict[str, bytes]:
        """Those of them that exist."""
        if not names:
            return {}
        async with translated():
            return _existing(names, await self._client.hmget(chunks_key(service), list(names)))

    async def compact(self, done: Compaction, fence: Fence, due: int) -> None:
        """All of it, or nothing. `due`: when the lines that came meanwhile are to be tended. Raises Fenced, too."""
        keys = [LEASES_KEY, chunks_key(done.service), lines_key(done.service), DUE_KEY]
        last = "" if done.due is None else done.due
        args: list[Any] = [fence.lease, fence.token, done.service, done.lines, due, last, len(done.put)]
        for name, chunk in done.put.items():
            args += (name, chunk)
        args += done.drop
        async with translated():
            _not_fenced(await self._compact(keys=keys, args=args), fence)

    async def read(self, service: str, names: Sequence[str]) -> Stored:
        """These chunks, and all that is not in chunks yet: of one moment."""
        async with translated(), self._client.pipeline(transaction=True) as pipe:
            pipe.hmget(chunks_key(service), list(names))
            pipe.lrange(lines_key(service), 0, -1)
            pipe.hgetall(INBOX_KEY)
            pipe.hgetall(FOLDED_KEY)
            chunks, lines, inbox, folded = await pipe.execute()
        numbers = {worker: number for worker, (number, _) in _folded(folded).items()}
        return Stored(_existing(names, chunks), lines, _inbox(inbox), numbers)

    async def services(self) -> list[str]:
        """All that have anything here."""
        async with translated():
            return [service.decode() async for service, _ in self._client.zscan_iter(DUE_KEY, count=_BATCH)]

    async def forget(self, service: str) -> None:
        """All that is known of a service goes."""
        async with translated(), self._client.pipeline(transaction=True) as pipe:
            pipe.unlink(chunks_key(service), lines_key(service))
            pipe.hdel(READY_KEY, service)
            pipe.zrem(DUE_KEY, service)
            await pipe.execute()

    async def forget_workers(self, workers: Sequence[str]) -> None:
        """They ended long ago: none of their windows can come any more."""
        if workers:
            async with translated():
                await self._client.hdel(FOLDED_KEY, *workers)


def chunks_key(service: str) -> str:
    return f"{{wg}}:analytics:service:{service}"


def lines_key(service: str) -> str:
    return f"{{wg}}:analytics:service:{service}:lines"


def _window(name: bytes) -> tuple[str, int]:
    worker, _, number = name.decode().rpartition(" ")
    return worker, int(number)


def _inbox(found: Mapping[bytes, bytes]) -> dict[tuple[str, int], bytes]:
    return {_window(name): data for name, data in found.items()}


def _folded(found: Mapping[bytes, bytes]) -> dict[str, tuple[int, int]]:
    told = {worker.decode(): value.split() for worker, value in found.items()}
    return {worker: (int(number), int(time)) for worker, (number, time) in told.items()}


def _existing(names: Sequence[str], found: Sequence[bytes | None]) -> dict[str, bytes]:
    return {name: chunk for name, chunk in zip(names, found, strict=True) if chunk is not None}


def _not_fenced(answer: bytes, fence: Fence) -> None:
    if answer == b"fenced":
        raise Fenced(f"lease {fence.lease!r} has another token than {fence.token}")
