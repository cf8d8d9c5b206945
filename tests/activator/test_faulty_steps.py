"""A fault in the store or the driver at every step of a service's life: it is created, deployed anew and deleted.

Services live side by side on one control plane; of each one another step fails, before or after it took effect. All of
them get through, with one replica at a time, and nothing of them is left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from node_under_test import Repository
from plane import QUICK, Control, Plane, Worker, until

from activator.drivers import BuildFailed, StartFailed
from activator.drivers.process import ProcessDriver
from activator.drivers.process.procfs import read_stat
from activator.views import View
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import Deployment, DeploymentState, ReplicaState, Service
from state.store import ABSENT, Change, Conflict, Fence, Store, Unavailable

APP = """
import os, socket
with open(os.environ["STARTS"], "a") as starts:
    starts.write(f"{os.getpid()}\\n")
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
class Fault:
    """The `nth` time that `step` is taken for a service it fails."""

    step: str
    nth: int = 1
    error: Exception | None = None
    after: bool = False
    seen: int = 0
    hit: bool = False

    def __str__(self) -> str:
        return f"{self.step} {self.nth} {'after' if self.after else 'before'}: {self.error!r}"

    async def around(self, step: str, real: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        fails = step == self.step and self._is_due()
        if fails and not self.after and self.error:
            raise self.error
        answer = await real()
        if fails and self.error:
            raise self.error
        return answer

    def _is_due(self) -> bool:
        self.seen += 1
        self.hit |= self.seen == self.nth
        return self.seen == self.nth


class Faults:
    """Who is to meet which one: by the name of the service, which is learnt from its record."""

    def __init__(self) -> None:
        self.by_name: dict[str, Fault] = {}
        self.control: Control
        self._names: dict[str, str] = {}
        self.service_of: dict[str, str] = {}  # by replica

    def __call__(self, service_id: str) -> Fault:
        service = self.control.activation.catalog.service(service_id)
        name = self._names.get(service_id, "") if service is None else self._names.setdefault(service_id, service.name)
        return self.by_name.get(name) or Fault("none")


class FaultyStore(Store):
    """Commits fail by the service that they are about."""

    def __init__(self, url: str, faults: Faults) -> None:
        super().__init__(url)
        self._faults = faults

    async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
        commit = super().commit
        fault = self._faults(_about(changes))
        revision: int = await fault.around("commit", lambda: commit(changes, fence=fence))
        return revision


def _about(changes: Sequence[Change]) -> str:
    for change in changes:
        if change.kind in (Kind.SERVICE, Kind.SCALE, Kind.BACKEND):
            return change.id
        if change.kind in (Kind.REPLICA, Kind.DEPLOYMENT) and change.value is not None:
            return str(json.loads(change.value)["service"])
    return ""


class FaultyDriver:
    """The real driver, but for the faults."""

    def __init__(self, real: ProcessDriver, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def build(self, job: Any, log: Any) -> Any:
        return await self._faults(job.service_id).around("build", lambda: self._real.build(job, log))

    async def start(self, launch: Any) -> Any:
        self._faults.service_of[launch.replica_id] = launch.service_id
        return await self._faults(launch.service_id).around("start", lambda: self._real.start(launch))

    async def listens(self, replica_id: str) -> Any:
        return await self._by_replica("listens", replica_id)

    async def verify(self, replica_id: str) -> Any:
        return await self._by_replica("verify", replica_id)

    async def stop(self, replica_id: str, grace_seconds: float) -> Any:
        return await self._by_replica("stop", replica_id, grace_seconds)

    async def forget(self, replica_id: str) -> Any:
        return await self._by_replica("forget", replica_id)

    async def _by_replica(self, step: str, replica_id: str, *more: Any) -> Any:
        fault = self._faults(self._faults.service_of.get(replica_id, ""))
        return await fault.around(step, lambda: getattr(self._real, step)(replica_id, *more))


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
        self.service = await self.plane.create(self.name, min_replicas=1)
        await self._deployed("")
        first = await self._redeploy()
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

    async def _redeploy(self) -> str:
        """As the API writes it; returns the deployment that was the newest."""
        while True:
            record = await self.plane.store.get(Kind.SERVICE, self.service)
            assert record is not None
            service = decode(Service, record.value)
            fresh = Deployment(new_id(), service.id, DeploymentState.PENDING, service.run, now_us(), cause="redeploy")
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


pytestmark = pytest.mark.timeout(300)

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
    steps = [(step, after) for step in ("build", "start", "listens", "stop", "forget") for after in (False, True)]
    found = [Fault(step, nth, broken, after) for step, after in steps for nth in times]
    found += [Fault("build", nth, BuildFailed("no")) for nth in times]
    found += [Fault("start", nth, StartFailed("no"), after) for nth in times for after in (False, True)]
    await live(found)
    assert [str(fault) for fault in found if not fault.hit] == []
