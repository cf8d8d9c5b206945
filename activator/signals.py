"""What the autoscaler is told of a service, and how many replicas each signal asks for. Pure (law 5).

- Concurrency: what is in flight and held, averaged (`activator.offered`), divided by the target per replica.
- Rate (opt-in): requests per second, averaged, divided by the target per replica.
- Queue delay (opt-in): the replicas that are ready, times delay over target, but no more than take all who are held.
- GPU utilization: the formula of Kubernetes' HorizontalPodAutoscaler, ceil(replicas * value / target), of a service
  that is busy. It alone never keeps a replica of an idle one.

What is `None` was not measured or has no target, and asks for nothing.
Source of the formula: Kubernetes, "Horizontal Pod Autoscaling", algorithm details; `replica_calculator.go`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STABLE_WINDOW: Final = 60.0
PANIC_WINDOW: Final = 6.0
UTILIZATION: Final = 0.7  # of a hard limit on requests at once, unless its owner says another target
TOLERANCE: Final = 0.1  # a GPU utilization that is off its target by less changes nothing


@dataclass(frozen=True, slots=True)
class Spec:
    """What the owner asked for. Targets are per replica, times in seconds.

    `target_concurrency`: requests at once; `target_rate`: requests per second; `target_queue_delay`: for how long a
    request may be held; `target_gpu_utilization`: percent. `reserve`: so many are kept as well, because requests are
    expected (`activator.forecast`).
    """

    min_replicas: int
    max_replicas: int
    target_concurrency: float
    scale_down_delay: float
    idle_timeout: float
    target_rate: float | None = None
    target_queue_delay: float | None = None
    target_gpu_utilization: float | None = None
    reserve: int = 0

    @property
    def least(self) -> int:
        """Replicas that it has without any request."""
        return min(self.max_replicas, max(self.min_replicas, self.reserve))


def concurrency_per_replica(target: int, limit: int) -> float:
    """Requests at once that a replica is asked for, below its hard limit (0 = none): as many as its owner says, else a
    share of the limit, because replicas that are full let every burst wait. One request alone never asks for two."""
    return target if limit == 0 or target < limit else max(1.0, UTILIZATION * limit)


@dataclass(frozen=True, slots=True)
class Averages:
    """A level of the whole service, averaged over both windows."""

    stable: float = 0.0  # over STABLE_WINDOW
    panic: float = 0.0  # over PANIC_WINDOW


@dataclass(frozen=True, slots=True)
class Signals:
    """`busy`: anything in flight or held now. `complete`: every registered worker has been heard.

    `concurrency`: requests in flight, and held as far as they need a place. `rate`: requests per second. `queue_delay`:
    seconds, the larger of how long the oldest request has been held and of the smoothed wait of those that were let
    through; `held`: how many are held now. `gpu_utilization`: percent, the mean over the replicas that are ready.
    """

    busy: bool
    concurrency: Averages
    ready: int
    complete: bool = True
    rate: Averages | None = None
    held: int = 0
    queue_delay: float | None = None
    gpu_utilization: float | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """So many replicas, because of that."""

    count: int
    reason: str


def wanted(spec: Spec, signals: Signals, desired: int) -> Want:
    """The largest count that a signal asks for, where `desired` replicas were asked for last; the first of equals."""
    return max(_all(spec, signals, desired), key=lambda want: want.count)


def urgent(spec: Spec, signals: Signals) -> Want:
    """The same of what is averaged, over the short window."""
    return max(_averaged(spec, signals, urgently=True), key=lambda want: want.count)


def _all(spec: Spec, signals: Signals, desired: int) -> Iterator[Want]:
    yield from _averaged(spec, signals, urgently=False)
    if spec.target_queue_delay is not None and signals.queue_delay is not None:
        useful = signals.ready + _ceil(signals.held / spec.target_concurrency)
        count = by_queue_delay(signals.queue_delay, spec.target_queue_delay, signals.ready, useful)
        yield Want(count, f"requests are held for {signals.queue_delay:.1f} s")
    if spec.target_gpu_utilization is not None and signals.gpu_utilization is not None and signals.busy:
        reason = f"GPU utilization is {signals.gpu_utilization:.0f} %, its target {spec.target_gpu_utilization:.0f} %"
        yield Want(by_utilization(signals.gpu_utilization, spec.target_gpu_utilization, signals.ready, desired), reason)


def _averaged(spec: Spec, signals: Signals, *, urgently: bool) -> Iterator[Want]:
    window = PANIC_WINDOW if urgently else STABLE_WINDOW
    level = signals.concurrency.panic if urgently else signals.concurrency.stable
    yield Want(_ceil(level / spec.target_concurrency), f"{level:.1f} requests at once over {window:.0f} s")
    if spec.target_rate is not None and signals.rate is not None:
        rate = signals.rate.panic if urgently else signals.rate.stable
        yield Want(_ceil(rate / spec.target_rate), f"{rate:.1f} requests per second over {window:.0f} s")


def by_queue_delay(delay: float, target: float, ready: int, useful: int) -> int:
    """How many replicas bring a delay to its target: ceil(ready * delay / target), but never more than `useful`.

    A delay grows for as long as replicas start, which calls for no more of them than take all who are held.
    """
    return min(_ceil(max(1, ready) * delay / target), useful)


def by_utilization(value: float, target: float, ready: int, desired: int) -> int:
    """How many replicas bring a mean utilization of `value` percent to `target`: ceil(ready * value / target).

    Replicas that were asked for and are not ready yet count as idle where more seem to be needed, so that a slow start
    does not call for more and more of them. Near the target nothing changes; a target near 100 %, which no value could
    exceed by the tolerance, has half of what is left as its tolerance upwards.
    """
    now = max(ready, desired)
    upwards = 1 + min(TOLERANCE, (100 / target - 1) / 2)
    ratio = value / target
    if ratio > 1:
        return max(now, _ceil(ready * ratio)) if ratio * ready > upwards * now else now
    return _ceil(ready * ratio) if ratio < 1 - TOLERANCE else now


def _ceil(count: float) -> int:
    # an average of a level that was whole is never meaningfully above it by a billionth
    return math.ceil(count - 1e-9)
