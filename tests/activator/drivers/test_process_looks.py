"""Looks at all processes of the machine are shared, and none is older than the question that it answers."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import cast

from activator.drivers.process.procfs import uid_of
from activator.drivers.process.sweep import Scope, Sighting, Sweeper


class CountedScope:
    """Sees nobody; each look waits until `gate` is open."""

    def __init__(self) -> None:
        self.looks = 0
        self.gate = threading.Event()

    def look(self) -> list[Sighting]:
        self.looks += 1
        assert self.gate.wait(20)
        return []


async def looked(scope: CountedScope, count: int) -> None:
    async with asyncio.timeout(20):
        while scope.looks < count:
            await asyncio.sleep(0.001)


async def test_many_who_ask_at_once_share_a_look_that_begins_afterwards() -> None:
    scope = CountedScope()
    sweeper = Sweeper(cast("Scope", scope))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(sweeper.sweep())
        await looked(scope, 1)
        others = [tasks.create_task(sweeper.sweep()) for _ in range(100)]
        await asyncio.sleep(0)
        scope.gate.set()
        await first
        assert not any(other.done() for other in others), "that look began before they asked"
    assert scope.looks == 2


async def test_who_gives_up_leaves_the_look_to_the_others() -> None:
    scope = CountedScope()
    sweeper = Sweeper(cast("Scope", scope))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(sweeper.sweep())
        await looked(scope, 1)
        second = tasks.create_task(sweeper.sweep())
        await asyncio.sleep(0)
        first.cancel()
        await looked(scope, 2)
        scope.gate.set()
        await second


def test_the_effective_uid_of_a_process() -> None:
    assert uid_of(os.getpid()) == os.geteuid()
    assert uid_of(1) == Path("/proc/1").stat().st_uid
    assert uid_of(1 << 30) is None
