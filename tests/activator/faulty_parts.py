"""Faults that a test injects into the store and the driver of a control plane under test."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from plane import Control

from activator.drivers import Driver
from activator.drivers.process import ProcessDriver
from state.kinds import Kind
from state.store import Change, Fence, Store

STEPS = frozenset(name for name, _ in inspect.getmembers(Driver, inspect.isfunction) if not name.startswith("_"))
"""What a driver is asked to do."""
OF_A_SERVICE = frozenset({"allocate", "made", "build", "start", "listens", "verify", "stop", "forget"})
OF_THE_NODE = frozenset({"open", "observe", "usurped", "prune", "close"})


@dataclass
class Fault:
    """From the `nth` time on that `step` is taken for a service, it fails so many `times`."""

    step: str
    nth: int = 1
    error: Exception | None = None
    after: bool = False
    times: int = 1
    seen: int = 0
    hit: bool = False

    def __str__(self) -> str:
        return f"{self.step} {self.nth} {'after' if self.after else 'before'}: {self.error!r}"

    async def around(self, step: str, real: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        error = self._due(step)
        if error is not None and not self.after:
            raise error
        answer = await real()
        if error is not None:
            raise error
        return answer

    def at_once(self, step: str, real: Callable[[], Any]) -> Any:
        """The same for a step that is no coroutine."""
        error = self._due(step)
        if error is not None and not self.after:
            raise error
        answer = real()
        if error is not None:
            raise error
        return answer

    def _due(self, step: str) -> Exception | None:
        if step != self.step:
            return None
        self.seen += 1
        fails = self.nth <= self.seen < self.nth + self.times
        self.hit |= fails
        return self.error if fails else None


class Faults:
    """Who is to meet which one: by the name of the service, which is learnt from its record."""

    def __init__(self) -> None:
        self.by_name: dict[str, Fault] = {}
        self.unnamed = Fault("none")  # of a step that is not told for whom it is
        self.control: Control
        self._names: dict[str, str] = {}
        self.service_of: dict[str, str] = {}  # by replica

    def __call__(self, service_id: str) -> Fault:
        service = self.control.activation.catalog.service(service_id)
        name = self._names.get(service_id, "") if service is None else self._names.setdefault(service_id, service.name)
        return self.by_name.get(name) or Fault("none")


class FaultyStore(Store):
    """Commits fail by the service that they are about."""

    def __init__(self, url: str, faults: Faults) -> None:
        super().__init__(url)
        self._faults = faults

    async def commit(self, changes: Sequence[Change], *, fence: Fence | None = None) -> int:
        commit = super().commit
        fault = self._faults(_about(changes))
        revision: int = await fault.around("commit", lambda: commit(changes, fence=fence))
        return revision


def _about(changes: Sequence[Change]) -> str:
    for change in changes:
        if change.kind in (Kind.SERVICE, Kind.SCALE, Kind.BACKEND):
            return change.id
        if change.kind in (Kind.REPLICA, Kind.DEPLOYMENT) and change.value is not None:
            return str(json.loads(change.value)["service"])
    return ""


class FaultyDriver:
    """The real driver, but for the faults: those of services by their names, and one `of_the_node`."""

    def __init__(self, real: ProcessDriver, faults: Faults, of_the_node: Fault | None = None) -> None:
        self._real = real
        self._faults = faults
        self._of_the_node = of_the_node or Fault("none")

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in STEPS:
            return real
        whose = self._fault if name in OF_A_SERVICE else lambda *_: self._of_the_node
        if not inspect.iscoroutinefunction(real):
            return lambda *asked, **more: whose(name, asked).at_once(name, lambda: real(*asked, **more))

        async def step(*asked: Any, **more: Any) -> Any:
            return await whose(name, asked).around(name, lambda: real(*asked, **more))

        return step

    def _fault(self, step: str, asked: tuple[Any, ...]) -> Fault:
        if step == "allocate":  # it is not told for whom
            return self._faults.unnamed
        if step in ("made", "build"):
            return self._faults(asked[0].service_id)
        if step == "start":
            self._faults.service_of[asked[0].replica_id] = asked[0].service_id
            return self._faults(asked[0].service_id)
        return self._faults(self._faults.service_of.get(asked[0], ""))
