"""What services have had, from the workers' cumulative counters; and from that, how much of it per second. Pure.

A counter says how often something happened since its worker began. Only what it grew by while we listened counts here:
a worker's restart begins at nothing, and so does that of control, for which the first word of a worker that has been
at work for long is no news. Law 7: of a service a minute is kept, in points of a quarter of a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

LONGEST: Final = 60.0  # seconds
_SPACING: Final = 0.25  # seconds between the points that are kept
_SHORTEST: Final = 6.0  # seconds: less is not known of a rate, since counters come once a second


class Had(NamedTuple):
    """Requests that ended; of all that were held those that were let go, and the sum of their waits in seconds."""

    requests: int = 0
    let_go: int = 0
    waited: float = 0.0

    def since(self, before: Had) -> Had:
        return Had(self.requests - before.requests, self.let_go - before.let_go, self.waited - before.waited)

    def plus(self, more: Had) -> Had:
        return Had(self.requests + more.requests, self.let_go + more.let_go, self.waited + more.waited)


_NOTHING: Final = Had()


def had(counters: Mapping[str, Any]) -> Had:
    """Of one service's counters in a worker's report. Raises ValueError, TypeError, AttributeError."""
    requests = sum(map(int, counters.get("requests", {}).values()))
    return Had(requests, sum(map(int, counters.get("hold", {}).values())), float(counters.get("hold_sum", 0.0)))


class Traffic:
    """The sums over all workers, as far as they grew while we listened."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Had]] = {}  # by worker and service
        self._newborn: set[str] = set()
        self._total: dict[str, Had] = {}

    def count(self, worker: str, counters: Mapping[str, Had], *, newborn: bool) -> set[str]:
        """The services that had requests between this report of a worker and the one before, as far as that tells.

        `newborn`: if this is its first word, it began while we listened, so that all it says has just happened.
        """
        first = worker not in self._known
        known = self._known.setdefault(worker, {})
        if first and newborn:
            self._newborn.add(worker)
        active = set()
        for service, now in counters.items():
            before = known.get(service)
            if not first and now.requests > (before or _NOTHING).requests:
                active.add(service)
            if before is None:
                before = _NOTHING if worker in self._newborn else now
            if now.requests >= before.requests and now != before:
                self._total[service] = self.of(service).plus(now.since(before))
            known[service] = now
        return active

    def of(self, service: str) -> Had:
        return self._total.get(service, _NOTHING)

    def leave(self, worker: str) -> None:
        """The worker is gone; what services had from it, they had."""
        self._known.pop(worker, None)
        self._newborn.discard(worker)

    def forget(self, service: str) -> None:
        """The service is gone."""
        self._total.pop(service, None)
        for known in self._known.values():
            known.pop(service, None)


class Rate:
    """How fast one service's sum grows: `observe` it now and then; time never goes back."""

    __slots__ = ("_points",)

    def __init__(self, total: Had, now: float) -> None:
        self._points: deque[tuple[float, Had]] = deque([(now, total)])

    def observe(self, total: Had, now: float) -> None:
        points = self._points
        if len(points) > 1 and points[-1][0] - points[-2][0] < _SPACING:
            points.pop()
        points.append((now, total))
        while len(points) > 2 and points[1][0] <= now - LONGEST:
            points.popleft()

    def requests(self, span: float) -> float:
        """Requests per second over the last `span` seconds before the last observation, or what was seen of them."""
        at, total = self._points[-1]
        start, before = self._before(at - span)
        return (total.requests - before.requests) / max(at - start, min(span, _SHORTEST))

    def wait(self, span: float) -> float:
        """Seconds that a request waited for a replica, on average over those that went to one or ended meanwhile."""
        at, total = self._points[-1]
        grown = total.since(self._before(at - span)[1])
        return grown.waited / max(grown.requests, grown.let_go, 1)

    def _before(self, time: float) -> tuple[float, Had]:
        """The last point at or before a time, or the first."""
        found = self._points[0]
        for point in self._points:
            if point[0] > time:
                break
            found = point
        return found
