"""A leader decides under the lease that it held when it looked, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from plane import Plane, Running, only, until

from activator.draft import moved
from activator.lifecycle import ReplicaEvent
from activator.views import View
from state.leases import Lease
from state.models import ReplicaState, Scaling
from state.store import Change, Fence, Store


def of_a_pass() -> bool:
    task = asyncio.current_task()
    return task is not None and task.get_name().startswith("service ")


class Slow(Store):
    """Passes of the leader wait at `gate` once they have read the workers; their commits are noted."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()
        self.blocked = asyncio.Event()
        self.fences: list[Fence | None] = []

    async def census(self) -> tuple[str, set[str]]:
        found = await super().census()
        if of_a_pass() and not self.gate.is_set():
            self.blocked.set()
            await self.gate.wait()
        return found

    async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
        if of_a_pass():
            self.fences.append(fence)
        return await super().commit(changes, fence=fence)


async def test_a_pass_that_outlives_its_tenure_commits_nothing(plane: Plane) -> None:
    plane.repository()
    store = Slow(plane.url)
    control = plane.control(store=store)
    worker = await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    assert (await worker.request(service))[0] == 200
    slow = asyncio.get_running_loop().create_task(worker.request(service, "/slow/3"))
    await until(lambda: worker.in_flight.get(service))
    replica = only(control.view(service)).id

    def released(view: View) -> View:
        found = view.replicas[replica]
        return view.put(moved(found, ReplicaEvent.RELEASE)) if found.state is ReplicaState.READY else view

    store.gate.clear()
    await control.activation.agent._node.ledger.change(service, released)
    await store.blocked.wait()
    store.fences.clear()
    # as after a pause of this control: another one's turn has come meanwhile
    await plane.store._client.hset("{wg}:leases", "leader", "77 1 s2 other")
    successor = Lease(plane.store, "leader", holder="other", owner="s2", ttl=1.0)
    reign = Running(successor.run(lambda _: None, lambda: None))
    await until(lambda: successor.fence is not None and not control.activation.leader.leads)
    await until(lambda: control.activation.leader._fence is None)
    store.gate.set()
    await until(lambda: control.activation.leader._agenda.idle)
    assert store.fences == []
    assert only(control.view(service)).state is ReplicaState.DRAINING
    assert (await slow)[0] == 200
    await reign.cancel()
