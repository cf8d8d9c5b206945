"""Replicas that workers leave out of their choice, as their reports count it: worth an event, and not too many.

Reports are cumulative. What a worker had counted before it was first heard here is not news. Pure: times are monotonic
seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_PAUSE: Final = 60.0  # seconds between two events of one service


class Ejections:
    """`counted` takes what a report says; `keep` forgets workers that are gone, and what is told for long."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}
        self._untold: dict[str, int] = {}
        self._told_at: dict[str, float] = {}

    def counted(self, worker: str, counts: Mapping[str, int], now: float, *, newborn: bool) -> dict[str, int]:
        """How many are to be told now, by service. `newborn`: it began while we listened, so that all are news."""
        seen = self._seen.setdefault(worker, {})
        for service, count in counts.items():
            before = seen.get(service, 0 if newborn else count)
            seen[service] = count
            if count > before:
                self._untold[service] = self._untold.get(service, 0) + count - before
        due = [s for s in self._untold if s in counts and now - self._told_at.get(s, -_PAUSE) >= _PAUSE]
        self._told_at |= dict.fromkeys(due, now)
        return {service: self._untold.pop(service) for service in due}

    def keep(self, workers: Iterable[str], now: float) -> None:
        self._seen = {worker: self._seen[worker] for worker in workers if worker in self._seen}
        self._told_at = {service: at for service, at in self._told_at.items() if now - at < _PAUSE}
        self._untold = {service: count for service, count in self._untold.items() if service in self._told_at}

    def knows(self, worker: str) -> bool:
        return worker in self._seen
