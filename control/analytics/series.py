"""From rows to the answer of the API (SPEC section 2, Analytics). Pure.

Of each step and of the whole range:

- `requests`, `errors` (5xx), `bytes_in`, `bytes_out`, `cold_starts`: sums. A request counts when it ends.
- `cold_start_p50_ms`, `cold_start_p95_ms`: of those cold starts, from the wake until the replica was ready;
  `cold_start_phases` has the same of each phase that there was, `first_byte` included.
- `rate`: requests per second of the step.
- `p50_ms`, `p95_ms`, `p99_ms` (from head to end), `hold_p95_ms` (of those that were held): within 2 %, nearest rank.
- `in_flight`, `held` (both looked at each second), `replicas` (ready): means over the step, or over what of it is not
  in the future.
- `gpu_utilization`: percent, the mean over the replicas and over the looks at which any of them was measured (one a
  second); 0 where nothing was.
"""

from __future__ import annotations

from typing import Any, Final

from activator.coldstarts import PHASES
from control.analytics.chunks import Levels, Rows, means
from control.analytics.resolution import Range
from control.contract.times import iso
from state.buckets import Histogram, percentiles
from state.counts import Counts

_PERCENTS: Final = (50, 95, 99)
_DIGITS: Final = 3
_RATE_DIGITS: Final = 6  # one a day is 0.000012


def answer(wanted: Range, rows: Rows, levels: Levels, now: int) -> dict[str, Any]:
    """`rows` of any resolution that fits the steps, `levels` to the present. They are used up."""
    steps: Rows = {}
    total = Counts()
    for at, counts in rows.items():
        if wanted.start <= at < wanted.end:
            total.add(counts)
            start = at // wanted.step * wanted.step
            known = steps.get(start)
            if known is None:
                steps[start] = counts
            else:
                known.add(counts)
    until = max(wanted.start, min(wanted.end, now))
    replicas = means(levels, wanted.start * 1000, until * 1000, wanted.step * 1000) if levels else []
    series = []
    for place, start in enumerate(range(wanted.start, wanted.end, wanted.step)):
        elapsed = min(wanted.step, until - start)
        ready = replicas[place] * wanted.step / elapsed if place < len(replicas) and elapsed > 0 else 0.0
        told = (
            fields(steps[start], wanted.step, elapsed, ready) if start in steps else _IDLE | {"replicas": _round(ready)}
        )
        series.append({"time": iso(start * 1_000_000)} | told)
    whole = wanted.end - wanted.start
    mean = sum(replicas) * wanted.step / (until - wanted.start) if replicas else 0.0
    return {
        "from": iso(wanted.start * 1_000_000),
        "to": iso(wanted.end * 1_000_000),
        "step": wanted.step,
        "totals": fields(total, whole, until - wanted.start, mean),
        "series": series,
    }


def fields(counts: Counts, seconds: int, elapsed: int, replicas: float) -> dict[str, Any]:
    """Of a span of `seconds`, `elapsed` of which are over."""
    passed = max(elapsed, 1) * 1000  # a worker's clock may be ahead of ours
    p50, p95, p99 = percentiles(counts.duration, _PERCENTS)
    (hold,) = percentiles(counts.hold, (95,))
    start_p50, start_p95 = percentiles(counts.starts.get("", {}), (50, 95))
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "rate": round(counts.requests / seconds, _RATE_DIGITS),
        "p50_ms": _round(p50 * 1000),
        "p95_ms": _round(p95 * 1000),
        "p99_ms": _round(p99 * 1000),
        "bytes_in": counts.bytes_in,
        "bytes_out": counts.bytes_out,
        "in_flight": _round(counts.in_flight_ms / passed),
        "held": _round(counts.held_ms / passed),
        "hold_p95_ms": _round(hold * 1000),
        "cold_starts": counts.cold_starts,
        "cold_start_p50_ms": _round(start_p50 * 1000),
        "cold_start_p95_ms": _round(start_p95 * 1000),
        "cold_start_phases": {phase: _phase(counts.starts[phase]) for phase in PHASES if phase in counts.starts},
        "replicas": _round(replicas),
        "gpu_utilization": _round(counts.gpu_hundredths / max(counts.gpu_looks, 1) / 100),
    }


def _phase(seconds: Histogram) -> dict[str, float]:
    p50, p95 = percentiles(seconds, (50, 95))
    return {"p50_ms": _round(p50 * 1000), "p95_ms": _round(p95 * 1000)}


def _round(value: float) -> float:
    return round(value, _DIGITS)


_IDLE: Final = fields(Counts(), 1, 1, 0.0)
