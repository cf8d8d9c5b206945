"""A service scales by its requests per second, as the workers' counters tell them: real store, real processes."""

from __future__ import annotations

import asyncio

from plane import Plane, states, until

from state.models import ReplicaState, Scaling


async def test_requests_per_second_ask_for_replicas(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    # of a hundred at once there is no need for a second one
    scaling = Scaling(target_requests_per_second=1, scale_down_delay=0)
    service = await plane.create(max_replicas=3, scaling=scaling)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            assert (await worker.request(service))[0] == 200

    asking = asyncio.get_running_loop().create_task(client())
    await until(lambda: states(control.view(service)).count(ReplicaState.READY) == 3)
    over.set()
    await asking
    told = [event.reason for event in await plane.events(service) if event.kind == "service.scaled"]
    assert "requests per second over" in str(told[0])


async def test_another_control_takes_no_count_of_long_ago_for_a_burst(plane: Plane) -> None:
    plane.repository()
    first, worker = plane.control(), await plane.worker()
    scaling = Scaling(target_requests_per_second=1, scale_down_delay=0)
    service = await plane.create(max_replicas=3, min_replicas=1, scaling=scaling)
    await until(lambda: states(first.view(service)) == [ReplicaState.READY])
    worker.requests[service] = 100_000
    await plane.kill(first)
    second = plane.control()
    await until(lambda: second.activation.leader.leads and second.activation.demand.heard(worker.name))
    await worker.request(service)
    await until(lambda: second.activation.demand.traffic.of(service).requests == 1)
    assert states(second.view(service)) == [ReplicaState.READY]
