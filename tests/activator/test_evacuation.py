"""How a node stops: what it finds and what it does then, by values; and real nodes of one store that stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plane import QUICK, Control, Plane, Running, Worker, states, until
from samples import replica

from activator.attendance import Leave
from activator.evacuation import AFTER, MARGIN, Finding, Sight, Stage, awaited, finding
from activator.placement import Fleet, Needs
from state.codec import encode
from state.kinds import Kind
from state.models import Node, Offer, Replica, ReplicaState, Scaling
from state.store import ABSENT, Change

NODES = replace(QUICK, beat=0.1, beat_patience=1.5, node_grace=60.0, drain_timeout=4.0)
WEST = Offer("process", "eu-west-1")
DRAIN = 30.0
AT_WORK = Sight(released=False, remains=True, awaited=True, away=0.0, lasted=1.0)
ALONE = replace(AT_WORK, released=True, awaited=False)


@pytest.mark.parametrize(
    ("stage", "sight", "found"),
    [
        (Stage.DRAIN, AT_WORK, None),
        (Stage.DRAIN, replace(AT_WORK, released=True), None),
        (Stage.DRAIN, replace(AT_WORK, awaited=False), None),
        (Stage.DRAIN, replace(AT_WORK, remains=False, awaited=False), None),
        (Stage.DRAIN, replace(AT_WORK, away=60.0), None),
        (Stage.DRAIN, ALONE, Finding.HANDED_OVER),
        (Stage.DRAIN, replace(ALONE, remains=False), Finding.EMPTY),
        (Stage.DRAIN, replace(ALONE, away=5.0), Finding.CUT_OFF),
        (Stage.DRAIN, replace(AT_WORK, lasted=DRAIN), Finding.OVERDUE),
        (Stage.EVICT, replace(ALONE, lasted=DRAIN), Finding.HANDED_OVER),
        (Stage.EVICT, replace(ALONE, lasted=DRAIN + MARGIN), Finding.OVERDUE),
    ],
)
def test_what_a_node_that_stops_finds(stage: Stage, sight: Sight, found: Finding | None) -> None:
    assert finding(stage, sight, DRAIN) is found


@given(st.booleans(), st.booleans(), st.booleans(), st.floats(0, 100))
def test_it_ends_in_time_whatever_others_do(released: bool, remains: bool, awaits: bool, away: float) -> None:
    stage, seconds = Stage.DRAIN, 0.0
    while stage is not Stage.OVER:
        lasted = DRAIN + (MARGIN if stage is Stage.EVICT else 0.0)
        found = finding(stage, Sight(released, remains, awaits, away, lasted), DRAIN)
        assert found is not None
        stage = AFTER[stage, found]
        seconds += lasted
    assert seconds <= 2 * DRAIN + MARGIN


def test_only_what_is_alive_and_another_node_can_run_is_waited_for() -> None:
    east, plain = Offer("process", "us-east-1"), Needs("us-east-1")
    two = Fleet({"n": east, "m": east}, frozenset("m"), {}, draining=frozenset("n"))
    alone = Fleet({"n": east, "w": WEST}, frozenset("w"), {}, draining=frozenset("n"))
    alive = {state for state in ReplicaState if awaited(replica("a", state), plain, two)}
    assert alive == {ReplicaState.INTENT, ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY}
    assert not awaited(replica("a"), plain, alone)
    assert not awaited(replica("a"), None, two), "its service is gone"


def opened(plane: Plane, node: str, **more: Any) -> Control:
    return plane.control(NODES, node=node, supervisor="s1", **more)


async def known(*controls: Control) -> None:
    """Each has heard all."""
    for control in controls:
        await until(lambda: len(control.activation.nodes.fleet().up) == len(controls))  # noqa: B023


def replicas(control: Control, service: str) -> list[Replica]:
    view = control.view(service)
    return [] if view is None else list(view.replicas.values())


def on(control: Control, service: str, node: str) -> Callable[[], bool]:
    """Whether its one replica is ready at the node."""
    return lambda: [(r.node, r.state) for r in replicas(control, service)] == [(node, ReplicaState.READY)]


async def stop(plane: Plane, control: Control) -> None:
    """As control does on SIGTERM, once the node's own workers have ended."""
    control.activation.evacuation.begin()
    await control.activation.evacuation.ended()
    plane.controls.remove(control)
    await control.close()


@pytest.mark.parametrize("leads", [True, False])
async def test_what_a_node_runs_is_ready_elsewhere_before_it_stops(plane: Plane, leads: bool) -> None:
    plane.repository()
    one = opened(plane, "n1")
    worker = await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1)
    await until(on(one, service, "n1"))
    if not leads:
        await plane.kill(one)
    two = opened(plane, "n2")
    await until(lambda: leads or two.lease.fence is not None)
    if not leads:
        one = opened(plane, "n1")
    await known(one, two)
    slow = Running(worker.request(service, "/slow/1.5"))
    await until(lambda: worker.in_flight)
    stopping = Running(stop(plane, one))
    while not stopping.task.done():
        assert (await worker.request(service))[0] == 200
        await asyncio.sleep(0.01)
    await stopping.task
    assert (await slow.task)[0] == 200
    assert on(two, service, "n2")()
    told = [event.reason for event in await plane.events(service) if event.kind == "replica.draining"]
    assert told == ["node n1 stops, and it is replaced"]
    await until(lambda: two.lease.fence is not None)
    assert (await worker.request(service))[0] == 200


async def test_a_node_that_stops_as_it_starts_hands_over_what_an_earlier_control_left(plane: Plane) -> None:
    """What is on record, and who else lives, it learns only meanwhile."""
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2")
    await known(one, two)
    worker = await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1)
    await until(lambda: on(two, service, "n1")() or on(two, service, "n2")())
    mine, other = (one, two) if on(two, service, "n1")() else (two, one)
    name = replicas(mine, service)[0].node
    await plane.kill(mine)
    await until(lambda: other.lease.fence is not None)
    stopping = Running(stop(plane, opened(plane, name)))
    while not stopping.task.done():
        assert (await worker.request(service))[0] == 200
        await asyncio.sleep(0.01)
    await stopping.task
    (left,) = replicas(other, service)
    assert (left.node != name, left.state) == (True, ReplicaState.READY)
    told = [event.reason for event in await plane.events(service) if event.kind == "replica.draining"]
    assert told == [f"node {name} stops, and it is replaced"]


async def test_requests_are_held_for_a_replacement_that_takes_longer_than_the_node_waits(plane: Plane) -> None:
    plane.repository()
    one = opened(plane, "n1", drain_timeout=1.0)
    worker = await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1, env={"SLOW": "3"})
    await until(on(one, service, "n1"))
    two = opened(plane, "n2", drain_timeout=1.0)
    await known(one, two)
    stopping = Running(stop(plane, one))
    held = 0
    while not on(two, service, "n2")():
        asked = asyncio.ensure_future(worker.request(service))
        await asyncio.sleep(0.05)
        held += worker.held[service]
        assert (await asked)[0] == 200
    await stopping.task
    assert held


async def test_what_no_other_node_can_run_drains_and_is_waited_for(plane: Plane) -> None:
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    worker = await plane.worker(7, node="n3")
    await known(one, two)
    service = await plane.create(min_replicas=1)
    await until(on(one, service, "n1"))
    slow = Running(worker.request(service, "/slow/1.5"))
    await until(lambda: worker.in_flight)
    await stop(plane, one)
    assert (await slow.task)[0] == 200
    assert replicas(two, service) == []
    assert len(plane.starts()) == 1
    held = Running(worker.request(service))
    await until(lambda: worker.held)
    opened(plane, "n1")
    assert (await held.task)[0] == 200
    assert "service.stranded" not in {event.kind for event in await plane.events(service)}


async def test_who_stops_is_given_nothing_from_that_moment_on(plane: Plane) -> None:
    one, two = opened(plane, "n1"), opened(plane, "n2")
    await known(one, two)
    for leave in (Leave.DRAIN, Leave.EVICT, Leave.RELOAD):
        one.activation.nodes.leave(leave)
        assert one.activation.nodes.fleet().up == {"n2"}, "also before its own beat has said so"
    await until(lambda: two.activation.nodes.fleet().evicting == {"n1"})
    assert two.activation.nodes.fleet().up == {"n2"}
    await plane.kill(one)
    opened(plane, "n1")
    await until(lambda: two.activation.nodes.fleet().up == {"n1", "n2"})
    assert two.activation.nodes.fleet().evicting == frozenset()


async def test_a_word_of_a_newer_version_means_that_a_node_goes(plane: Plane) -> None:
    one = opened(plane, "n1")
    await until(lambda: one.activation.nodes.fleet().up)
    await plane.store.commit([Change(Kind.NODE, "n2", encode(Node(WEST)), ABSENT)])
    await until(lambda: "n2" in one.activation.catalog.nodes())
    one.activation.nodes.heard(b"n2")
    assert one.activation.nodes.fleet().up == {"n1", "n2"}
    assert one.activation.nodes.heard(b"n2 hibernating")
    fleet = one.activation.nodes.fleet()
    assert (fleet.up, fleet.draining, fleet.evicting) == ({"n1"}, frozenset(), frozenset())


async def test_while_its_own_workers_have_requests_the_last_node_wakes_what_they_ask_for(plane: Plane) -> None:
    plane.repository()
    one = opened(plane, "n1")
    worker = await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(one.view(service)) == [ReplicaState.READY])
    await until(lambda: states(one.view(service)) == [])
    one.activation.evacuation.begin()
    assert (await worker.request(service))[0] == 200
    assert not one.activation.evacuation.over.is_set()
    await closed(plane, worker)
    await stop(plane, one)


async def closed(plane: Plane, worker: Worker) -> None:
    plane.workers.remove(worker)
    await worker.close()


async def test_a_worker_that_does_not_acknowledge_does_not_keep_it(plane: Plane) -> None:
    plane.repository()
    one = opened(plane, "n1", drain_timeout=0.5)
    worker = await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1)
    await until(on(one, service, "n1"))
    await worker.stall()
    await stop(plane, one)
    assert not one.activation.agent.running


async def test_without_the_store_it_stops_soon(plane: Plane, valkey: Any) -> None:
    plane.repository()
    one = opened(plane, "n1")
    await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1)
    await until(on(one, service, "n1"))
    valkey.kill()
    await until(lambda: not one.mirror.connected)
    await stop(plane, one)
    assert not one.activation.agent.running
    valkey.start()


async def test_who_only_reloads_keeps_what_it_runs(plane: Plane) -> None:
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2")
    await plane.worker(7, node="n3")
    await known(one, two)
    service = await plane.create(min_replicas=1)
    await until(lambda: states(one.view(service)) == [ReplicaState.READY])
    (before,) = replicas(one, service)
    going, staying = (one, two) if before.node == "n1" else (two, one)
    await going.activation.close(keep=True)
    await until(lambda: staying.activation.nodes.fleet().up == {"n1", "n2"} - {before.node})
    fleet = staying.activation.nodes.fleet()
    assert (fleet.draining, fleet.evicting) == (frozenset(), frozenset())
    assert replicas(staying, service) == [before]
    await plane.kill(going)
