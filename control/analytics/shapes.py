"""The shapes of what analytics answer, as types (see `control.contract.shapes`)."""

from __future__ import annotations

from typing_extensions import TypedDict

from control.contract.shapes import Count, Time


class PhaseFigures(TypedDict):
    """Of one phase of the cold starts of a span of time."""

    p50_ms: float
    p95_ms: float


class TrafficView(TypedDict):
    """Of a span of time. `rate`: requests a second; `in_flight`, `held`, `replicas`: means; `errors`: 5xx.

    `cold_start_phases`: by phase, `decide`, `schedule`, `fetch`, `start`, `ready`, `first_byte`; those that there were.
    """

    requests: Count
    errors: Count
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    bytes_in: Count
    bytes_out: Count
    in_flight: float
    held: float
    hold_p95_ms: float
    cold_starts: Count
    cold_start_p50_ms: float
    cold_start_p95_ms: float
    cold_start_phases: dict[str, PhaseFigures]
    replicas: float
    gpu_utilization: float


class TrafficStep(TrafficView):
    """`time`: when the step begins."""

    time: Time


# `from` is no name that a class can give to a field
AnalyticsView = TypedDict(
    "AnalyticsView",
    {"from": Time, "to": Time, "step": Count, "totals": TrafficView, "series": list[TrafficStep]},
)
