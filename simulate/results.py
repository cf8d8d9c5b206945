"""What became of a trace under an algorithm, in a row of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulate.world import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """Waits in seconds, of all answered requests: who was not held has waited 0."""

    policy: str
    requests: int
    held: float  # share of those answered that waited at all
    p50: float
    p95: float
    p99: float
    longest: float
    failed: int
    cold_starts: int
    starts: int
    changes: int
    replica_seconds: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def row(policy: str, outcomes: Sequence[Outcome]) -> Row:
    """The figures of one or many services together."""
    waits = sorted(wait for outcome in outcomes for wait in outcome.waits)
    failed = sum(outcome.failed for outcome in outcomes)
    return Row(
        policy,
        len(waits) + failed,
        sum(wait > 0 for wait in waits) / max(1, len(waits)),
        percentile(waits, 0.50),
        percentile(waits, 0.95),
        percentile(waits, 0.99),
        waits[-1] if waits else 0.0,
        failed,
        sum(outcome.cold_starts for outcome in outcomes),
        sum(outcome.starts for outcome in outcomes),
        sum(outcome.changes for outcome in outcomes),
        sum(outcome.replica_seconds for outcome in outcomes),
    )
