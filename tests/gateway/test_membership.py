"""The registration of a worker, in a real store."""

from __future__ import annotations

import asyncio

from gateway.membership import Membership
from state.store import Store
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
