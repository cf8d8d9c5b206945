"""The services that a leader is to look at: first come first served, the urgent before all others, each once at a time.

Pure bookkeeping, a constant time per step: a new leader has every service on it at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

_FAIRNESS: Final = 4  # one in so many is not urgent, while there are both


class Agenda:
    """`put`, then `take` until it says None, and `done` for each that was taken; at most `at_once` are under way."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._urgent: OrderedDict[str, None] = OrderedDict()
        self._others: OrderedDict[str, None] = OrderedDict()
        self._again: dict[str, bool] = {}  # put while under way: whether urgent
        self._under_way: set[str] = set()
        self._taken = 0

    def __len__(self) -> int:
        """How many wait to be taken, now or after they are done."""
        return len(self._urgent) + len(self._others) + len(self._again)

    def __bool__(self) -> bool:
        """Whether `take` would give one."""
        return bool(self._urgent or self._others) and len(self._under_way) < self._at_once

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self and not self._again and not self._under_way

    def put(self, services: Iterable[str], *, urgent: bool = False) -> None:
        """Look at these; one that waits already keeps its place, or gets an urgent one."""
        for service in services:
            if service in self._under_way:
                self._again[service] = urgent or self._again.get(service, False)
            elif urgent:
                self._others.pop(service, None)
                self._urgent[service] = None
            elif service not in self._urgent:
                self._others[service] = None

    def take(self) -> str | None:
        if not self:
            return None
        self._taken += 1
        others_first = self._others and self._taken % _FAIRNESS == 0
        lane = self._others if others_first or not self._urgent else self._urgent
        service, _ = lane.popitem(last=False)
        self._under_way.add(service)
        return service

    def done(self, service: str) -> None:
        """It was looked at; if it was put meanwhile, it waits again."""
        self._under_way.discard(service)
        urgent = self._again.pop(service, None)
        if urgent is not None:
            self.put((service,), urgent=urgent)

    def clear(self) -> None:
        """Nothing waits any more; what is under way is still to be `done`."""
        self._urgent.clear()
        self._others.clear()
        self._again.clear()
