"""Deployments that follow each other, with real replicas: what serves is never fewer, whatever happens to control."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from node_under_test import Repository
from plane import QUICK, Control, Plane, Worker, states, until
from test_killed_control import Dynasty, alive

from activator import verdicts
from activator.lifecycle import DeploymentEvent, after_deployment
from activator.rollouts import KEPT
from activator.views import View
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Backend, Deployment, DeploymentState, ReplicaState, RunSpec, Service
from state.store import ABSENT, Change, Conflict, Store


async def deploy(plane: Plane, service_id: str, *, pinned: str | None = None, **run: Any) -> str:
    """What the API writes for an update; returns the deployment's id."""
    while True:
        record = await plane.store.get(Kind.SERVICE, service_id)
        assert record is not None
        service = decode(Service, record.value)
        wanted = replace(service.run, **run)
        deployment = Deployment(new_id(), service_id, DeploymentState.PENDING, wanted, now_us(), commit=pinned)
        after = replace(service, run=wanted, latest=deployment.id)
        with contextlib.suppress(Conflict):
            await plane.store.commit(
                [
                    Change(Kind.DEPLOYMENT, deployment.id, encode(deployment), ABSENT),
                    Change(Kind.SERVICE, service_id, encode(after), record.version),
                ]
            )
            return deployment.id


async def cancel(plane: Plane, deployment_id: str) -> None:
    """What the API writes for a cancellation."""
    while True:
        record = await plane.store.get(Kind.DEPLOYMENT, deployment_id)
        assert record is not None
        deployment = decode(Deployment, record.value)
        state = after_deployment(deployment.state, DeploymentEvent.CANCEL)
        with contextlib.suppress(Conflict):
            cancelled = encode(replace(deployment, state=state))
            await plane.store.commit([Change(Kind.DEPLOYMENT, deployment_id, cancelled, record.version)])
            return


async def queue(plane: Plane, service_id: str, pushed: str | None = None) -> None:
    """A push that came while a deployment is in progress."""
    while True:
        record = await plane.store.get(Kind.SERVICE, service_id)
        assert record is not None
        service = replace(decode(Service, record.value), queued=True, pushed=pushed)
        with contextlib.suppress(Conflict):
            await plane.store.commit([Change(Kind.SERVICE, service_id, encode(service), record.version)])
            return


def done(view: View | None, deployment: str, count: int = 1) -> bool:
    """The deployment serves, alone."""
    return view is not None and view.service.active == deployment and states(view) == [ReplicaState.READY] * count


def serves(view: View | None) -> bool:
    return view is not None and view.service.active is not None


def state(view: View | None, deployment: str) -> DeploymentState | None:
    known = None if view is None else view.deployments.get(deployment)
    return None if known is None else known.state


class Watcher:
    """Every number of replicas in rotation that a worker was ever told."""

    def __init__(self, store: Store, service: str) -> None:
        self.mirror = Mirror(store, [Kind.BACKEND], self._applied)
        self.seen: list[int] = []
        self._service = service

    def _applied(self, touched: object) -> None:
        backend = self.mirror.decoded(Kind.BACKEND, self._service, Backend)
        if backend is not None:
            self.seen.append(sum(endpoint.ready for endpoint in backend.endpoints))


async def ask_until(worker: Worker, service: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        assert (await worker.request(service))[0] == 200
        await asyncio.sleep(0.01)  # the pace of a client


async def test_no_request_fails_and_never_fewer_serve(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=2, max_replicas=4)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY] * 2)
    watcher, stop = Watcher(plane.store, service), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watcher.mirror.run())
        await watcher.mirror.synced()
        slow = tasks.create_task(worker.request(service, "/slow/1.5"))
        for _ in range(6):
            tasks.create_task(ask_until(worker, service, stop))
        for word in "ab":
            env = {"STARTS": str(plane.scratch / "app"), "WORD": word}
            deployment = await deploy(plane, service, env=env)
            await until(lambda d=deployment: done(control.view(service), d, 2), what=lambda: control.view(service))
        stop.set()
        assert (await slow)[0] == 200
        following.cancel()
    assert min(watcher.seen) >= 2
    assert set(worker.answers) == {200}
    assert len(plane.starts()) == 6


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
async def test_killed_at_every_commit_of_a_rollout(plane: Plane, after: bool) -> None:
    plane.repository()
    worker = await plane.worker()
    dynasty = Dynasty(plane, after, replace(QUICK, activity_interval=3600.0))
    reigning = asyncio.get_running_loop().create_task(dynasty.run())
    try:
        service = await plane.create(min_replicas=1)
        assert (await worker.request(service, timeout=30))[0] == 200
        await until(lambda: serves(dynasty.control.view(service)))
        watcher = Watcher(plane.store, service)
        following = asyncio.get_running_loop().create_task(watcher.mirror.run())
        await watcher.mirror.synced()
        deployment = await deploy(plane, service, env={"STARTS": str(plane.scratch / "app"), "WORD": "new"})
        await until(
            lambda: done(dynasty.control.view(service), deployment),
            timeout=40,
            what=lambda: dynasty.control.view(service),
        )
        following.cancel()
    finally:
        dynasty.end()
        await reigning
    assert min(watcher.seen) >= 1
    assert len(plane.starts()) == 2
    assert len(alive(plane.starts())) == 1


async def test_a_cancelled_build_ends_and_so_do_cancelled_replicas(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: serves(control.view(service)))
    building = plane.place / "building"
    plane_of(plane).commit({"Procfile": f"build: touch {building}; sleep 600\nweb: python3 app.py\n"})
    building.parent.chmod(0o777)
    first = await deploy(plane, service)
    await until(building.exists)
    await cancel(plane, first)
    await until(lambda: not control.activation.agent._building, what=lambda: control.view(service))
    plane_of(plane).commit({"Procfile": "web: python3 app.py\n"})
    second = await deploy(plane, service, env={"STARTS": str(plane.scratch / "app"), "STATUS": "503 No"})
    await until(lambda: len(states(control.view(service))) == 2, what=lambda: control.view(service))
    await until(lambda: len(plane.starts()) == 2)
    await cancel(plane, second)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    assert alive(plane.starts()) == plane.starts()[:1]
    assert (await worker.request(service))[0] == 200


async def test_a_queued_push_is_deployed_after_the_one_in_progress(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    bad = await deploy(plane, service, branch="nowhere")
    await queue(plane, service)
    await until(lambda: state(control.view(service), bad) is DeploymentState.FAILED)
    await until(lambda: newest(control, service).cause == "push" and not newest(control, service).state.in_progress)
    assert newest(control, service).state is DeploymentState.FAILED  # that branch is still not there
    good = await deploy(plane, service, branch="main")
    await until(lambda: commit_of(control, service, good))
    await queue(plane, service, plane_of(plane).commit({"another": "commit"}))
    await until(
        lambda: newest(control, service).cause == "push" and newest(control, service).state is DeploymentState.ACTIVE,
        what=lambda: control.view(service),
    )
    assert state(control.view(service), good) is DeploymentState.SUPERSEDED
    view = control.view(service)
    assert view is not None
    assert not view.service.queued


async def test_a_queued_push_of_the_very_commit_starts_nothing(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    head = plane_of(plane).commit({"another": "commit"})
    taken = await deploy(plane, service)  # it takes the head, of which the push tells only now
    await queue(plane, service, head)
    await until(lambda: done(control.view(service), taken))
    await until(lambda: not queued(control, service))
    assert newest(control, service).id == taken
    assert len(plane.starts()) == 2
    await until_told(plane, service, f"{head}, which was pushed, is what this deployment took: nothing is started")


async def test_a_push_that_turns_out_to_be_of_what_serves_starts_nothing(plane: Plane) -> None:
    """Its delivery was overtaken by that of a later one, so that it tells of another commit than the branch's head."""
    plane.repository()
    control = plane.control()
    await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await queue(plane, service, "f" * 40)
    await until(lambda: newest(control, service).state is DeploymentState.CANCELLED)
    assert newest(control, service).reason == verdicts.STALE
    assert states(control.view(service)) == [ReplicaState.READY]
    assert len(plane.starts()) == 1
    await until_told(plane, service, f"{newest(control, service).commit} is deployed already: nothing is started")


async def until_told(plane: Plane, service: str, reason: str) -> None:
    async with asyncio.timeout(30):
        while not any((e.kind, e.reason) == ("push.settled", reason) for e in await plane.events(service)):
            await asyncio.sleep(0.01)


async def test_what_is_forgotten_leaves_no_checkout(plane: Plane) -> None:
    plane.repository()
    control = plane.control()
    await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: serves(control.view(service)))
    checkouts = plane.data_dir / "process" / "checkouts" / "acme" / service
    (first,) = checkouts.iterdir()
    # many that failed after it: the real ones would take long
    failed = [Deployment(new_id(), service, DeploymentState.FAILED, RunSpec(), now_us()) for _ in range(KEPT)]
    await plane.store.commit([Change(Kind.DEPLOYMENT, d.id, encode(d), ABSENT) for d in failed])
    assert len(kept(control, service)) <= KEPT + 1
    plane_of(plane).commit({"another": "commit"})
    deployment = await deploy(plane, service)
    await until(lambda: done(control.view(service), deployment), what=lambda: control.view(service))
    await until(lambda: len(kept(control, service)) == KEPT, what=lambda: kept(control, service))
    assert kept(control, service) < {d.id for d in failed} | {deployment}
    await until(lambda: not first.exists(), what=lambda: sorted(checkouts.iterdir()))


def plane_of(plane: Plane) -> Repository:
    """Its repository, which exists."""
    repository = Repository.__new__(Repository)
    repository.path = plane.place / "git" / "acme" / "app"
    return repository


def kept(control: Control, service: str) -> set[str]:
    return {d.id for d in control.activation.catalog.deployments_of(service)}


def newest(control: Control, service: str) -> Deployment:
    view = control.view(service)
    assert view is not None
    assert view.latest is not None
    return view.latest


async def test_what_is_built_already_waits_for_no_place(plane: Plane) -> None:
    plane.repository()
    plane.repository("slow", procfile="build: sleep 1000\nweb: python3 app.py\n")
    control = plane.control(builds_at_once=1)
    service = await plane.create(min_replicas=1)
    await until(lambda: serves(control.view(service)))
    view = control.view(service)
    assert view is not None
    assert view.latest is not None
    slow = await plane.create("slow", repo="acme/slow")
    await until(lambda: states_of_deployments(control.view(slow)) == [DeploymentState.BUILDING])
    back = await deploy(plane, service, pinned=view.latest.commit)
    await until(lambda: done(control.view(service), back), what=lambda: control.view(service))
    kinds = [event.kind for event in await plane.events(service) if event.deployment == back]
    assert "deployment.built" in kinds
    assert "deployment.waiting" not in kinds
    assert states_of_deployments(control.view(slow)) == [DeploymentState.BUILDING]


def states_of_deployments(view: View | None) -> list[DeploymentState]:
    return [] if view is None else [deployment.state for deployment in view.deployments.values()]


def commit_of(control: Control, service: str, deployment: str) -> str | None:
    view = control.view(service)
    known = None if view is None else view.deployments.get(deployment)
    return None if known is None else known.commit


def queued(control: Control, service: str) -> bool:
    view = control.view(service)
    return view is not None and view.service.queued
