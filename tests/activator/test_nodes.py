"""Several nodes of one store: real controls, processes and workers; one is killed and what it had goes on elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from plane import OFFER, QUICK, Control, Plane, only, states, until

from state.codec import encode
from state.kinds import Kind
from state.models import DeploymentState, Node, Offer, Phase, Replica, ReplicaState, Scaling
from state.store import ABSENT, Change

NODES = replace(QUICK, beat=0.1, beat_patience=1.5, node_grace=4.0, stale_limit=2.0)
WEST = Offer("process", "eu-west-1")
IMAGES = Offer("container", "us-east-1", images=True, repos=False)


def opened(plane: Plane, node: str, **more: object) -> Control:
    return plane.control(NODES, node=node, supervisor="s1", **more)  # type: ignore[arg-type]


def nodes(control: Control) -> dict[str, Node]:
    return control.activation.catalog.nodes()


def lost(control: Control) -> set[str]:
    return {name for name, node in nodes(control).items() if node.lost_at is not None}


def ready(control: Control, service: str) -> list[Replica]:
    view = control.view(service)
    return [] if view is None else [r for r in view.replicas.values() if r.state is ReplicaState.READY]


async def kinds(plane: Plane, service: str) -> list[str]:
    return [event.kind for event in await plane.events(service)]


async def heard_of(plane: Plane, service: str, *wanted: str) -> None:
    """An event is told after what it tells of is stored."""
    async with asyncio.timeout(40):
        while not set(wanted) <= set(await kinds(plane, service)):
            await asyncio.sleep(0.05)


async def known(*controls: Control) -> None:
    """Each has heard all."""
    for control in controls:
        await until(lambda: len(control.activation.nodes.fleet().up) == len(controls))  # noqa: B023


async def test_every_node_says_what_it_offers(plane: Plane) -> None:
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    for control in (one, two):
        await until(lambda: nodes(control) == {"n1": Node(OFFER), "n2": Node(WEST)})  # noqa: B023
    await plane.kill(two)
    opened(plane, "n2", offer=IMAGES)
    await until(lambda: nodes(one)["n2"] == Node(IMAGES))


async def test_a_service_runs_on_a_node_that_can_run_it(plane: Plane) -> None:
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    await known(one, two)
    west = await plane.create("west", region="eu-west-1")
    await until(lambda: ready(one, west))
    assert [r.node for r in ready(one, west)] == ["n2"]
    nowhere = await plane.create("nowhere", region="eu-central-1")
    await until(lambda: (v := one.view(nowhere)) and v.deployments[v.service.latest].state is DeploymentState.FAILED)
    view = one.view(nowhere)
    assert view is not None
    assert view.deployments[view.service.latest].reason == (
        "no node is in eu-central-1; regions here: eu-west-1, us-east-1"
    )


async def test_replicas_of_a_killed_node_serve_until_others_are_ready_and_leave_by_the_protocol(plane: Plane) -> None:
    plane.repository()
    one = opened(plane, "n1")
    worker, away = await plane.worker(), await plane.worker(7, node="n3")
    service = await plane.create(min_replicas=1)
    await until(lambda: ready(one, service))
    two = opened(plane, "n2")
    await known(one, two)
    await plane.kill(one)
    first = ready(two, service)
    answers = [await worker.request(service)]
    await until(lambda: lost(two) == {"n1"})
    while {r.node for r in ready(two, service)} != {"n2"}:
        answers.append(await worker.request(service))
        await asyncio.sleep(0.01)
    assert {status for status, _ in answers} == {200}
    assert (await worker.request(service))[1] == str(plane.starts()[-1])
    told = {event.kind: event.reason for event in await plane.events(service)}
    assert told["node.lost"].startswith("node n1 has not been heard of for 4 s: what the service has there is replaced")
    # workers of the dead node were killed without a word: their registrations end by the stale limit
    await away.stall()
    await until(lambda: [r.node for r in two.view(service).replicas.values()] == ["n2"])  # type: ignore[union-attr]
    back = opened(
        plane,
        "n1",
    )
    await until(lambda: lost(two) == set())
    await until(lambda: back.driver.observe is not None and not back.activation.agent.running)
    await heard_of(plane, service, "node.returned")
    assert [r.id for r in first] != [r.id for r in ready(two, service)]


async def test_a_build_on_a_node_that_dies_goes_on_elsewhere(plane: Plane) -> None:
    gate = plane.scratch / "gate"
    plane.repository(procfile=f"build: test -e {gate} || sleep 1000\nweb: python3 app.py\n")
    one = opened(plane, "n1")
    await plane.worker()
    service = await plane.create()
    await until(lambda: _latest(one, service) is DeploymentState.BUILDING)
    two = opened(plane, "n2")
    await known(one, two)
    await plane.kill(one)
    gate.touch()
    await until(lambda: ready(two, service), timeout=40)
    assert {r.node for r in ready(two, service)} == {"n2"}
    await heard_of(plane, service, "deployment.moved")


def _latest(control: Control, service: str) -> DeploymentState | None:
    view = control.view(service)
    return None if view is None or view.latest is None else view.latest.state


async def test_who_wakes_what_only_a_lost_node_could_run_is_refused_until_it_is_back(plane: Plane) -> None:
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    worker = await plane.worker()
    await known(one, two)
    service = await plane.create("west", region="eu-west-1")
    await until(lambda: ready(one, service))
    replica = only(one.view(service))
    assert replica.node == "n2"
    await plane.kill(two)
    await until(lambda: lost(one) == {"n2"})
    assert ready(one, service) == [replica], "it may serve on"
    await until(lambda: one.view(service).scale.stranded)  # type: ignore[union-attr]
    back = opened(plane, "n2", offer=WEST)
    await until(lambda: one.view(service).scale.stranded is None)  # type: ignore[union-attr]
    await until(lambda: back.activation.agent.running == {replica.id})
    assert (await worker.request(service))[0] == 200
    await heard_of(plane, service, "service.stranded", "service.placeable", "node.lost", "node.returned")


async def test_short_absences_decide_nothing(plane: Plane, valkey: Any) -> None:
    """A restart of a control, and an outage of the store that is longer than the grace."""
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    await plane.worker()
    await known(one, two)
    service = await plane.create("west", region="eu-west-1", min_replicas=1)
    await until(lambda: ready(one, service))
    replica = only(one.view(service))
    await plane.kill(two)
    two = opened(plane, "n2", offer=WEST)
    await known(one, two)
    valkey.kill()
    await asyncio.sleep(NODES.node_grace + 1)
    valkey.start()
    await until(lambda: one.mirror.connected and two.mirror.connected)
    await known(one, two)
    await asyncio.sleep(NODES.node_grace / 2)
    assert lost(one) == set()
    assert states(one.view(service)) == [ReplicaState.READY]
    assert only(one.view(service)) == replica
    assert not {"node.lost", "service.stranded"} & set(await kinds(plane, service))


async def test_a_lost_node_without_replicas_is_forgotten_after_a_day(plane: Plane) -> None:
    one = opened(plane, "n1")
    await until(lambda: nodes(one))
    old = Change(Kind.NODE, "old", encode(Node(OFFER, lost_at=1)), ABSENT)
    await plane.store.commit([old])
    await until(lambda: set(nodes(one)) == {"n1"})


async def test_who_wakes_a_sleeping_one_meanwhile_is_refused_with_the_reason(plane: Plane) -> None:
    plane.repository()
    one, two = opened(plane, "n1"), opened(plane, "n2", offer=WEST)
    worker = await plane.worker()
    await known(one, two)
    service = await plane.create("west", region="eu-west-1", scaling=Scaling(idle_timeout=1))
    await until(lambda: ready(one, service))
    await until(lambda: states(one.view(service)) == [])
    await plane.kill(two)
    await until(lambda: lost(one) == {"n2"})
    assert (await worker.request(service))[0] == 503
    backend = worker.backend(service)
    assert backend is not None
    assert (backend.phase, backend.reason) == (Phase.REFUSING, "no node is in eu-west-1; regions here: us-east-1")
    opened(plane, "n2", offer=WEST)
    await until(lambda: (b := worker.backend(service)) is not None and b.phase is Phase.SERVING)
    assert (await worker.request(service))[0] == 200
