"""The mirror: snapshot, feed, gaps, another server, a server from an hour ago."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from state.codec import encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Route
from state.store import FEED_INLINE, FEED_KEY, Change, Record, Store, Unavailable
from tests.conftest import Valkey


@contextlib.asynccontextmanager
async def running(mirror: Mirror) -> AsyncIterator[Mirror]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(mirror.run())
        async with asyncio.timeout(30):
            await mirror.synced()
        yield mirror
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def restart(store: Store, valkey: Valkey) -> None:
    """Start the server again and let the client find out that its old connections are dead."""
    valkey.start()
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.ping()


async def test_snapshot_then_feed(store: Store) -> None:
    told: list[Sequence[tuple[Kind, str]]] = []
    await store.commit([Change(Kind.ROUTE, "a", b"1"), Change(Kind.SERVICE, "s", b"not mirrored")])
    async with running(Mirror(store, [Kind.ROUTE], told.append)) as mirror:
        assert mirror.get(Kind.ROUTE, "a") == Record(b"1", 1)
        revision = await store.commit([Change(Kind.ROUTE, "a", b"2"), Change(Kind.ROUTE, "b", b"x" * FEED_INLINE * 2)])
        await mirror.reached(revision)
        assert mirror.get(Kind.ROUTE, "a") == Record(b"2", revision)
        assert mirror.records(Kind.ROUTE)["b"].value == b"x" * FEED_INLINE * 2
        await mirror.reached(await store.commit([Change(Kind.ROUTE, "a", None)]))
        assert mirror.get(Kind.ROUTE, "a") is None
    assert told[0] == [(Kind.ROUTE, "a")]
    assert told[-1] == [(Kind.ROUTE, "a")]


async def test_decoding_happens_once_per_version(store: Store) -> None:
    await store.commit([Change(Kind.ROUTE, "a", encode(Route("s", "acme", "api")))])
    async with running(Mirror(store, [Kind.ROUTE])) as mirror:
        first = mirror.decoded(Kind.ROUTE, "a", Route)
        assert first is mirror.decoded(Kind.ROUTE, "a", Route)
        await mirror.reached(await store.commit([Change(Kind.ROUTE, "a", encode(Route("t", "acme", "api")))]))
        assert mirror.decoded(Kind.ROUTE, "a", Route) == Route("t", "acme", "api")


async def test_a_trimmed_feed_means_a_resync(store: Store) -> None:
    async with running(Mirror(store, [Kind.ROUTE])) as mirror:
        for n in range(3):
            async with store._client.pipeline() as pipe:
                pipe.incr("{wg}:revision")
                pipe.hset("{wg}:route", f"h{n}", f"{n + 1}:{n}")
                await pipe.execute()
        await store.commit([Change(Kind.ROUTE, "z", b"z")])
        await mirror.reached(4)
        assert {i: r.value for i, r in mirror.records(Kind.ROUTE).items()} == {
            "h0": b"0",
            "h1": b"1",
            "h2": b"2",
            "z": b"z",
        }
    assert await store._client.xlen(FEED_KEY) == 1


async def test_what_it_knew_stays_while_the_store_is_dead(store: Store, valkey: Valkey) -> None:
    await store.commit([Change(Kind.ROUTE, "a", b"1")])
    async with running(Mirror(store, [Kind.ROUTE])) as mirror:
        valkey.kill()
        await until(lambda: not mirror.connected)
        assert mirror.get(Kind.ROUTE, "a") == Record(b"1", 1)
        await restart(store, valkey)
        revision = await store.commit([Change(Kind.ROUTE, "a", b"2")])
        await mirror.reached(revision)
        assert mirror.get(Kind.ROUTE, "a") == Record(b"2", 2)


async def test_a_store_from_an_hour_ago_is_believed_after_a_resync(store: Store, valkey: Valkey) -> None:
    await store.commit([Change(Kind.ROUTE, "a", b"old")])
    valkey.kill()
    shutil.copytree(valkey.directory / "appendonlydir", valkey.directory / "backup")
    await restart(store, valkey)
    await store.commit([Change(Kind.ROUTE, "a", b"new")])
    await store.commit([Change(Kind.ROUTE, "b", b"newer")])
    told: list[Sequence[tuple[Kind, str]]] = []
    async with running(Mirror(store, [Kind.ROUTE], told.append)) as mirror:
        first_run = mirror.run_id
        assert mirror.revision == 3
        valkey.kill()
        shutil.rmtree(valkey.directory / "appendonlydir")
        shutil.move(valkey.directory / "backup", valkey.directory / "appendonlydir")
        await restart(store, valkey)
        await until(lambda: mirror.run_id != first_run)
        assert (mirror.revision, dict(mirror.records(Kind.ROUTE))) == (1, {"a": Record(b"old", 1)})
        assert sorted(told[-1]) == [(Kind.ROUTE, "a"), (Kind.ROUTE, "b")]


async def test_a_server_replaced_during_the_snapshot_means_another_snapshot(valkey: Valkey) -> None:
    """A run's id must not stand over objects of the next one."""

    class Replaced(Store):
        runs = 0

        async def scan(self, kind: Kind) -> AsyncIterator[tuple[str, Record]]:
            async for found in super().scan(kind):
                yield found
            self.runs += 1
            if self.runs == 1:
                valkey.kill()
                await asyncio.to_thread(valkey.start)

    store = Replaced(valkey.url)
    await store.commit([Change(Kind.ROUTE, "a", b"1")])
    told: list[Sequence[tuple[Kind, str]]] = []
    async with running(Mirror(store, [Kind.ROUTE], told.append)) as mirror:
        assert mirror.run_id == await store.run_id()
        assert len(told) == 1
        assert store.runs > 1
    await store.close()


async def test_a_snapshot_told_in_slices_counts_when_its_last_was_told(store: Store, valkey: Valkey) -> None:
    told: list[tuple[int, bool, int]] = []

    def changed(touched: Sequence[tuple[Kind, str]]) -> None:
        told.append((len(touched), mirror.connected, mirror.revision))

    await store.commit([Change(Kind.ROUTE, f"h{n}", b"1") for n in range(1000)])
    await store.commit([Change(Kind.ROUTE, f"i{n}", b"2") for n in range(1000)])
    await store.commit([Change(Kind.ROUTE, f"j{n}", b"3") for n in range(500)])
    mirror = Mirror(store, [Kind.ROUTE], changed, slices=True)
    async with running(mirror):
        assert told == [(1000, False, 0), (1000, False, 0), (500, True, 3)]
        await mirror.reached(await store.commit([Change(Kind.ROUTE, "h0", b"4")]))
        assert told[3:] == [(1, True, 4)]
        run_id = mirror.run_id
        await store.commit([Change(Kind.ROUTE, f"h{n}", None) for n in range(1000)])
        valkey.kill()
        await restart(store, valkey)
        await until(lambda: mirror.run_id != run_id)
        assert sum(count for count, *_ in told) == 3501


async def test_waiting_for_a_revision_can_be_cancelled(store: Store) -> None:
    async with running(Mirror(store, [Kind.ROUTE])) as mirror:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await mirror.reached(99)
        await mirror.reached(await store.commit([Change(Kind.ROUTE, "a", b"")]))
