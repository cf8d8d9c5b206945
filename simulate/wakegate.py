"""Wakegate's own algorithm in the simulated world: the real `decide`, told what `activator.outlooks` would tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from activator import forecast
from activator.autoscaler import Memory, decide
from activator.averages import Average
from activator.offered import Offered
from activator.signals import PANIC_WINDOW, STABLE_WINDOW, Averages, Signals, Spec
from simulate.policies import Report
from state.models import History

MONDAY: Final = 2816 * 168 * 3600  # seconds since the epoch at which simulated weeks begin


class Wakegate:
    """One service's watch (`activator.outlooks.Watch`). `warm_reserve`: whether it learns from its history."""

    def __init__(self, spec: Spec, *, warm_reserve: bool = False) -> None:
        self._spec = spec
        self._warm_reserve = warm_reserve
        self._memory = Memory(0, 0.0)
        self._load: Offered | None = None
        self._work: float | None = None
        self._rate: Average | None = None
        self._heard = (0.0, 0)  # when, and how many requests had come
        self._history: History | None = None
        self._woken_at: float | None = None
        self._start: float | None = None  # seconds that the last wake took

    def hear(self, report: Report, now: float) -> None:
        at, requests = self._heard
        self._heard = now, report.requests
        if report.requests > requests or report.level:
            self._memory = replace(self._memory, active_at=now)
            if self._warm_reserve:
                self._history = forecast.noted(self._history, _wall(now), self._start)
        if self._load is not None and self._rate is not None:
            self._observe(self._load, report, now)
            self._rate.observe((report.requests - requests) / max(now - at, 1.0), now)

    def desired(self, report: Report, ready: int, desired: int, now: float) -> int:
        if self._load is None or self._rate is None:
            self._load, self._rate = Offered(now, report.requests - report.level, self._work), Average(now)
            self._memory = Memory(desired, now)
        self._observe(self._load, report, now)
        signals = Signals(
            busy=report.level > 0,
            concurrency=_averages(self._load, now),
            ready=ready,
            rate=_averages(self._rate, now),
            held=report.held,
            queue_delay=report.oldest,
            gpu_utilization=report.gpu_utilization,
        )
        spec = replace(self._spec, reserve=int(forecast.reserved(self._history, _wall(now))))
        self._memory = decide(spec, signals, replace(self._memory, desired=desired), now).memory
        self._time_start(ready, now)
        return self._memory.desired

    def _observe(self, load: Offered, report: Report, now: float) -> None:
        load.observe(report.in_flight, report.held, report.oldest, report.requests - report.level, now)
        self._work = load.work

    def _time_start(self, ready: int, now: float) -> None:
        if ready and self._woken_at is not None:
            self._start, self._woken_at = now - self._woken_at, None
        elif not ready and self._woken_at is None and self._memory.desired:
            self._woken_at = now

    def forget(self, now: float) -> float | None:
        self._load = self._rate = self._woken_at = None
        return None if self._history is None else now + forecast.wait(self._history, _wall(now))


def _averages(average: Average | Offered, now: float) -> Averages:
    return Averages(average.over(STABLE_WINDOW, now), average.over(PANIC_WINDOW, now))


def _wall(now: float) -> int:
    """Microseconds since the epoch."""
    return round((MONDAY + now) * 1e6)
