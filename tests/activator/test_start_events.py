"""What is told of each start: its phases, wherever it runs and whoever looks after it, and where one failed."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace

from plane import OFFER, Control, Plane, only, states, until

from activator.coldstarts import PHASES, seconds
from state.kinds import Kind
from state.models import Event, ReplicaState, Scaling

BREAKABLE = "web: if [ -e $STARTS.broken ]; then exit 7; fi; exec python3 app.py\n"


async def told(plane: Plane, service: str, kind: str, count: int = 1) -> list[Event]:
    """So many events of a kind, once they are there."""
    async with asyncio.timeout(30):
        while len(found := [event for event in await plane.events(service) if event.kind == kind]) < count:
            await asyncio.sleep(0.005)
    return found


async def asleep(control: Control, service: str) -> None:
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])


async def test_a_start_is_told_with_its_phases(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1), env={"SLOW": "0.3"})
    await asleep(control, service)
    assert (await worker.request(service))[0] == 200
    first, second = await told(plane, service, "replica.ready", 2)
    assert first.phases is not None
    assert list(seconds(first.phases)) == ["schedule", "start", "ready"]  # nobody waited
    assert first.reason.startswith("started in ")
    assert second.phases is not None
    assert list(seconds(second.phases)) == ["decide", "schedule", "start", "ready"]
    assert (second.phases.ready or 0) >= 300_000
    assert second.reason.startswith("cold start ")
    replica = only(control.view(service))
    assert replica.phases == second.phases
    (endpoint,) = worker.backend(service).endpoints  # type: ignore[union-attr]
    assert (endpoint.phases, endpoint.ready_at) == (second.phases, replica.ready_at)
    counted = {phase: histogram.count for phase, histogram in control.activation.cold_starts.seconds.items()}
    assert counted["decide"] == counted["ready"] == 1


async def test_the_first_byte_is_told_once_it_has_left(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    assert (await worker.request(service))[0] == 200
    (event,) = await told(plane, service, "replica.answered")
    assert event.phases is not None
    assert list(seconds(event.phases)) == ["schedule", "start", "ready", "first_byte"]
    replica = only(control.view(service))
    assert (event.replica, event.phases) == (replica.id, replica.phases)
    (endpoint,) = worker.backend(service).endpoints  # type: ignore[union-attr]
    assert endpoint.phases == replace(replica.phases, first_byte=None)  # no news for workers
    version = control.mirror.get(Kind.REPLICA, replica.id)
    worker.first_bytes[replica.id] += 1  # another worker says so, too
    await until(lambda: control.activation.demand.workers)
    assert (await worker.request(service))[0] == 200
    assert control.mirror.get(Kind.REPLICA, replica.id) == version
    assert len(await told(plane, service, "replica.answered")) == 1
    assert control.activation.cold_starts.seconds["first_byte"].count == 1


async def test_a_start_that_nobody_waits_for_is_no_cold_start(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    service = await plane.create(min_replicas=2, max_replicas=2)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY] * 2)
    for event in await told(plane, service, "replica.ready", 2):
        assert event.reason.startswith("started in ")
        assert event.phases is not None
    assert control.activation.cold_starts.total == 0
    assert not any(replica.cold for replica in control.view(service).replicas.values())  # type: ignore[union-attr]


async def test_a_first_start_that_somebody_is_held_for_is_a_cold_start(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(env={"SLOW": "1"})
    await until(lambda: states(control.view(service)) == [ReplicaState.STARTING])
    assert (await worker.request(service))[0] == 200
    (event,) = await told(plane, service, "replica.ready")
    assert event.reason.startswith("cold start ")
    assert only(control.view(service)).cold
    assert control.activation.cold_starts.total == 1


async def test_a_first_deployment_that_fails_is_no_failed_wake(plane: Plane) -> None:
    plane.repository(procfile="web: exit 7\n")
    control = plane.control()
    service = await plane.create()
    await told(plane, service, "deployment.failed")
    for event in await told(plane, service, "replica.failed", 2):
        assert event.phase == "ready"
    assert sum(control.activation.cold_starts.failures.values()) == 0


async def test_what_is_fetched_again_is_a_phase(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await asleep(control, service)
    for checkouts in (plane.data_dir / "process" / "checkouts").glob("*/*"):
        shutil.rmtree(checkouts)
    assert (await worker.request(service))[0] == 200
    *_, event = await told(plane, service, "replica.ready", 2)
    assert event.phases is not None
    assert list(seconds(event.phases)) == list(PHASES[:-1])


async def test_a_start_that_another_control_goes_on_with_keeps_its_phases(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(env={"SLOW": "1.5"})
    await until(lambda: states(control.view(service)) == [ReplicaState.STARTING])
    begun = only(control.view(service)).phases
    await plane.kill(control)
    control = plane.control()
    assert (await worker.request(service))[0] == 200
    (event,) = await told(plane, service, "replica.ready")
    assert event.phases is not None
    assert (event.phases.schedule, event.phases.start) == (begun.schedule, begun.start)
    assert (event.phases.ready or 0) >= 1_000_000


async def test_a_failed_start_names_the_phase(plane: Plane) -> None:
    plane.repository(procfile=BREAKABLE)
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await asleep(control, service)
    (plane.scratch / "app.broken").touch()
    assert (await worker.request(service))[0] == 503
    (event,) = await told(plane, service, "replica.failed")
    assert event.phase == "ready"
    assert event.phases is not None
    assert list(seconds(event.phases)) == ["decide", "schedule", "start", "ready"]
    assert control.activation.cold_starts.failures["ready"] == 1


async def test_the_leader_and_the_replica_on_nodes_of_their_own(plane: Plane) -> None:
    plane.repository()
    leader = plane.control()
    await until(lambda: leader.activation.leader.leads)
    other = plane.control(node="n2", offer=replace(OFFER, region="eu-west-1"))
    worker = await plane.worker()
    await until(lambda: len(leader.activation.nodes.fleet().up) == 2)
    service = await plane.create(region="eu-west-1", scaling=Scaling(idle_timeout=1))
    await asleep(leader, service)
    assert (await worker.request(service))[0] == 200
    *_, event = await told(plane, service, "replica.ready", 2)
    assert event.phases is not None
    assert list(seconds(event.phases)) == ["decide", "schedule", "start", "ready"]
    assert (leader.activation.cold_starts.total, other.activation.cold_starts.total) == (0, 1)
