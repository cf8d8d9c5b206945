"""The shapes of what analytics answer, as types (see `control.contract.shapes`)."""

from __future__ import annotations

from typing_extensions import TypedDict

from control.contract.shapes import Count, Time


class TrafficView(TypedDict):
    """Of a span of time. `rate`: requests a second; `in_flight`, `held`, `replicas`: means; `errors`: 5xx."""

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
