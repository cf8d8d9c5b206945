"""The places for builds: no namespace's builds keep another's from beginning."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from plane import Plane, Running, states, until

from activator.places import Places, admitted
from state.models import DeploymentState, ReplicaState

NAMESPACES = st.sampled_from("abcd")


@given(
    st.lists(NAMESPACES, max_size=6).map(Counter),
    st.lists(NAMESPACES, max_size=8),
    st.integers(1, 6),
)
def test_who_is_next(building: Counter[str], waiting: list[str], total: int) -> None:
    free = total - sum(building.values())
    found = admitted(building, waiting, total)
    if found is None:
        assert free <= 0 or all(building[namespace] for namespace in waiting)
        return
    chosen = waiting[found]
    assert free > 0
    assert not (free == 1 and total > 1 and building[chosen])
    assert all(building[namespace] >= building[chosen] for namespace in waiting)
    assert chosen not in waiting[:found]


def test_the_last_place_is_kept_for_who_builds_nothing() -> None:
    assert admitted({"a": 1}, ["a", "a", "b"], 2) == 2
    assert admitted({"a": 1}, ["a", "a"], 2) is None
    assert admitted({"a": 1, "b": 1}, ["a", "c"], 3) == 1
    assert admitted({}, ["a"], 1) == 0
    assert admitted({"a": 1}, ["a"], 4) == 0


async def test_a_place_comes_back_whatever_becomes_of_who_held_or_awaited_it() -> None:
    places, begun, go = Places(2), list[str](), asyncio.Event()

    async def build(namespace: str) -> None:
        async with places.one(namespace):
            begun.append(namespace)
            await go.wait()

    first, second, third, other = (Running(build(namespace)) for namespace in ("a", "a", "a", "b"))
    await until(lambda: begun == ["a", "b"])
    assert repr(places) == "<Places {'a': 1, 'b': 1} of 2, waiting ['a', 'a']>"
    assert not places.free("c")
    await second.cancel()  # it waited
    await first.cancel()  # it built
    await until(lambda: begun == ["a", "b", "a"])
    last = Running(build("c"))
    await asyncio.sleep(0)  # it waits
    go.set()
    await asyncio.gather(third.task, other.task, last.task)
    assert begun == ["a", "b", "a", "c"]
    assert places.free("a")
    assert repr(places) == "<Places {} of 2, waiting []>"


async def test_one_whose_turn_came_as_it_was_given_up_gives_it_back() -> None:
    places = Places(1)

    async def build() -> None:
        async with places.one("a"):
            raise AssertionError("it was given up")

    async with places.one("b"):
        waiting = Running(build())
        await asyncio.sleep(0)
    waiting.task.cancel()
    await asyncio.wait([waiting.task])
    assert waiting.task.cancelled()
    assert repr(places) == "<Places {} of 1, waiting []>"


async def test_slow_builds_of_one_namespace_keep_nobody_else_waiting(plane: Plane) -> None:
    plane.repository(procfile="web: python3 app.py\n")
    plane.repository("slow", procfile='build: until [ -e "$STARTS.go" ]; do sleep 0.05; done\nweb: python3 app.py\n')
    control = plane.control()
    go = {"STARTS": str(plane.scratch / "slow")}
    slow = [await plane.create(f"slow{number}", repo="acme/slow", env=go) for number in range(3)]

    def building() -> list[str]:
        views = [control.view(service) for service in slow]
        return [view.latest.state for view in views if view is not None and view.latest is not None]

    await until(lambda: DeploymentState.BUILDING in building())
    other = await plane.create("quick", namespace="other")
    await until(lambda: states(control.view(other)) == [ReplicaState.READY], what=building)
    assert sorted(building()) == [DeploymentState.BUILDING, *[DeploymentState.PENDING] * 2]
    kinds = [[event.kind for event in await plane.events(service)] for service in slow]
    assert sum("deployment.waiting" in told for told in kinds) == 2
    (plane.scratch / "slow.go").touch()
    await until(lambda: building() == [DeploymentState.ACTIVE] * 3, what=building)
