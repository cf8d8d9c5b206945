"""The algorithm of Knative's autoscaler (KPA), written anew, with its defaults, in the same simulated world.

Source: knative/serving, `pkg/autoscaler/scaling/autoscaler.go` (Scale), `pkg/autoscaler/aggregation/bucketing.go`
(averages over buckets of a second since the first write), `config/core/configmaps/autoscaler.yaml` (defaults). The last
replica goes after a stable window without traffic and the grace period for scaling to zero, its upper bound.

It is given what it would need: exact means over each second, and one waiting room before all replicas, which Knative
has while its activator is in the path.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from simulate.policies import Report


@dataclass(frozen=True, slots=True)
class Config:
    """Seconds; rates are factors per look."""

    concurrency: int
    max_replicas: int
    utilization: float = 0.7  # of the concurrency is the target
    stable_window: int = 60
    panic_window: int = 6
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_to_zero_grace: float = 30.0


class Knative:
    """One revision's decider."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._buckets: deque[float] = deque(maxlen=config.stable_window)
        self._panic_at: float | None = None
        self._most = 0
        self._inactive_since: float | None = None

    def hear(self, report: Report, now: float) -> None:
        self._buckets.append(report.mean)

    def forget(self, now: float) -> float | None:
        """Old buckets end with the window; so does a panic, with the replicas."""
        self._buckets.clear()
        self._panic_at, self._most, self._inactive_since = None, 0, None
        return None

    def desired(self, report: Report, ready: int, desired: int, now: float) -> int:
        if not self._buckets:  # the activator tells of the first request at once
            return max(desired, 1) if report.level else desired
        wanted = self._scale(ready, now)
        if wanted > 0:
            self._inactive_since = None
        elif self._inactive_since is None:
            self._inactive_since = now
        if wanted == 0 and desired > 0:
            return 0 if now - (self._inactive_since or now) >= self._config.scale_to_zero_grace else 1
        if wanted == 0 and report.level:
            return 1
        return min(wanted, self._config.max_replicas)

    def _scale(self, ready: int, now: float) -> int:
        config = self._config
        target = config.utilization * config.concurrency
        stable = self._count(config.stable_window, target, ready)
        panic = self._count(config.panic_window, target, ready)
        over = math.ceil(self._mean(config.panic_window) / target) / max(1, ready) >= config.panic_threshold
        if over:
            self._panic_at = now
        elif self._panic_at is not None and self._panic_at + config.stable_window < now:
            self._panic_at, self._most = None, 0
        if self._panic_at is None:
            return stable
        self._most = max(self._most, stable, panic)
        return self._most

    def _count(self, window: int, target: float, ready: int) -> int:
        ready = max(1, ready)
        most = math.ceil(self._config.max_scale_up_rate * ready)
        least = math.floor(ready / self._config.max_scale_down_rate)
        return min(max(math.ceil(self._mean(window) / target), least), most)

    def _mean(self, window: int) -> float:
        recent = list(self._buckets)[-window:]
        return sum(recent) / len(recent)
