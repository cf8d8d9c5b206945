"""Law 4: control may be killed at any line; the next one goes on from what is stored, and nothing is doubled."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from plane import QUICK, Control, Plane, Worker, only, states, until

from activator.drivers.process.procfs import read_stat
from activator.settings import Settings
from state.ids import now_us
from state.models import ReplicaState, Scaling
from state.store import Change, Fence, Store


class MortalStore(Store):
    """A store whose client dies as its first commit was applied, or before its second is sent."""

    def __init__(self, url: str, after: bool) -> None:
        super().__init__(url)
        self.died = asyncio.Event()
        self._left = 1 if after else 2
        self._after = after

    async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            return await self._die()
        revision = await super().commit(changes, fence=fence)
        return await self._die() if self._left == 0 else revision

    async def _die(self) -> int:
        self.died.set()
        return await asyncio.get_running_loop().create_future()


class Dynasty:
    """Controls that follow each other, each killed at its first or second commit."""

    def __init__(self, plane: Plane, after: bool, settings: Settings) -> None:
        self.plane = plane
        self.after = after
        self.settings = settings
        self.reigns = 0
        self.over = False
        self.control: Control

    async def run(self) -> None:
        while not self.over:
            self.store = MortalStore(self.plane.url, self.after)
            self.control = self.plane.control(self.settings, store=self.store)
            self.reigns += 1
            await self.store.died.wait()
            await self.plane.kill(self.control)

    def gone(self, service: str) -> bool:
        return self.control.mirror.connected and self.control.activation.catalog.service(service) is None

    def end(self) -> None:
        self.over = True
        self.store.died.set()


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if (stat := read_stat(pid)) is not None and stat.alive]


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
async def test_killed_at_every_commit_of_a_whole_life(plane: Plane, after: bool) -> None:
    plane.repository()
    worker = await plane.worker()
    dynasty = Dynasty(plane, after, replace(QUICK, activity_interval=3600.0))
    reigning = asyncio.get_running_loop().create_task(dynasty.run())
    try:
        service = await plane.create(scaling=Scaling(idle_timeout=1))
        for life in (1, 2):
            status, _ = await worker.request(service, timeout=30)
            assert status == 200, (dynasty.reigns, dynasty.control.view(service), worker.held, worker.mirror.revision)
            assert len(alive(plane.starts())) == 1
            assert len(plane.starts()) == life
            await until(lambda: asleep(dynasty, service), timeout=30, what=lambda: dynasty.control.view(service))
            assert alive(plane.starts()) == []
        await plane.delete(service)
        await until(lambda: dynasty.control.activation.catalog.service(service) is None, timeout=30)
    finally:
        dynasty.end()
        await reigning
    assert dynasty.reigns > 5


def asleep(dynasty: Dynasty, service: str) -> bool:
    view = dynasty.control.view(service)
    return view is not None and view.scale.desired == 0 and not view.replicas and view.service.active is not None


async def test_a_restarted_control_adopts_what_runs(plane: Plane) -> None:
    plane.repository()
    first, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(first.view(service)) == [ReplicaState.READY])
    replica = only(first.view(service))
    await plane.kill(first)
    assert (await worker.request(service))[0] == 200
    second = plane.control()
    await until(lambda: second.activation.leader.leads and replica.id in second.activation.agent.running)
    assert only(second.view(service)) == replica
    assert (await worker.request(service))[0] == 200
    assert len(plane.starts()) == 1


async def test_what_died_while_no_control_ran_is_replaced(plane: Plane) -> None:
    plane.repository(procfile="web: exec python3 app.py\n")
    first, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(first.view(service)) == [ReplicaState.READY])
    await plane.kill(first)
    os.kill(plane.starts()[0], signal.SIGKILL)
    plane.control()
    assert (await answered(worker, service))[0] == 200
    assert len(plane.starts()) == 2


async def answered(worker: Worker, service: str) -> tuple[int, str]:
    """The dead replica refuses connections; the gateway would try again."""
    while True:
        try:
            return await worker.request(service)
        except OSError:
            await asyncio.sleep(0.02)  # the pace of a client


async def test_after_a_clean_stop_it_starts_afresh_and_without_blame(plane: Plane) -> None:
    plane.repository()
    first, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(first.view(service)) == [ReplicaState.READY])
    plane.controls.remove(first)
    await first.close()
    assert alive(plane.starts()) == []
    second = plane.control()
    assert (await answered(worker, service))[0] == 200
    view = second.view(service)
    assert view is not None
    assert view.scale.failures == 0
    assert len(alive(plane.starts())) == 1


@pytest.mark.parametrize("store", ["with the store", "without the store"])
async def test_a_stop_that_comes_while_it_adopts(plane: Plane, valkey: Any, store: str) -> None:
    """It ends what runs, although it has not looked yet."""
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    assert (await worker.request(service))[0] == 200
    await plane.kill(control)
    assert len(alive(plane.starts())) == 1
    if store == "without the store":
        valkey.kill()
    second = plane.control()
    if store == "with the store":
        await second.mirror.synced()
    assert not second.activation.agent.opened
    await second.activation.close(keep=False)
    assert alive(plane.starts()) == []
    await plane.kill(second)


async def test_the_store_dies_and_returns(plane: Plane, valkey: Any) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    valkey.kill()
    await until(lambda: not control.mirror.connected)
    assert (await worker.request(service))[0] == 200
    idle = asyncio.get_running_loop().time() + 1.5
    await until(lambda: asyncio.get_running_loop().time() > idle)
    assert len(alive(plane.starts())) == 1
    valkey.start()
    await until(lambda: control.mirror.connected)
    await until(lambda: states(control.view(service)) == [])
    assert (await worker.request(service))[0] == 200
    assert len(plane.starts()) == 2


async def test_a_store_from_an_hour_ago(plane: Plane, valkey: Any) -> None:
    """It knows a replica that is gone, and does not know the one that runs."""
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    old = plane.place / "old"
    subprocess.run(["cp", "-a", valkey.directory, old], check=True)
    await until(lambda: states(control.view(service)) == [])
    assert (await worker.request(service))[0] == 200
    _, second = plane.starts()
    valkey.kill()
    subprocess.run(
        f"rm -rf {valkey.directory}/appendonlydir && cp -a {old}/appendonlydir {valkey.directory}/",
        shell=True,
        check=True,
    )
    valkey.start()
    await until(lambda: second not in alive(plane.starts()), what=lambda: control.view(service))
    await until(lambda: len(states(control.view(service))) <= 1)
    assert (await answered(worker, service))[0] == 200
    assert len(alive(plane.starts())) == 1


async def test_a_store_that_lost_a_registration(plane: Plane, valkey: Any) -> None:
    """Law 3 holds for a worker whose registration was in the store's lost second, and who stalls just then."""
    plane.repository()
    control = plane.control(drain_timeout=30.0)
    first = await plane.worker(1)
    service = await plane.create(min_replicas=1)
    assert (await first.request(service))[0] == 200
    await plane.store._client.execute_command("WAITAOF", 1, 0, 0)
    files, older = valkey.directory / "appendonlydir", valkey.directory / "older"
    shutil.copytree(files, older)
    second = await plane.worker(2)
    slow = asyncio.get_running_loop().create_task(second.request(service, "/slow/4"))
    await until(lambda: control.activation.demand.load(service, 0.0).in_flight == 1)
    await second.stall()
    mirrors, run_id = (control.mirror, first.mirror), control.mirror.run_id
    valkey.kill()
    shutil.rmtree(files)
    shutil.move(older, files)
    await asyncio.to_thread(valkey.start)
    await until(lambda: all(mirror.connected and mirror.run_id != run_id for mirror in mirrors))
    await plane.delete(service)
    assert (await slow)[0] == 200
    assert second.name in await plane.store.registered()


async def test_a_stepped_wall_clock_changes_nothing(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.repository()
    control, worker = plane.control(activity_interval=0.1), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=3600, startup_timeout=3600))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    for step in (10**12, -(10**12)):  # eleven days either way
        step_clock(monkeypatch, step)
        assert (await worker.request(service))[0] == 200
        await plane.kill(control)
        control = plane.control(activity_interval=0.1)
        await until(lambda now=control: now.activation.leader.leads and states(now.view(service)))
        ticks = asyncio.get_running_loop().time() + 1.0
        await until(lambda at=ticks: asyncio.get_running_loop().time() > at)
        assert states(control.view(service)) == [ReplicaState.READY]
    assert len(plane.starts()) == 1


def step_clock(monkeypatch: pytest.MonkeyPatch, microseconds: int) -> None:
    def stepped() -> int:
        return now_us() + microseconds

    for module in ("outlooks", "housekeeping", "keeper", "journal", "builds"):
        monkeypatch.setattr(f"activator.{module}.now_us", stepped)
