"""The main job of control: deploy, sleep, wake, call back, delete. Real store, real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from plane import Plane, only, states, until

from state.kinds import Kind
from state.models import DeploymentState, ReplicaState, Scaling
from state.store import EVENTS_LINGER, Change, Fence, Store, Unavailable, events_key


async def test_from_creation_to_sleep_and_back(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY], what=lambda: control.view(service))
    status, body = await worker.request(service)
    assert (status, int(body)) == (200, plane.starts()[0])
    await until(lambda: states(control.view(service)) == [], what=lambda: control.view(service))
    view = control.view(service)
    assert view is not None
    assert view.scale.desired == 0
    assert view.deployments[view.service.latest].state is DeploymentState.ACTIVE
    status, body = await worker.request(service)
    assert (status, int(body)) == (200, plane.starts()[1])
    assert len(plane.starts()) == 2
    assert control.activation.cold_starts.total == 1  # nobody waited for the first start


async def test_two_hundred_wakes_cause_one_start(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    workers = [await plane.worker(number) for number in range(1, 5)]
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    before = len(plane.starts())
    answers = await asyncio.gather(*(workers[n % 4].request(service) for n in range(200)))
    assert [status for status, _ in answers] == [200] * 200
    assert len(plane.starts()) == before + 1
    events = [e.reason for e in await plane.events(service) if e.kind == "replica.ready"]
    assert "cold start" in events[-1]
    print(events)


async def test_a_draining_replica_is_called_back(plane: Plane) -> None:
    """The request comes between the decision to sleep and the acknowledgement of a slow worker."""
    plane.repository()
    control, worker, slow = plane.control(), await plane.worker(1), await plane.worker(2)
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    slow.silent = True  # its last report has an older revision: nothing may stop
    await until(lambda: states(control.view(service)) == [ReplicaState.DRAINING])
    await until(lambda: slow.name.rpartition("/")[2] in control.activation.acks.unacknowledged)
    await until(lambda: not any(e.ready for e in worker.backend(service).endpoints))  # type: ignore[union-attr]
    status, body = await worker.request(service)
    assert (status, [int(body)]) == (200, plane.starts())
    assert only(control.view(service)).state is ReplicaState.READY
    slow.silent = False
    await until(lambda: states(control.view(service)) == [])
    assert control.activation.acks.unacknowledged == []


async def test_nothing_stops_while_a_registered_worker_is_unheard(plane: Plane) -> None:
    plane.repository()
    await plane.store.register("n1/s1/9/never-heard")
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    idle_since = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > idle_since + 2)
    assert states(control.view(service)) == [ReplicaState.READY]
    control.activation.gone(["never-heard"])
    await until(lambda: states(control.view(service)) == [])
    assert (await worker.request(service))[0] == 200


async def test_deleting_waits_for_what_is_in_flight(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create()
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    request = asyncio.get_running_loop().create_task(worker.request(service, "/slow/1.5"))
    await until(lambda: worker.in_flight.get(service))
    revision = await plane.delete(service)
    assert await control.activation.acks.wait(revision, 5)
    await until(lambda: states(control.view(service)) == [ReplicaState.DRAINING])
    assert (await worker.request(service))[0] == 503
    assert (await request)[0] == 200
    await until(lambda: control.view(service) is None)
    for kind in (Kind.SERVICE, Kind.DEPLOYMENT, Kind.REPLICA, Kind.SCALE, Kind.BACKEND):
        assert [i async for i, _ in plane.store.scan(kind)] == []
    assert [i async for i, _ in plane.store.scan(Kind.ROUTE)] == ["app-acme.apps.localhost"]
    assert await control.driver.observe() == []
    places = [plane.data_dir / "process" / "homes" / "acme", plane.data_dir / "process" / "checkouts" / "acme"]
    await until(lambda: not any(path for place in places for path in place.iterdir()), what=lambda: places)
    assert list((plane.data_dir / "replicas").iterdir()) == []


async def test_the_events_of_a_removed_service_expire_though_an_answer_was_lost(plane: Plane) -> None:
    class Lossy(Store):
        lost = 0

        async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
            revision = await super().commit(changes, fence=fence)
            if not self.lost and any(c.kind is Kind.SERVICE and c.value is None for c in changes):
                self.lost += 1
                raise Unavailable("the answer was lost")
            return revision

    plane.repository()
    store = Lossy(plane.url)
    control, worker = plane.control(store=store), await plane.worker()
    service = await plane.create()
    assert (await worker.request(service))[0] == 200
    await plane.delete(service, force=True)
    await until(lambda: control.mirror.get(Kind.SERVICE, service) is None)
    assert store.lost == 1
    assert 0 < await plane.store._client.ttl(events_key(service)) <= EVENTS_LINGER


async def test_deleting_by_force_does_not_wait(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create()
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    request = asyncio.get_running_loop().create_task(worker.request(service, "/slow/60"))
    await until(lambda: worker.in_flight.get(service))
    await plane.delete(service, force=True)
    await until(lambda: control.view(service) is None, timeout=10)
    (ended,) = await asyncio.gather(request, return_exceptions=True)
    assert isinstance(ended, Exception)


async def test_short_requests_between_reports_keep_a_service_awake(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=5))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    end = asyncio.get_running_loop().time() + 8
    while asyncio.get_running_loop().time() < end:
        assert (await worker.request(service))[0] == 200
        await asyncio.sleep(0.05)  # the pace of a client
    assert len(plane.starts()) == 1
