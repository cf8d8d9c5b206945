"""The average of a level over the last seconds, in bounded memory. Pure: time is an argument and never goes back.

A level (what is in flight and held) is known at the moments of the reports. Between two of them it went from the one to
the other in a straight line, so that a level that grows is not always behind by a report; after the last it holds. The
average is the integral divided by its span; over a span longer than what was observed, of what was observed.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, pairwise
from typing import Final

_SPACING: Final = 0.25  # seconds between the points that are kept


class Average:
    """Observations of one level; answers for spans of up to `longest` seconds."""

    __slots__ = ("_area", "_at", "_level", "_longest", "_points")

    def __init__(self, now: float, longest: float = 60.0) -> None:
        self._longest = longest
        self._level = 0.0
        self._at = now
        self._area = 0.0
        self._points: deque[tuple[float, float]] = deque([(now, 0.0)])  # (time, area under the level up to it)

    @property
    def level(self) -> float:
        return self._level

    def observe(self, level: float, now: float) -> None:
        """The level is this now."""
        now = max(now, self._at)
        self._area += (self._level + level) / 2 * (now - self._at)
        self._at = now
        self._level = level
        if now - self._points[-1][0] >= _SPACING:
            self._points.append((now, self._area))
        while len(self._points) > 1 and self._points[1][0] <= now - self._longest:
            self._points.popleft()

    def over(self, span: float, now: float) -> float:
        """The average over the last `span` seconds."""
        now = max(now, self._at)
        start = max(now - span, self._points[0][0])
        if now <= start:
            return self._level
        area = self._area + self._level * (now - self._at)
        return max(0.0, area - self._area_at(start)) / (now - start)

    def _area_at(self, time: float) -> float:
        """By interpolation between the two points around it."""
        if time >= self._at:
            return self._area + self._level * (time - self._at)
        end = (self._at, self._area)
        if time - self._points[0][0] < self._at - time:  # from the nearer end
            for before, after in pairwise(chain(self._points, (end,))):
                if after[0] > time:
                    return _between(time, before, after)
        after = end
        for before in reversed(self._points):
            if before[0] <= time:
                return _between(time, before, after)
            after = before
        return self._points[0][1]


def _between(time: float, before: tuple[float, float], after: tuple[float, float]) -> float:
    if after[0] <= before[0] or time <= before[0]:
        return before[1]
    return before[1] + (time - before[0]) / (after[0] - before[0]) * (after[1] - before[1])
