"""Up under load, down by steps, a deployment after another: real store, real processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from plane import Control, Plane, states, until

from activator.tombstones import sweep
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import Deployment, DeploymentState, ReplicaState, Route, Scaling, Service
from state.store import ABSENT, Change, Fence


async def test_up_under_load_and_down_again(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    scaling = Scaling(target_concurrency=2, scale_down_delay=0, idle_timeout=2)
    service = await plane.create(max_replicas=3, scaling=scaling)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    enough = asyncio.Event()

    async def client() -> set[int]:
        statuses = set()
        while not enough.is_set():
            statuses.add((await worker.request(service, "/slow/1"))[0])
        return statuses

    clients = [asyncio.get_running_loop().create_task(client()) for _ in range(6)]
    await until(lambda: states(control.view(service)).count(ReplicaState.READY) == 3)
    enough.set()
    assert await asyncio.gather(*clients) == [{200}] * 6
    await until(lambda: states(control.view(service)) == [], timeout=30)
    assert len(plane.starts()) == 3


async def test_a_new_deployment_takes_over_without_a_gap(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service_id = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service_id)) == [ReplicaState.READY])
    await until(lambda: control.view(service_id).service.active)  # type: ignore[union-attr]
    failures: list[int] = []
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            status, _ = await worker.request(service_id)
            if status != 200:
                failures.append(status)

    clients = [asyncio.get_running_loop().create_task(client()) for _ in range(4)]
    second = await redeploy(plane, service_id, {"SLOW": "0.3"})
    await until(lambda: control.view(service_id).service.active == second, what=lambda: control.view(service_id))  # type: ignore[union-attr]
    await until(lambda: states(control.view(service_id)) == [ReplicaState.READY])
    assert int((await worker.request(service_id))[1]) == plane.starts()[1]
    third = await redeploy(plane, service_id, {"STATUS": "500 Oh"})
    await until(lambda: state_of(control, third) is DeploymentState.FAILED)
    await until(lambda: states(control.view(service_id)) == [ReplicaState.READY])
    over.set()
    await asyncio.gather(*clients)
    view = control.view(service_id)
    assert view is not None
    assert [d.state for d in sorted(view.deployments.values(), key=lambda d: d.id)] == [
        DeploymentState.SUPERSEDED,
        DeploymentState.ACTIVE,
        DeploymentState.FAILED,
    ]
    assert failures == []


def state_of(control: Control, deployment_id: str) -> DeploymentState | None:
    deployment = control.activation.catalog.deployment(deployment_id)
    return None if deployment is None else deployment.state


async def redeploy(plane: Plane, service_id: str, env: dict[str, str]) -> str:
    """What the API will write for a new deployment."""
    record = await plane.store.get(Kind.SERVICE, service_id)
    assert record is not None
    service = decode(Service, record.value)
    run = replace(service.run, env={**service.run.env, **env})
    fresh = Deployment(new_id(), service_id, DeploymentState.PENDING, run, now_us())
    changed = replace(service, latest=fresh.id, scaling=replace(service.scaling, startup_timeout=2))
    await plane.store.commit(
        [
            Change(Kind.SERVICE, service_id, encode(changed), record.version),
            Change(Kind.DEPLOYMENT, fresh.id, encode(fresh), ABSENT),
        ]
    )
    return fresh.id


async def test_requests_around_the_moment_of_falling_asleep(plane: Plane) -> None:
    """Requests sent around the moment of going to sleep are answered 200, whatever phase they meet."""
    plane.repository(procfile="web: exec python3 app.py\n")
    control, workers = plane.control(), [await plane.worker(1), await plane.worker(2)]
    services = [await plane.create(f"app{n}", scaling=Scaling(idle_timeout=1)) for n in range(8)]
    met: set[tuple[ReplicaState, ...]] = set()

    async def client(number: int, service: str) -> list[int]:
        statuses = []
        for turn in range(6):
            statuses.append((await workers[turn % 2].request(service))[0])  # it is awake
            # from the decision to sleep on, or from when there is no way back, with different delays
            late = (number + turn) % 2 == 1
            awake = (ReplicaState.READY, ReplicaState.DRAINING) if late else (ReplicaState.READY,)
            await until(lambda awake=awake: not set(awake) & set(states(control.view(service))))
            await asyncio.sleep(0.004 * ((number + turn) % 8))
            met.add(tuple(states(control.view(service))))
            statuses.append((await workers[turn % 2].request(service))[0])
        return statuses

    answers = await asyncio.gather(*(client(n, service) for n, service in enumerate(services)))
    assert {status for statuses in answers for status in statuses} == {200}
    assert (ReplicaState.DRAINING,) in met
    assert (ReplicaState.STOPPING,) in met


async def test_tombstones_are_forgotten_after_their_time(plane: Plane) -> None:
    day, now = 86_400_000_000, now_us()
    routes = {"old": now - 91 * day, "young": now - 89 * day, "live": None}
    for host, deleted_at in routes.items():
        route = Route("s", "acme", host, deleted_at=deleted_at)
        await plane.store.commit([Change(Kind.ROUTE, host, encode(route), ABSENT)])
    fence = Fence("leader", (await plane.store.try_lease("leader", "h", "s", (0, 0), False))[1])
    assert await sweep(plane.store, 90, now, fence) == 1
    assert {host async for host, _ in plane.store.scan(Kind.ROUTE)} == {"young", "live"}
