"""How long starts take, by phase: the figure that waking is judged by.

The phases of a start (`state.models.StartPhases`) follow each other without a gap, and are stored with the replica, in
commits that are made anyway: so they survive a control that is killed, and are known wherever the replica runs. Each is
measured on one process' monotonic clock, but for what one process hands to another (`schedule`, `first_byte`, and what
a killed control had begun): that is told by the wall clock, and is never below 0.

A start is *cold* if it ends a wake (`activator.verdicts.ends_wake`): a wake asked for it or somebody is held as it gets
ready, and nobody else of its service is ready then.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from state.models import Replica, ReplicaState, StartPhases

PHASES: Final = tuple(f.name for f in fields(StartPhases))
BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


def seconds(phases: StartPhases) -> dict[str, float]:
    """Of those that there were, in their order."""
    taken = {phase: getattr(phases, phase) for phase in PHASES}
    return {phase: micros / 1e6 for phase, micros in taken.items() if micros is not None}


def total(phases: StartPhases) -> float:
    """Seconds of all phases together."""
    return sum(seconds(phases).values())


def until_ready(phases: StartPhases) -> float:
    """Seconds until it could take requests."""
    return total(replace(phases, first_byte=None))


def told(phases: StartPhases) -> str:
    """`412 ms: decide 1, schedule 2, start 5, ready 404`."""
    parts = ", ".join(f"{phase.replace('_', ' ')} {taken * 1000:.0f}" for phase, taken in seconds(phases).items())
    return f"{total(phases) * 1000:.0f} ms: {parts}"


class Stopwatch:
    """The phases of one start as the replica's node measures them. Times are monotonic seconds."""

    __slots__ = ("_since", "phase", "phases")

    def __init__(self, replica: Replica, now: float, wall: int) -> None:
        """Take up what is stored at `now`, which is `wall` in microseconds since the epoch."""
        began = replica.created_at if replica.started_at is None else replica.started_at
        self._since = now - max(0, wall - began) / 1e6
        self.phases = replica.phases
        self.phase = "schedule" if replica.state is ReplicaState.INTENT else "ready"  # the one under way

    def enter(self, phase: str, now: float) -> StartPhases:
        """The one under way is over, and `phase` begins (again). What was measured so far."""
        spent = (getattr(self.phases, self.phase) or 0) + round((now - self._since) * 1e6)
        self.phases = replace(self.phases, **{self.phase: spent})
        self.phase, self._since = phase, now
        return self.phases


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


class ColdStarts:
    """Those of this node, for the metrics: how many, their seconds by phase and from the wake until ready (`whole`),
    and how many failed, by the phase that they failed in."""

    def __init__(self) -> None:
        self.seconds: Mapping[str, Histogram] = {phase: Histogram() for phase in PHASES}
        self.whole = Histogram()
        self.failures: dict[str, int] = dict.fromkeys(PHASES[1:-1], 0)

    @property
    def total(self) -> int:
        return self.whole.count

    def ready(self, phases: StartPhases) -> None:
        """A cold start has ended a wake."""
        self.whole.observe(total(phases))
        for phase, taken in seconds(phases).items():
            self.seconds[phase].observe(taken)

    def answered(self, first_byte: float) -> None:
        """Somebody who was held for it has the first byte, so many seconds after it was ready."""
        self.seconds["first_byte"].observe(first_byte)

    def failed(self, phase: str) -> None:
        """A start came to nothing that was to end a wake."""
        self.failures[phase] += 1

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from, as JSON."""
        histograms = {**self.seconds, "": self.whole}
        told = {phase: [histogram.counts[:], histogram.total] for phase, histogram in histograms.items()}
        return {"seconds": told, "failures": dict(self.failures)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there; of counters that have counted nothing yet. Raises ValueError, TypeError, KeyError."""
        for phase, histogram in {**self.seconds, "": self.whole}.items():
            counts, histogram.total = state["seconds"][phase]
            if len(counts) != len(histogram.counts):
                raise ValueError("other buckets")
            histogram.counts = [int(count) for count in counts]
        self.failures |= {phase: int(count) for phase, count in state["failures"].items() if phase in self.failures}
