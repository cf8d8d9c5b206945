"""The load that is offered to a service: how many requests would be in service at once if none had to wait. Pure.

What is in flight and held says so too, as long as nobody waits. But who is held adds up: two requests a second of a
second each need two places, and after a start of 90 s a hundred and eighty are held, for which no hundred and eighty
places are needed. So what is held counts by how long a request keeps a replica busy: the offered load is arrivals per
second times that (Little's law, in erlangs), and beside it the backlog counts as far as it should be gone soon, which
is measured by how long it took to come about. Never more than what is in flight and held, which also counts while the
work of a request is not known; never less than what is in flight.

The work of a request is what was in flight over a minute divided by the requests that ended in it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from activator.averages import Average

WINDOW: Final = 60.0
CLEARED: Final = 2.0  # seconds in which a backlog is served once there are enough replicas, at least
PATIENCE: Final = 0.2  # or this share of what the oldest has waited: for a slow start nobody needs fifty replicas
ENOUGH: Final = 5  # requests that ended, to tell from them what one costs
_SPACING: Final = 0.25
_SHORTEST: Final = 1.0


class Offered:
    """Of one service, from reports. `work`: seconds that a request keeps a replica busy, if it is known from before."""

    __slots__ = ("_backlog", "_counts", "_level", "_serving", "work")

    def __init__(self, now: float, ended: int, work: float | None = None) -> None:
        self.work = work
        self._serving = Average(now, WINDOW)
        self._backlog = Average(now, WINDOW)
        self._level = Average(now, WINDOW)
        self._counts: deque[tuple[float, int, int]] = deque([(now, ended, ended)])  # (time, arrived, ended)

    def observe(self, in_flight: int, held: int, oldest: float, ended: int, now: float) -> None:
        """At this moment so many are in flight and held, the oldest for so many seconds; `ended` have ended so far."""
        self._serving.observe(in_flight, now)
        self._backlog.observe(held / max(CLEARED, PATIENCE * oldest), now)
        self._level.observe(in_flight + held, now)
        counts = self._counts
        if len(counts) > 1 and now - counts[-2][0] < _SPACING:
            counts.pop()
        counts.append((now, ended + in_flight + held, ended))
        while len(counts) > 2 and counts[1][0] <= now - WINDOW:
            counts.popleft()
        self._learn(now)

    def over(self, span: float, now: float) -> float:
        """The load, averaged over the last `span` seconds. Arrivals count over the latter half: those before are served
        or in the backlog."""
        level = self._level.over(span, now)
        if self.work is None:
            return level
        backlog = self._backlog.over(span, now)  # requests per second that should be served beside those that come
        serving = max(self._serving.over(span, now), self._arrivals(span / 2, now) * self.work)
        return min(level, serving + backlog * self.work)

    def _arrivals(self, span: float, now: float) -> float:
        at, arrived, _ = self._since(now - span)
        return max(0, self._counts[-1][1] - arrived) / max(_SHORTEST, now - at)

    def _learn(self, now: float) -> None:
        at, _, before = self._counts[0]
        ended = self._counts[-1][2] - before
        served = self._serving.over(WINDOW, now) * (now - at)
        if ended >= ENOUGH:
            self.work = served / ended
        elif self.work is not None:  # few end: it takes longer than it did
            self.work = max(self.work, served / (ended + 1))

    def _since(self, time: float) -> tuple[float, int, int]:
        """The last point at or before a time, or the first."""
        return next((point for point in reversed(self._counts) if point[0] <= time), self._counts[0])
