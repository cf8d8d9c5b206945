"""How late the loop of a worker is: a timer that measures its own lateness.

Whatever stops the loop stops every request of the worker, and shows nowhere else. A timer each 20 ms sees every stop of
more than that: one of `t` seconds makes it late by `t - 0.02` at least and by `t` at most. On a busy machine the loop
also waits for a CPU; so what the worker itself computed meanwhile is counted apart.

Law 7 as far as it goes for what is told: fixed bounds, a few integers.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from typing import Any, Final

PERIOD: Final = 0.02  # seconds
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds of the buckets; one more follows."""


class Lateness:
    """A histogram over `BOUNDS`."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def counts(self) -> dict[str, int]:
        """By index into `BOUNDS`; zeros left out."""
        return {str(index): count for index, count in enumerate(self.buckets) if count}


class LoopLag:
    """Of one loop: `start` on it, `stop` at the end."""

    __slots__ = ("_computed", "_due", "_timer", "cpu", "wall")

    def __init__(self) -> None:
        self.wall = Lateness()
        self.cpu = Lateness()  # of it, what this thread computed
        self._due = 0.0
        self._computed = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._wait(time.monotonic())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def counters(self) -> dict[str, Any]:
        """As `Edge.counters` says."""
        return {
            "loop_lag": self.wall.counts(),
            "loop_lag_sum": self.wall.seconds,
            "loop_lag_cpu": self.cpu.counts(),
            "loop_lag_cpu_sum": self.cpu.seconds,
        }

    def _wait(self, now: float) -> None:
        self._due = now + PERIOD
        self._computed = time.thread_time()
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        late = max(now - self._due, 0.0)  # uvloop's clock is in milliseconds
        self.wall.add(late)
        self.cpu.add(min(late, time.thread_time() - self._computed))
        self._wait(now)
