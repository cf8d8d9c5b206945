"""How long cold starts take, by phase: the figure that waking is judged by.

A start is cold when nobody was ready as it was decided. Its phases follow each other without a gap, on one process'
monotonic clock: `decide` (from the wake to the stored intent), `schedule` (until the node's agent acts), `fetch` (the
artifact, if the node lacks it), `start` (the driver), `ready` (until a probe saw 200 and that is stored).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PHASES: Final = ("decide", "schedule", "fetch", "start", "ready")
BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_BOUND: Final = 10_000  # starts under way; beyond it new ones are not timed


@dataclass(slots=True)
class Histogram:
    """`counts[i]` observations are at most `BUCKETS[i]` seconds and above the bucket before; the last has the rest."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class _Start:
    since: float
    cold: bool
    phases: dict[str, float] = field(default_factory=dict)


class ColdStarts:
    """`begin` at the decision, `reached` at the end of each phase, `finish` with the last; `abandon` if it came to
    nothing. `total` and `seconds` (by phase) are for the metrics."""

    def __init__(self) -> None:
        self.total = 0
        self.seconds: Mapping[str, Histogram] = {phase: Histogram() for phase in PHASES}
        self._starts: dict[str, _Start] = {}

    def begin(self, replica: str, since: float, *, cold: bool) -> None:
        if len(self._starts) < _BOUND:
            self._starts[replica] = _Start(since, cold)

    def reached(self, replica: str, phase: str, now: float) -> None:
        start = self._starts.get(replica)
        if start is not None:
            start.phases[phase] = start.phases.get(phase, 0.0) + max(0.0, now - start.since)
            start.since = now

    def finish(self, replica: str, now: float) -> Mapping[str, float] | None:
        """The phases in seconds; None if the start was not cold, or not seen from its beginning."""
        self.reached(replica, PHASES[-1], now)
        start = self._starts.pop(replica, None)
        if start is None or not start.cold:
            return None
        self.total += 1
        for phase, seconds in start.phases.items():
            self.seconds[phase].observe(seconds)
        return start.phases

    def abandon(self, replica: str) -> None:
        self._starts.pop(replica, None)


def told(phases: Mapping[str, float]) -> str:
    """`412 ms: decide 1, schedule 2, fetch 0, start 5, ready 404`."""
    parts = ", ".join(f"{phase} {phases[phase] * 1000:.0f}" for phase in PHASES if phase in phases)
    return f"{sum(phases.values()) * 1000:.0f} ms: {parts}"
