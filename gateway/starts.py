"""The start of a replica, for those who were held for it: what `Server-Timing` says of it, and when the first of them
had a byte.

Made when a worker first hears of a replica and that has just become ready, and forgotten with it. A replica that was
ready before its service was first asked for has none here: whoever is held there waits for something else. Only answers
to requests that were held look at it.
"""

from __future__ import annotations

from dataclasses import asdict

from state.models import StartPhases


class Start:
    """`since`: when this worker heard that it is ready (monotonic seconds). `first_byte`: microseconds, on the wall
    clock, from its readiness to the first byte for somebody who was held for it here; below 0: nobody had any yet."""

    __slots__ = ("_phases", "_ready_at", "first_byte", "since")

    def __init__(self, phases: StartPhases, ready_at: int, now: float) -> None:
        self.since = now
        self.first_byte = -1
        self._ready_at = ready_at
        self._phases = _metrics(phases)

    def answer(self, wall: int) -> bool:
        """A byte is about to leave; `wall` in microseconds since the epoch. Whether it is the first."""
        if self.first_byte >= 0:
            return False
        self.first_byte = max(0, wall - self._ready_at)
        self._phases += _metrics(StartPhases(first_byte=self.first_byte))
        return True

    @property
    def phases(self) -> bytes:
        """Metrics that go on a list of Server Timing 3, in milliseconds."""
        return self._phases


def _metrics(phases: StartPhases) -> bytes:
    taken = {phase: micros for phase, micros in asdict(phases).items() if micros is not None}
    return "".join(f", {phase};dur={micros / 1000:.1f}" for phase, micros in taken.items()).encode("ascii")
