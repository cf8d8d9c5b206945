"""Replicas that don't come up, crash, or fall ill: what the owner is told, and what a client gets meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal

from plane import Plane, only, states, until

from activator.status import service_status
from activator.views import View
from state.models import DeploymentState, Phase, ReplicaState, Scaling


def status_of(view: View | None) -> str:
    assert view is not None
    return service_status(view.service, view.deployments, view.replicas.values(), view.scale)


async def failed(plane: Plane, **service: object) -> tuple[str, tuple[int, str], int]:
    """Create a service that can't start, with a client waiting: the deployment's reason, his answer, the tries."""
    control, worker = plane.control(), await plane.worker()
    created = await plane.create(**service)  # type: ignore[arg-type]
    answer = await worker.request(created)

    def over() -> bool:
        view = control.view(created)
        return view is not None and view.latest is not None and view.latest.state is DeploymentState.FAILED

    await until(over)
    await until(lambda: states(control.view(created)) == [], what=lambda: control.view(created))
    view = control.view(created)
    assert view is not None
    assert view.latest is not None
    assert status_of(view) == "failed"
    backend = worker.backend(created)
    assert backend is not None
    assert (backend.phase, backend.reason) == (Phase.REFUSING, view.latest.reason)
    assert view.scale.desired == 0
    return view.latest.explanation or "", answer, len(plane.starts())


async def test_it_exits_while_starting(plane: Plane) -> None:
    plane.repository(procfile='web: echo x >> $STARTS.tries; echo "no database"; exit 3\n')
    reason, answer, _ = await failed(plane)
    assert reason == "exited with code 3 while starting; last line of its log: no database"
    assert answer[0] == 503
    assert (plane.scratch / "app.tries").read_text().count("x") == 2


async def test_its_branch_does_not_exist(plane: Plane) -> None:
    plane.repository()
    reason, answer, starts = await failed(plane, branch="nowhere")
    assert "nowhere" in reason
    assert (answer[0], starts) == (503, 0)


async def test_it_has_no_procfile(plane: Plane) -> None:
    plane.repository(procfile="worker: sleep 1\n")
    reason, _, _ = await failed(plane)
    assert "add a Procfile with `web: …` listening on $PORT" in reason


async def test_it_never_opens_its_port(plane: Plane) -> None:
    plane.repository(procfile="web: sleep 1000\n")
    reason, answer, _ = await failed(plane, scaling=Scaling(startup_timeout=1))
    assert reason.startswith("nothing listened on its port for 1 s; port ")
    assert answer[0] == 503


async def test_its_health_path_answers_500(plane: Plane) -> None:
    plane.repository()
    env = {"STATUS": "500 Oh"}
    reason, _, starts = await failed(plane, env=env, health_check_path="/healthz", scaling=Scaling(startup_timeout=1))
    assert reason.startswith("GET /healthz answered 500 instead of 200 for 1 s; port ")
    assert starts == 1


async def test_a_wake_that_fails_is_refused_and_then_tried_again(plane: Plane) -> None:
    plane.repository(procfile="web: if [ -e $STARTS.broken ]; then exit 7; fi; exec python3 app.py\n")
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    broken = plane.scratch / "app.broken"
    broken.touch()
    assert (await worker.request(service))[0] == 503
    assert status_of(control.view(service)) == "degraded"
    backend = worker.backend(service)
    assert backend is not None
    assert backend.reason == "exited with code 7 while starting"
    assert backend.retry_after == 1
    broken.unlink()
    await until(lambda: worker.backend(service).phase is Phase.SERVING)  # type: ignore[union-attr]
    await until(lambda: states(control.view(service)) == [])
    assert status_of(control.view(service)) == "degraded"
    assert (await worker.request(service))[0] == 200
    assert status_of(control.view(service)) == "running"
    await until(lambda: states(control.view(service)) == [])
    assert status_of(control.view(service)) == "stopped"


async def test_a_crashed_replica_is_replaced_after_its_backoff(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    os.kill(plane.starts()[0], signal.SIGKILL)
    await until(lambda: ReplicaState.FAILED in states(control.view(service)))
    assert status_of(control.view(service)) == "degraded"
    loop = asyncio.get_running_loop()
    at = loop.time()
    assert (await worker.request(service))[0] == 200  # held for the second that the backoff takes
    assert loop.time() - at > 0.7
    view = control.view(service)
    assert view is not None
    assert view.scale.failures == 1
    assert view.scale.reason == "exited with code 137"
    assert "exited with code 137; tried again in 1 s; last line of its log: Killed" in [
        e.reason for e in await plane.events(service)
    ]
    assert len(plane.starts()) == 2
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    assert status_of(control.view(service)) == "running"


async def test_an_ill_replica_leaves_the_rotation_and_is_replaced(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(health_check_path="/status")
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    first = only(control.view(service)).id
    ill = plane.scratch / "app.ill"
    ill.touch()
    await until(lambda: states(control.view(service)) == [ReplicaState.UNHEALTHY])
    await until(lambda: not any(e.ready for e in worker.backend(service).endpoints))  # type: ignore[union-attr]
    ill.unlink()
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    assert only(control.view(service)).id == first
    ill.touch()
    await until(lambda: first not in control.view(service).replicas, what=lambda: control.view(service))  # type: ignore[union-attr]
    ill.unlink()
    assert (await worker.request(service))[0] == 200
    kinds = [event.kind for event in await plane.events(service)]
    assert [kind for kind in kinds if kind in ("replica.unhealthy", "replica.replaced")] == [
        "replica.unhealthy",
        "replica.unhealthy",
        "replica.replaced",
    ]


async def test_a_checkout_that_somebody_emptied_is_built_again_and_the_wake_succeeds(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    (source,) = (plane.data_dir / "process" / "checkouts").glob("*/*/*/source")
    (source / "app.py").unlink()
    assert (await worker.request(service))[0] == 200  # held meanwhile
    view = control.view(service)
    assert view is not None
    assert (status_of(view), view.scale.failures) == ("running", 0)
    kinds = [event.kind for event in await plane.events(service)]
    assert (kinds.count("replica.lost"), kinds.count("replica.failed")) == (1, 0)


async def test_one_that_is_emptied_again_and_again_is_refused_in_the_end(plane: Plane) -> None:
    """It empties itself, so that no start ever sees it whole."""
    plane.repository(procfile="web: if [ -e $STARTS.broken ]; then rm app.py; exit 7; fi; exec python3 app.py\n")
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    broken = plane.scratch / "app.broken"
    broken.touch()
    assert (await worker.request(service))[0] == 503
    broken.unlink()
    await until(lambda: worker.backend(service).phase is Phase.SERVING)  # type: ignore[union-attr]
    assert (await worker.request(service))[0] == 200
    kinds = [event.kind for event in await plane.events(service)]
    assert (kinds.count("replica.lost"), kinds.count("replica.failed")) == (1, 1)
