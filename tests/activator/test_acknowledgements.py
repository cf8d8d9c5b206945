"""Waiting for every registered worker, on a real store: who counts, who is told, and who does not count any more."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from plane import Running, until

from activator.acks import Acknowledgements
from activator.demand import Demand, Report
from activator.registrations import Registrations
from state.kinds import Kind
from state.mirror import Mirror
from state.store import Change, Store, Unavailable
from tests.conftest import Valkey


class Desk:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.demand = Demand()
        self.mirror = Mirror(store, [Kind.BACKEND])
        self.told: list[list[str]] = []
        self.acks = Acknowledgements(store, self.mirror, self.demand, self.told.append)
        self._seq = 0

    async def commit(self) -> int:
        return await self.store.commit([Change(Kind.BACKEND, "s", b"{}")])

    def report(
        self, worker: str, revision: int, now: float = 0.0, run_id: str | None = None, *, last: bool = False
    ) -> None:
        self._seq += 1
        report = Report(worker, self._seq, run_id or self.mirror.run_id, revision, {}, last=last)
        self.demand.report(report, now)
        self.acks.heard(report)


@pytest.fixture
async def desk(store: Store):  # type: ignore[no-untyped-def]
    made = Desk(store)
    running = Running(made.mirror.run())
    await made.mirror.synced()
    yield made
    await running.cancel()


async def test_nobody_registered_acknowledges_at_once(desk: Desk) -> None:
    assert await desk.acks.wait(await desk.commit(), 1)


async def test_every_registered_worker_is_waited_for(desk: Desk) -> None:
    await desk.store.register("n/s/1/one")
    await desk.store.register("n/s/2/two")
    revision = await desk.commit()
    desk.report("n/s/1/one", revision)
    waiting = asyncio.get_running_loop().create_task(desk.acks.wait(revision, 10))
    await until(lambda: desk.acks.unacknowledged == ["two"])
    desk.report("n/s/2/two", revision - 1)
    desk.report("n/s/2/two", revision, run_id="another")
    desk.report("n/s/2/two", revision + 5)
    assert await waiting
    assert desk.told == [["two"], []]


async def test_a_worker_that_is_unregistered_is_not_waited_for(desk: Desk) -> None:
    await desk.store.register("n/s/1/one")
    revision = await desk.commit()
    waiting = asyncio.get_running_loop().create_task(desk.acks.wait(revision, 10))
    await until(lambda: desk.acks.unacknowledged == ["one"])
    await desk.store.unregister(["n/s/1/one"])
    assert await waiting


async def test_a_store_without_a_registration_that_was_there_gets_it_back(desk: Desk, valkey: Valkey) -> None:
    """Neither who was seen registered nor who was only heard may be forgotten by a store from a second ago."""
    older = await _copied(desk, valkey)
    for worker in ("n/s/1/seen", "m/s9/1/heard", "m/s9/2/ended", "m/s9/3/farewell"):
        await desk.store.register(worker)
    await desk.store.unregister(["m/s9/2/ended"])
    await desk.acks.roster()
    desk.report("m/s9/1/heard", 5)
    desk.report("m/s9/3/farewell", 5, last=True)
    await _replaced(desk, valkey, older)
    roster = await desk.acks.roster()
    assert roster.workers == await desk.store.registered() == {"n/s/1/seen", "m/s9/1/heard"}
    revision = await desk.commit()
    assert not await desk.acks.wait(revision, 0.3)


async def test_a_worker_that_took_its_leave_is_not_registered_again(desk: Desk) -> None:
    await desk.store.register("n/s/1/one")
    desk.report("n/s/1/one", 1)
    desk.report("n/s/1/one", 1, last=True)
    desk.report("n/s/1/one", 1)  # one that overtook it
    assert (await desk.acks.roster()).workers == frozenset()
    assert await desk.store.registered() == set()


async def test_reports_of_the_run_before_acknowledge_nothing(desk: Desk, valkey: Valkey) -> None:
    """The store returns with its last writes missing: revisions are given a second time."""
    await desk.store.register("n/s/1/one")
    await desk.commit()
    older = await _copied(desk, valkey)
    for _ in range(10):
        revision = await desk.commit()
    await desk.mirror.reached(revision)
    desk.report("n/s/1/one", revision)
    assert await desk.acks.wait(revision, 5)
    run_id = desk.mirror.run_id
    await _replaced(desk, valkey, older)
    again = await desk.commit()
    assert again < revision
    assert not await desk.acks.wait(again, 0.5)
    await until(lambda: desk.mirror.connected and desk.mirror.run_id != run_id)
    desk.report("n/s/1/one", again)
    assert await desk.acks.wait(again, 5)


async def test_the_time_is_bounded(desk: Desk) -> None:
    await desk.store.register("n/s/1/one")
    assert not await desk.acks.wait(await desk.commit(), 0.3)
    assert desk.acks.unacknowledged == []


async def test_who_is_gone_for_sure(desk: Desk) -> None:
    """Of this node: another supervisor's workers, and those that the supervisor saw end; never another node's."""
    for worker in ("n/old/1/a", "n/s/1/b", "n/s/2/c", "m/s9/1/d"):
        await desk.store.register(worker)
    registrations = Registrations(
        desk.store, desk.mirror, desk.demand, desk.acks, node="n", supervisor="s", stale_limit=3600
    )
    running = Running(registrations.run())
    await _registered(desk, {"n/s/1/b", "n/s/2/c", "m/s9/1/d"})
    registrations.gone(["b"])
    await _registered(desk, {"n/s/2/c", "m/s9/1/d"})
    await running.cancel()


async def test_a_node_out_of_reach_counts_until_the_stale_limit(desk: Desk) -> None:
    await desk.store.register("m/s9/1/d")
    await desk.store.register("n/s/1/b")
    registrations = Registrations(
        desk.store, desk.mirror, desk.demand, desk.acks, node="n", supervisor="s", stale_limit=3
    )
    running = Running(registrations.run())
    await _registered(desk, {"n/s/1/b"})
    await running.cancel()


async def _copied(desk: Desk, valkey: Valkey) -> Path:
    """The store's files as they are now, safely on disk."""
    await desk.store._client.execute_command("WAITAOF", 1, 0, 0)
    copy = valkey.directory / "older"
    await asyncio.to_thread(shutil.copytree, valkey.directory / "appendonlydir", copy)
    return copy


async def _replaced(desk: Desk, valkey: Valkey, files: Path) -> None:
    """The server ends, and one with these files takes its place."""
    valkey.kill()
    shutil.rmtree(valkey.directory / "appendonlydir")
    shutil.move(files, valkey.directory / "appendonlydir")
    await asyncio.to_thread(valkey.start)
    while True:
        try:
            return await desk.store.ping()
        except Unavailable:
            await asyncio.sleep(0)


async def _registered(desk: Desk, expected: set[str]) -> None:
    deadline = asyncio.get_running_loop().time() + 15
    while await desk.store.registered() != expected:
        assert asyncio.get_running_loop().time() < deadline, await desk.store.registered()
        await asyncio.sleep(0.02)
