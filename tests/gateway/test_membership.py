"""The registration of a worker, in a real store."""

from __future__ import annotations

import asyncio

from gateway.membership import Membership
from state.kinds import Kind
from state.mirror import Mirror
from state.store import Change, Store
from tests.conftest import Valkey

WORKER = "node/supervisor/1/incarnation"


async def registered(store: Store, workers: set[str]) -> None:
    async with asyncio.timeout(30):
        while await store.registered() != workers:
            await asyncio.sleep(0.005)


async def test_it_joins_and_leaves(store: Store) -> None:
    membership = Membership(store, WORKER)
    await membership.join()
    assert membership.joined.is_set()
    assert await store.registered() == {WORKER}
    assert await membership.leave()
    assert await store.registered() == set()


async def test_it_waits_for_the_store(valkey: Valkey, store: Store) -> None:
    valkey.kill()
    membership = Membership(store, WORKER)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        joining = tasks.create_task(membership.join())
        assert not await membership.leave()
        assert not joining.done()
        valkey.start()
    assert await store.registered() == {WORKER}


async def test_a_store_that_forgot_is_told_again(store: Store) -> None:
    membership = Membership(store, WORKER, check=0.02)
    await membership.join()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(membership.keep())
        await store.unregister([WORKER])
        await registered(store, {WORKER})
        keeping.cancel()


async def test_doubt_looks_at_once(store: Store) -> None:
    membership = Membership(store, WORKER, check=600)
    await membership.join()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(membership.keep())
        await store.unregister([WORKER])
        membership.doubt()
        await registered(store, {WORKER})
        keeping.cancel()


async def test_who_begins_has_what_was_stored_after_the_store_knew_it(store: Store) -> None:
    """Its registration was lost after its first snapshot, and others have let go of a replica without it since."""
    membership = Membership(store, WORKER, check=600)
    mirror = Mirror(store, [Kind.BACKEND])
    said: list[tuple[bool, int]] = []

    async def report() -> None:
        said.append((WORKER in await store.registered(), mirror.revision))

    await membership.join()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(mirror.run())
        await mirror.synced()
        following.cancel()
        await store.unregister([WORKER])
        revision = await store.commit([Change(Kind.BACKEND, "s", b"{}")])
        keeping = tasks.create_task(membership.keep())
        introducing = tasks.create_task(membership.introduce(mirror, report))
        await registered(store, {WORKER})
        assert not introducing.done()
        following = tasks.create_task(mirror.run())
        await introducing
        for task in (keeping, following):
            task.cancel()
    assert said[0] == (False, revision - 1)
    assert said[-1] == (True, revision)


async def test_a_store_that_is_gone_keeps_nobody_from_serving(valkey: Valkey, store: Store) -> None:
    membership = Membership(store, WORKER)
    mirror = Mirror(store, [Kind.BACKEND])
    await membership.join()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(mirror.run())
        await mirror.synced()
        valkey.kill()
        said: list[int] = []

        async def report() -> None:
            said.append(mirror.revision)

        await membership.introduce(mirror, report)
        following.cancel()
    assert said == [0]
