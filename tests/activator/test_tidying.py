"""What can't be tidied up is told, and nothing else suffers."""

from __future__ import annotations

from typing import Any

import pytest
from plane import Plane, states, until

from activator.drivers.process import ProcessDriver
from state.models import ReplicaState


class Untidy:
    """The real driver, but for its tidying."""

    def __init__(self, driver: ProcessDriver) -> None:
        self._driver = driver
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def prune(self, needed: Any) -> None:
        self.tried += 1
        raise RuntimeError("a file system of a kind that nobody foresaw")


async def test_what_can_not_be_removed_does_not_end_the_node(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.repository()
    made: list[Untidy] = []

    def wrapped(driver: ProcessDriver) -> Untidy:
        made.append(Untidy(driver))
        return made[-1]

    control = plane.control(wrapped=wrapped)
    await plane.worker()
    await until(lambda: made[0].tried)
    service = await plane.create()
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    assert "what nobody needs can't be removed" in caplog.text
    assert "nobody foresaw" in caplog.text
