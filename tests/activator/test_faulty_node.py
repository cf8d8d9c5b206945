"""A fault of the driver in what it does for the whole node: it is logged, counted and tried again; nothing is doubled,
nothing is left running, and nothing of the node ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from faulty_parts import OF_THE_NODE, Fault, Faults, FaultyDriver
from plane import Control, Plane, states, until

from activator import agent
from activator.drivers.process.procfs import read_stat
from state.models import ReplicaState

NONE: Final = Fault("none")
BROKEN: Final = RuntimeError("broken")
COUNTED_AT: Final = {"observe": "open", "usurped": "guard"}
BEFORE_AND_AFTER = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


Opened = Callable[[Fault, Fault], Control]


@pytest.fixture
def opened(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A control with a fault of the node, and one of the service `app`; it does not take long to try again."""
    monkeypatch.setattr(agent, "_AFTER_A_FAULT", 0.05)
    plane.repository()

    def control(of_the_node: Fault, of_app: Fault = NONE) -> Control:
        faults = Faults()
        faults.by_name["app"] = of_app
        faults.control = plane.control(wrapped=lambda driver: FaultyDriver(driver, faults, of_the_node))
        return faults.control

    return control


async def serves(plane: Plane, control: Control, name: str) -> str:
    service = await plane.create(name, min_replicas=1)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    return service


def alive(plane: Plane, name: str) -> list[int]:
    stats = [read_stat(pid) for pid in plane.starts(name)]
    return [stat.pid for stat in stats if stat is not None and stat.alive]


@BEFORE_AND_AFTER
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", sorted(OF_THE_NODE - {"close"}))
async def test_what_runs_is_adopted_all_the_same(
    plane: Plane, opened: Opened, step: str, times: int, after: bool
) -> None:
    first = opened(NONE)
    await plane.worker()
    service = await serves(plane, first, "old")
    running = alive(plane, "old")
    await plane.kill(first)

    fault = Fault(step, 1, BROKEN, after, times)
    second = opened(fault)
    await until(lambda: fault.seen > times and second.activation.agent.adopted)
    await until(lambda: states(second.view(service)) == [ReplicaState.READY])
    await serves(plane, second, "new")
    assert alive(plane, "old") == running
    assert len(alive(plane, "new")) == 1
    assert second.activation.agent.faults[COUNTED_AT.get(step, step)] == times

    await plane.delete(service)
    await until(lambda: not alive(plane, "old"))
    await until(lambda: second.activation.catalog.service(service) is None)


@BEFORE_AND_AFTER
@pytest.mark.parametrize("keep", [False, True], ids=["ended", "kept"])
async def test_a_node_that_ends(plane: Plane, opened: Opened, keep: bool, after: bool) -> None:
    fault = Fault("close", 1, BROKEN, after)
    control = opened(fault)
    await plane.worker()
    await serves(plane, control, "app")
    running = alive(plane, "app")
    await control.activation.close(keep=keep)
    assert fault.hit
    assert control.activation.agent.faults["close"] == 1
    assert alive(plane, "app") == (running if keep else [])
    if keep:
        await plane.kill(control)
        successor = opened(NONE)
        await until(lambda: successor.activation.agent.running)


@pytest.mark.parametrize("step", ["observe", "stop"])
async def test_a_node_that_ends_at_once(plane: Plane, opened: Opened, step: str) -> None:
    first_is_of_adoption = 2 if step == "observe" else 1
    fault = Fault(step, first_is_of_adoption, BROKEN)
    control = opened(fault, fault)
    await plane.worker()
    await serves(plane, control, "app")
    await control.activation.agent.kill()
    assert alive(plane, "app") == []
    assert control.activation.agent.faults["close"] == 1


async def test_a_node_that_ends_at_once_before_it_knows_what_runs(plane: Plane, opened: Opened) -> None:
    first = opened(NONE)
    await plane.worker()
    await serves(plane, first, "app")
    await plane.kill(first)
    second = opened(NONE)
    assert not second.activation.agent.adopted
    await second.activation.agent.kill()
    assert alive(plane, "app") == []
