"""Wakegate's own algorithm in the simulated world: the real `decide`, told what `activator.outlooks` would tell it."""

from __future__ import annotations

from dataclasses import replace

from activator.autoscaler import Memory, decide
from activator.averages import Average
from activator.signals import PANIC_WINDOW, STABLE_WINDOW, Averages, Signals, Spec
from simulate.policies import Report


class Wakegate:
    """One service's watch (`activator.outlooks.Watch`)."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._memory = Memory(0, 0.0)
        self._average: Average | None = None
        self._rate: Average | None = None
        self._heard = (0.0, 0)  # when, and how many requests had come

    def hear(self, report: Report, now: float) -> None:
        at, requests = self._heard
        self._heard = now, report.requests
        if report.requests > requests or report.level:
            self._memory = replace(self._memory, active_at=now)
        if self._average is not None and self._rate is not None:
            self._average.observe(report.level, now)
            self._rate.observe((report.requests - requests) / max(now - at, 1.0), now)

    def desired(self, report: Report, ready: int, desired: int, now: float) -> int:
        if self._average is None or self._rate is None:
            self._average, self._rate = Average(now), Average(now)
            self._memory = Memory(desired, now)
        self._average.observe(report.level, now)
        signals = Signals(
            busy=report.level > 0,
            concurrency=_averages(self._average, now),
            ready=ready,
            rate=_averages(self._rate, now),
            held=report.held,
            queue_delay=report.oldest,
            gpu_utilization=report.gpu_utilization,
        )
        self._memory = decide(self._spec, signals, replace(self._memory, desired=desired), now).memory
        return self._memory.desired

    def forget(self) -> None:
        self._average = self._rate = None


def _averages(average: Average, now: float) -> Averages:
    return Averages(average.over(STABLE_WINDOW, now), average.over(PANIC_WINDOW, now))
