"""The store: objects with versions in Valkey, changed by compare-and-set, told by a feed.

Laws kept here: 6 (every change is one Lua script: versions checked, revision taken, feed written, all or nothing) and
2 (reports and wakes are published levels, never kept). Every foreign exception leaves as a StoreError.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from redis import asyncio as aioredis
from redis import exceptions as refusals
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from state.codec import decode, encode
from state.kinds import Kind
from state.models import Event
from state.pool import FairPool

ABSENT: Final = 0
ANY: Final = -1

REPORTS: Final = "wg:reports"
WAKES: Final = "wg:wakes"
BEATS: Final = "wg:beats"  # of nodes: their control lives
GPUS: Final = "wg:gpus"  # of nodes: how busy the GPUs of their replicas are
EVENTS: Final = "wg:events"  # the ids of services that have a new one
WINDOWS: Final = "wg:windows"

REVISION_KEY: Final = "{wg}:revision"
FEED_KEY: Final = "{wg}:feed"
LEASES_KEY: Final = "{wg}:leases"
WORKERS_KEY: Final = "{wg}:workers"

# The feed is kept in memory and in the append-only file; both numbers together bound its bytes. A commit changes about
# 2 objects of about 0.5 KB: 20,000 entries are 20 MB. With 5 objects each, all as large as can be: 20,000 * 5 * 2 KB =
# 200 MB. A reader may lag by 100 s of 200 commits a second; behind that he resyncs (100,000 services: 5 s).
FEED_LENGTH: Final = 20_000  # entries
FEED_INLINE: Final = 2048  # bytes of a payload that travels in the feed; larger ones are read again
EVENTS_KEPT: Final = 1000  # per service (SPEC: beyond the seed)
EVENTS_LINGER: Final = 86_400  # seconds after their service is gone, as its logs
SCAN_BATCH: Final = 2000
CONNECTIONS: Final = 16  # of one client to the store

_QUIET: Final = 2.0  # seconds without a message until a subscription is asked, and as long for its answer
_ANSWER_TIMEOUT: Final = 5.0  # seconds; a stopped store must look like a dead one


class StoreError(Exception):
    """The store did not do what was asked; nothing was changed unless said otherwise."""


class Unavailable(StoreError):
    """The store can't be reached, doesn't answer in time or can't write. A commit may or may not have happened."""


class Conflict(StoreError):
    """An object had another version than the writer expected; nothing was changed."""

    def __init__(self, kind: Kind, object_id: str, version: int) -> None:
        super().__init__(f"{kind} {object_id!r} is at version {version}")
        self.kind = kind
        self.id = object_id
        self.version = version


class Full(StoreError):
    """A count would have become more than it may; nothing was changed. `found` is what it is."""

    def __init__(self, kind: Kind, object_id: str, found: int) -> None:
        super().__init__(f"{kind} {object_id!r} is at {found}")
        self.kind = kind
        self.id = object_id
        self.found = found


class Fenced(StoreError):
    """The writer's lease has another holder by now; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """Put (`value`) or delete (`None`) an object that now has the version `expect` (ANY, ABSENT or a revision).

    `unchanged`: it is left as it is and only must have that version. `step`: the object is a count (absent = 0), to
    which this is added whoever else adds to it; one that rises by it may become `most` (0 = any number).
    """

    kind: Kind
    id: str
    value: bytes | None
    expect: int = ANY
    unchanged: bool = False
    step: int = 0
    most: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """An object's payload and the revision that wrote it."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Fence:
    """A commit under it fails with Fenced unless the lease still has this token."""

    lease: str
    token: int


@dataclass(frozen=True, slots=True)
class Told:
    """An event and its place among those of its service: places rise, each is one event's for ever."""

    place: int
    event: Event


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit in the feed: `(kind, id, payload)`; payload `None` = deleted.

    `large` holds the `(kind, id)` whose payload is too large for the feed and must be read again.
    """

    revision: int
    changes: tuple[tuple[Kind, str, bytes | None], ...]
    large: tuple[tuple[Kind, str], ...]


def script(name: str) -> str:
    """The text of one of this package's Lua scripts."""
    return resources.files("state").joinpath(name).read_text()


def kind_key(kind: Kind) -> str:
    return f"{{wg}}:{kind}"


def events_key(service: str) -> str:
    return f"{{{service}}}:stream:events"


def _parse(value: bytes) -> Record:
    version, _, payload = value.partition(b":")
    return Record(payload, int(version))


def _client(url: str, connect_timeout: float, timeout: float) -> Any:
    """Callers beyond CONNECTIONS wait for a connection as long as for an answer."""
    pool: Any = FairPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        protocol=3,
        # never retried by the client: a commit whose answer was lost may have happened
        retry=Retry(NoBackoff(), 0),
    )
    return aioredis.Redis.from_pool(pool)


@contextlib.asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Foreign exceptions become ours; a cancellation is never lost.

    The client sends under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives as the
    sending ends (python/cpython#86296); it is raised again here, or a cancelled task would go on for ever.
    """
    try:
        yield
        _check_cancelled()
    except (refusals.ConnectionError, refusals.TimeoutError, OSError) as error:
        raise Unavailable(f"the store does not answer: {error}") from error
    except refusals.RedisError as error:
        raise Unavailable(f"the store refused: {error}") from error


def _check_cancelled() -> None:
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError


class Store:
    """A client of the store; connects when first used, reconnects by itself, safe to share in one event loop.

    `url` is `unix:///path`, `redis://` or `rediss://`.
    """

    def __init__(self, url: str, *, timeout: float = _ANSWER_TIMEOUT) -> None:
        self._timeout = timeout
        # `Any`: the stubs say `bytes | str` everywhere, decode_responses being off it is bytes
        self._client: Any = _client(url, timeout, timeout)
        # blocking reads wait on purpose: their own connections, with the waiting time added
        self._waiting: Any = _client(url, timeout, timeout + 2)
        self._commit_script = self._client.register_script(script("commit.lua"))
        self._lease_script = self._client.register_script(script("lease.lua"))
        self._event_script = self._client.register_script(script("append_event.lua"))
        self._release_script = self._client.register_script(script("release.lua"))

    async def close(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    @property
    def client(self) -> Any:
        """For the other modules of this package, whose commands go inside `translated`."""
        return self._client

    async def ping(self) -> None:
        """Raises Unavailable."""
        async with translated():
            await self._client.ping()

    def script(self, text: str) -> Callable[[Sequence[str], Sequence[Any]], Awaitable[Any]]:
        """A Lua script of the caller's own, to be run with keys and arguments. Running it raises Unavailable."""
        registered = self._client.register_script(text)

        async def run(keys: Sequence[str], arguments: Sequence[Any]) -> Any:
            async with translated():
                return await registered(keys=keys, args=arguments)

        return run

    async def get(self, kind: Kind, object_id: str) -> Record | None:
        """Raises Unavailable."""
        async with translated():
            value: bytes | None = await self._client.hget(kind_key(kind), object_id)
        return None if value is None else _parse(value)

    async def look(self, kind: Kind, object_id: str) -> tuple[str, Record | None]:
        """The object, and the `run_id` of the server that has it, by one connection. Raises Unavailable."""
        async with translated(), self._client.pipeline(transaction=False) as pipe:
            pipe.info("server")
            pipe.hget(kind_key(kind), object_id)
            info, value = await pipe.execute()
        return str(info["run_id"]), None if value is None else _parse(value)

    async def get_many(self, kind: Kind, ids: Sequence[str]) -> dict[str, Record]:
        """Those of `ids` that exist. Raises Unavailable."""
        if not ids:
            return {}
        async with translated():
            values = await self._client.hmget(kind_key(kind), list(ids))
        return {i: _parse(value) for i, value in zip(ids, values, strict=True) if value is not None}

    async def scan(self, kind: Kind) -> AsyncIterator[tuple[str, Record]]:
        """Every object of a kind, in no order; one that changes meanwhile may be seen before or after. Unavailable."""
        cursor = 0
        while True:
            async with translated():
                cursor, batch = await self._client.hscan(kind_key(kind), cursor, count=SCAN_BATCH)
            for object_id, value in batch.items():
                yield object_id.decode(), _parse(value)
            if cursor == 0:
                return

    async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
        """Apply all changes or none; returns the revision. Raises Conflict, Full, Fenced, Unavailable.

        One of them at least changes something.
        """
        keys = [REVISION_KEY, FEED_KEY, LEASES_KEY, *(kind_key(c.kind) for c in changes)]
        args: list[Any] = ["", 0, FEED_LENGTH, FEED_INLINE]
        if fence is not None:
            args[:2] = [fence.lease, fence.token]
        for c in changes:
            what = "+" if c.step else "=" if c.unchanged else "0" if c.value is None else "1"
            payload = f"{c.step} {c.most}".encode() if c.step else c.value or b""
            args += (f"{c.kind}/{c.id}", c.id, c.expect, what, payload)
        async with translated():
            answer: list[bytes] = await self._commit_script(keys=keys, args=args)
        if answer[0] == b"ok":
            return int(answer[1])
        if answer[0] == b"fenced":
            raise Fenced(f"lease {fence and fence.lease!r} has token {answer[1].decode()}")
        failed = changes[int(answer[1]) - 1]
        if answer[0] == b"full":
            raise Full(failed.kind, failed.id, int(answer[2]))
        raise Conflict(failed.kind, failed.id, int(answer[2]))

    async def revision(self) -> int:
        """The newest revision, 0 for an empty store. Raises Unavailable."""
        async with translated():
            return int(await self._client.get(REVISION_KEY) or 0)

    async def run_id(self) -> str:
        """Changes whenever the server was started anew (its data may be older than before). Raises Unavailable."""
        async with translated():
            info = await self._client.info("server")
        return str(info["run_id"])

    async def read_feed(self, after: int, *, wait: float = 1.0, limit: int = 1000) -> list[Entry]:
        """Commits after a revision, oldest first; waits up to `wait` seconds for the first. Raises Unavailable.

        It can't tell a trimmed feed from a whole one: callers check that revisions follow each other.
        """
        async with translated():
            answer: Any = await self._waiting.xread({FEED_KEY: f"{after}-0"}, count=limit, block=int(wait * 1000))
        if not answer:
            return []
        entries = answer[FEED_KEY.encode()][0] if isinstance(answer, dict) else answer[0][1]
        return [_entry(entry_id, fields) for entry_id, fields in entries]

    async def try_lease(self, name: str, holder: str, owner: str, seen: tuple[int, int], stale: bool) -> Any:
        """One step of `state.leases`: `(held, token, beat)`. Raises Unavailable."""
        async with translated():
            args: list[Any] = [name, holder, owner, *seen, "1" if stale else "0"]
            answer = await self._lease_script(keys=[LEASES_KEY], args=args)
        return answer[0] == b"held", int(answer[1]), int(answer[2])

    async def release_lease(self, name: str, holder: str) -> None:
        """Nobody has it, if `holder` had it: the next who tries takes it at once. Raises Unavailable."""
        async with translated():
            await self._release_script(keys=[LEASES_KEY], args=[name, holder])

    async def register(self, worker: str) -> None:
        """Add a worker, `<node>/<supervisor>/<number>/<incarnation>`, to those that must acknowledge. Unavailable."""
        async with translated():
            await self._client.hset(WORKERS_KEY, worker, "1")

    async def restore(self, workers: Iterable[str]) -> None:
        """Register those again that are not. Raises Unavailable."""
        async with translated(), self._client.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.hsetnx(WORKERS_KEY, worker, "1")
            await pipe.execute()

    async def unregister(self, workers: Iterable[str]) -> None:
        """Their acknowledgement is not waited for any more. Raises Unavailable."""
        if gone := list(workers):
            async with translated():
                await self._client.hdel(WORKERS_KEY, *gone)

    async def registered(self) -> set[str]:
        """Every worker whose acknowledgement counts. Raises Unavailable."""
        async with translated():
            return {worker.decode() for worker in await self._client.hkeys(WORKERS_KEY)}

    async def census(self) -> tuple[str, set[str]]:
        """`registered` and the `run_id` of the server that said so, by one connection. Raises Unavailable."""
        async with translated(), self._client.pipeline(transaction=False) as pipe:
            pipe.info("server")
            pipe.hkeys(WORKERS_KEY)
            info, workers = await pipe.execute()
        return str(info["run_id"]), {worker.decode() for worker in workers}

    async def publish(self, channel: str, data: bytes) -> None:
        """Tell whoever listens now; kept nowhere. Raises Unavailable."""
        async with translated():
            await self._client.publish(channel, data)

    async def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, bytes]]:
        """`(channel, data)` of each message, for ever; reconnects by itself, what was sent meanwhile is lost.

        A path that went silent without an end (a failover, a firewall that forgot) is noticed within 6 s: who hears
        nothing asks, and who gets no answer connects anew.
        """
        while True:
            try:
                async with translated(), self._waiting.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(*channels)
                    silence = _Silence(time.monotonic())
                    while True:
                        _check_cancelled()
                        message = await pubsub.get_message(timeout=1.0)
                        if silence.ask(message is not None, time.monotonic()):
                            await pubsub.ping()
                        if message is not None and message["type"] == "message":
                            yield message["channel"].decode(), message["data"]
            except Unavailable:
                await asyncio.sleep(0.2)  # the pace of reconnecting, not a wait for a condition

    async def append_event(self, service: str, event: Event) -> None:
        """Keep an event of a service, once however often it is tried; the oldest beyond EVENTS_KEPT go. Unavailable.

        Those of a service that is not stored (not yet, or not any more) are kept for EVENTS_LINGER seconds.
        """
        key = events_key(service)
        args: list[Any] = [encode(event), event.time, EVENTS_KEPT, EVENTS, service]
        async with translated():
            await self._event_script(keys=[key], args=args)
            if not await self._client.hexists(kind_key(Kind.SERVICE), service):
                await self._client.expire(key, EVENTS_LINGER)

    async def events(self, service: str, limit: int = EVENTS_KEPT) -> list[Told]:
        """The newest `limit` events, oldest first. Raises Unavailable."""
        async with translated():
            entries = await self._client.xrevrange(events_key(service), count=limit)
        return [_told(*entry) for entry in reversed(entries)]

    async def events_after(self, service: str, place: int, limit: int = EVENTS_KEPT) -> list[Told]:
        """The oldest `limit` events behind a place, oldest first. Raises Unavailable."""
        async with translated():
            entries = await self._client.xrange(events_key(service), min=f"({place}-0", count=limit)
        return [_told(*entry) for entry in entries]

    async def keep_events(self, service: str) -> None:
        """Those told before their service was stored stay as long as it does. Raises Unavailable."""
        async with translated():
            await self._client.persist(events_key(service))

    async def forget_events(self, service: str, after: int = EVENTS_LINGER) -> None:
        """They are gone in `after` seconds, with whatever a late writer adds until then. Raises Unavailable."""
        async with translated():
            await self._client.expire(events_key(service), after)


class _Silence:
    """When to ask a subscription whether it still lives. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._heard_at = now
        self._asked_at: float | None = None

    def ask(self, heard: bool, now: float) -> bool:
        """Whether to ask now. Raises Unavailable if it did not answer."""
        if heard:
            self._heard_at, self._asked_at = now, None
        elif self._asked_at is None:
            if now - self._heard_at >= _QUIET:
                self._asked_at = now
                return True
        elif now - self._asked_at >= _QUIET:
            raise Unavailable("the subscription went silent")
        return False


def _told(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Told:
    return Told(int(entry_id.partition(b"-")[0]), decode(Event, fields[b"event"]))


def _entry(entry_id: bytes, fields: Any) -> Entry:
    pairs = fields.items() if isinstance(fields, dict) else fields
    changes: list[tuple[Kind, str, bytes | None]] = []
    large: list[tuple[Kind, str]] = []
    for name, told in pairs:
        kind_name, _, object_id = name.decode().partition("/")
        kind = Kind(kind_name)
        if told[:1] == b"?":
            large.append((kind, object_id))
        else:
            changes.append((kind, object_id, told[1:] if told[:1] == b"=" else None))
    return Entry(int(entry_id.partition(b"-")[0]), tuple(changes), tuple(large))
