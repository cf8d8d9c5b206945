"""When a service is to be looked at again although nothing happens: its backoff is over. Pure bookkeeping.

One alarm a service; the next is found without looking at all of them (10,000 services may fail at once).
"""

from __future__ import annotations

import heapq


class Alarms:
    """Times are those of any clock, in seconds."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []  # with entries that were set anew since; those are skipped

    def __len__(self) -> int:
        return len(self._at)

    def set(self, service: str, at: float | None) -> None:
        """Instead of the one that it has; `None`: none."""
        if at is None:
            self._at.pop(service, None)
        elif self._at.get(service) != at:
            self._at[service] = at
            heapq.heappush(self._order, (at, service))
            if len(self._order) > 2 * len(self._at) + 64:
                self._order = [(moment, name) for name, moment in self._at.items()]
                heapq.heapify(self._order)

    def clear(self) -> None:
        self._at.clear()
        self._order.clear()

    def due(self, now: float) -> list[str]:
        """The services whose time has come; their alarms are off."""
        found = []
        while (at := self.next()) is not None and at <= now:
            _, service = heapq.heappop(self._order)
            del self._at[service]
            found.append(service)
        return found

    def next(self) -> float | None:
        """When the next one is due."""
        while self._order:
            at, service = self._order[0]
            if self._at.get(service) == at:
                return at
            heapq.heappop(self._order)
        return None
