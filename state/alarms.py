"""When a thing is to be looked at again although nothing happens: a backoff is over, a renewal due. Pure bookkeeping.

One alarm a name; the next is found without looking at all of them (10,000 services may fail at once).
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

    def set(self, name: str, at: float | None) -> None:
        """Instead of the one that it has; `None`: none."""
        if at is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._order, (at, name))
            if len(self._order) > 2 * len(self._at) + 64:
                self._order = [(moment, other) for other, moment in self._at.items()]
                heapq.heapify(self._order)

    def clear(self) -> None:
        self._at.clear()
        self._order.clear()

    def due(self, now: float) -> list[str]:
        """The names whose time has come; their alarms are off."""
        found = []
        while (at := self.next()) is not None and at <= now:
            _, name = heapq.heappop(self._order)
            del self._at[name]
            found.append(name)
        return found

    def next(self) -> float | None:
        """When the next one is due."""
        while self._order:
            at, name = self._order[0]
            if self._at.get(name) == at:
                return at
            heapq.heappop(self._order)
        return None
