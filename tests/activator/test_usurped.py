"""A replica whose port somebody else took: nothing is sent there any more, and nobody is blamed for it (law 8)."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from plane import Plane, only, states, until

from activator.drivers.process.listening import listeners
from activator.drivers.process.ports import Ports
from activator.lifecycle import REPLICA, ReplicaEvent
from activator.views import View
from state.models import DeploymentState, ReplicaState

STRANGER = 61_950
SUPERVISED = "web: python3 app.py; sleep 1000\n"  # its server may die without it

pytestmark = pytest.mark.root


@contextmanager
def taken(port: int) -> Iterator[socket.socket]:
    """Somebody else listens there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        os.fchown(listener.fileno(), STRANGER, STRANGER)
        listener.listen()
        yield listener


async def test_it_leaves_the_rotation_before_its_next_check_and_is_replaced(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.repository(procfile=SUPERVISED)
    control, worker = plane.control(health_interval=3600, guard_interval=0.05), await plane.worker()
    service = await plane.create(min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    first = only(control.view(service))
    os.kill(plane.starts()[0], signal.SIGKILL)
    await until(lambda: first.port not in listeners())
    with taken(first.port):
        await until(lambda: first.id not in ready(worker.backend(service)))
        await until(lambda: len(ready(worker.backend(service))) == 1)
        assert (await worker.request(service))[0] == 200
        view = control.view(service)
        assert view is not None
        assert (view.scale.failures, newest(view)) == (0, DeploymentState.ACTIVE)
        assert next(r for r in view.replicas.values() if r.state is ReplicaState.READY).port != first.port
        told = [event for event in await plane.events(service) if event.replica == first.id]
        assert [(e.kind, str(e.reason)) for e in told][-1] == (
            "replica.replaced",
            f"another process took its port; port {first.port}",
        )
    assert f"replica {first.id}: uid {STRANGER} listens on its port {first.port}" in caplog.messages


async def test_one_that_starts_gets_another_port_and_its_deployment_does_not_fail(plane: Plane) -> None:
    plane.repository(procfile='web: if [ -e "$STARTS.late" ]; then exec python3 app.py; fi; sleep 1000\n')
    control, worker = plane.control(guard_interval=0.05), await plane.worker()
    service = await plane.create()
    await until(lambda: states(control.view(service)) == [ReplicaState.STARTING])
    first = only(control.view(service))
    (plane.scratch / "app.late").touch()
    with taken(first.port):
        await until(lambda: newest(control.view(service)) is DeploymentState.ACTIVE, what=lambda: control.view(service))
    assert all(event.kind != "replica.failed" for event in await plane.events(service))
    assert first.port not in [endpoint.port for endpoint in worker.backend(service).endpoints]  # type: ignore[union-attr]


async def test_a_node_without_a_free_port_is_waited_for_and_nobody_is_blamed(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.repository()
    control = plane.control()
    with taken(0) as listener:
        port = listener.getsockname()[1]
        control.driver._addresses._ports = Ports(range(port, port + 1))
        service = await plane.create()
        await until(lambda: states(control.view(service)) == [ReplicaState.INTENT])
        await until(lambda: any("no replica can start" in message for message in caplog.messages))
    await until(lambda: newest(control.view(service)) is DeploymentState.ACTIVE, what=lambda: control.view(service))
    told = {event.kind: event.reason for event in await plane.events(service)}
    assert told["replica.waiting"] == (
        f"no port of its node is free: it starts as soon as one is; all ports {port}-{port} are in use"
    )
    assert "replica.failed" not in told
    message = f"no replica can start: all ports {port}-{port} are in use; of these uid {STRANGER} listens on 1"
    assert message in caplog.messages


def test_nothing_is_called_back_to_a_port_that_was_taken() -> None:
    states = [state for state, event in REPLICA if event is ReplicaEvent.USURPED]
    assert set(states) == {ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY, ReplicaState.DRAINING}
    assert {REPLICA[state, ReplicaEvent.USURPED] for state in states} == {ReplicaState.STOPPING, ReplicaState.DRAINING}


def newest(view: View | None) -> DeploymentState | None:
    return None if view is None or view.latest is None else view.latest.state


def ready(backend: object) -> list[str]:
    return [endpoint.id for endpoint in getattr(backend, "endpoints", ()) if endpoint.ready]
