"""A fault in the store or the driver at every step of a service's life: it is created, deployed anew and deleted.

Services live side by side on one control plane; of each one another step fails, before or after it took effect. All of
them get through, with one replica at a time, and nothing of them is left.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from faulty_parts import OF_A_SERVICE, OF_THE_NODE, STEPS, Fault, Faults, FaultyDriver, FaultyStore
from node_under_test import Repository
from plane import QUICK, Control, Plane, Worker, until

from activator.drivers import BuildFailed, StartFailed
from activator.drivers.process.procfs import read_stat
from activator.views import View
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import Deployment, DeploymentState, ReplicaState, Service
from state.store import ABSENT, Change, Conflict, Unavailable

APP = """
import os, socket, sys
with open(os.environ["STARTS"], "a+") as starts:
    starts.write(f"{os.getpid()}\\n")
    starts.seek(0)
    if "BREAKS" in os.environ and len(starts.readlines()) % 2:
        sys.exit("the first of two starts breaks")
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
"""
AT_ONCE = 6
SETTINGS = replace(QUICK, activity_interval=3600.0, drain_timeout=2.0)


@dataclass
class Life:
    """One service and its fault."""

    plane: Plane
    control: Control
    worker: Worker
    name: str
    fault: Fault
    service: str = ""

    async def run(self) -> None:
        try:
            async with asyncio.timeout(100):
                await self._live()
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{self.fault}: {error!r}; {self.control.view(self.service)}") from error

    async def _live(self) -> None:
        env = {"BREAKS": "1"} if self.fault.step == "verify" else {}  # only what did not come up is verified
        self.service = await self.plane.create(self.name, min_replicas=1, env=env)
        await self._deployed("")
        odd = int(self.name[1:]) % 2 == 1
        first = await self._redeploy(update=odd and self.fault.step != "build")  # an update finds it built already
        await self._deployed(first)
        await self.plane.delete(self.service)
        await until(lambda: self.control.activation.catalog.service(self.service) is None, 60)
        await until(lambda: not any(map(_alive, self.plane.starts(self.name))), 60)
        assert await self._left_over() == []

    async def _deployed(self, before: str) -> None:
        """The newest deployment serves, by one replica, and nothing is left of the one before."""
        await until(lambda: self._ended(before), 60)
        view = self._view()
        assert view.latest is not None
        if view.latest.state is DeploymentState.FAILED:  # as the driver said; once more is all that it takes
            assert isinstance(self.fault.error, BuildFailed | StartFailed), view.latest
            await self._redeploy()
            await until(lambda: self._ended(view.service.latest), 60)
        await until(lambda: self._carries(), 60)
        status, _ = await self.worker.request(self.service, timeout=60)
        assert status == 200
        assert len([pid for pid in self.plane.starts(self.name) if _alive(pid)]) == 1

    def _view(self) -> View:
        view = self.control.view(self.service)
        assert view is not None
        return view

    def _ended(self, before: str) -> bool:
        view = self.control.view(self.service)
        latest = None if view is None else view.latest
        return latest is not None and latest.id != before and not latest.state.in_progress

    def _carries(self) -> bool:
        """One replica, ready, of the newest deployment."""
        view = self._view()
        alone = [(replica.deployment, replica.state) for replica in view.replicas.values()]
        return view.service.active == view.service.latest and alone == [(view.service.latest, ReplicaState.READY)]

    async def _redeploy(self, *, update: bool = False) -> str:
        """As the API writes it, or an update; returns the deployment that was the newest."""
        while True:
            record = await self.plane.store.get(Kind.SERVICE, self.service)
            assert record is not None
            service = decode(Service, record.value)
            if update:
                service = replace(service, run=replace(service.run, env={**service.run.env, "CHANGED": "1"}))
            fresh = Deployment(new_id(), service.id, DeploymentState.PENDING, service.run, now_us(), cause="redeploy")
            if update and (active := self._view().deployments.get(service.active or "")):
                fresh = replace(fresh, cause="update", commit=active.commit)
            changes = [
                Change(Kind.DEPLOYMENT, fresh.id, encode(fresh), ABSENT),
                Change(Kind.SERVICE, service.id, encode(replace(service, latest=fresh.id)), record.version),
            ]
            try:
                await self.plane.store.commit(changes)
            except Conflict:
                continue
            return service.latest

    async def _left_over(self) -> list[str]:
        kinds = (Kind.SERVICE, Kind.DEPLOYMENT, Kind.REPLICA, Kind.SCALE, Kind.BACKEND)
        return [
            f"{kind}/{i}"
            for kind in kinds
            async for i, record in self.plane.store.scan(kind)
            if i == self.service or self.service.encode() in record.value
        ]


def _alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


pytestmark = pytest.mark.timeout(600)  # some sixty lives of real processes in each

Live = Callable[[Iterable[Fault]], Coroutine[Any, Any, None]]


@pytest.fixture
async def live(plane: Plane) -> Live:
    """Lives with these faults, some at once, each by a service of its own on the same control plane."""
    files = {"Procfile": "web: exec python3 -SI app.py\n", "app.py": APP}
    Repository(plane.place / "git" / "acme" / "app").commit(files)
    faults, numbers = Faults(), itertools.count()
    store = FaultyStore(plane.url, faults)
    control = plane.control(SETTINGS, store=store, wrapped=lambda driver: FaultyDriver(driver, faults))
    faults.control, worker = control, await plane.worker()

    async def one_after_the_other(asked: Iterator[Fault]) -> None:
        for fault in asked:
            name = f"s{next(numbers)}"
            faults.by_name[name] = fault
            if fault.step == "allocate":
                faults.unnamed = fault
            await Life(plane, control, worker, name, fault).run()

    async def through(asked: Iterable[Fault]) -> None:
        waiting = iter(asked)
        async with asyncio.TaskGroup() as lives:
            for _ in range(AT_ONCE):
                lives.create_task(one_after_the_other(waiting))
        assert await control.driver.observe() == []

    return through


async def test_a_fault_of_the_store_at_every_commit(live: Live) -> None:
    undisturbed = Fault("commit", 0)
    await live([undisturbed])
    errors = ((Unavailable("lost"), False), (Unavailable("lost"), True), (RuntimeError("broken"), False))
    found = [Fault("commit", nth, *error) for error in errors for nth in range(1, undisturbed.seen + 1)]
    assert len(found) > 3 * 15, "a life has more commits than that"
    await live(found)
    # how many it takes depends on what two writers of one service meet: the last of them may not be needed
    assert [str(fault) for fault in found if not fault.hit and fault.nth < undisturbed.seen - 2] == []


async def test_a_fault_of_the_driver_at_every_step(live: Live) -> None:
    broken, times = RuntimeError("broken"), (1, 2)
    steps = [(step, after) for step in OF_A_SERVICE - {"allocate"} for after in (False, True)]
    found = [Fault(step, nth, broken, after) for step, after in steps for nth in times]
    found += [Fault("build", nth, BuildFailed("no")) for nth in times]
    found += [Fault("start", nth, StartFailed("no"), after) for nth in times for after in (False, True)]
    await live(found)
    assert [str(fault) for fault in found if not fault.hit] == []


async def test_a_fault_at_the_choice_of_a_port(live: Live) -> None:
    errors = (RuntimeError("broken"), StartFailed("no port"))
    found = [Fault("allocate", nth, error, after) for nth in (1, 2) for error in errors for after in (False, True)]
    for fault in found:  # one after the other: the driver is not told for whom it chooses
        await live([fault])
    assert [str(fault) for fault in found if not fault.hit] == []


def test_no_step_of_the_driver_is_left_out() -> None:
    assert sorted(STEPS) == sorted(OF_A_SERVICE | OF_THE_NODE)
