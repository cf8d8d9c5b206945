"""`/metrics`: what the workers counted (`gateway.exposition`) beside what control itself knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from activator.activation import Activation
from activator.coldstarts import BUCKETS, Histogram
from gateway.exposition import Totals


class Metrics:
    """`report` takes every report of a worker as it came; `exposition` is what a scrape gets."""

    def __init__(self) -> None:
        self._totals = Totals()

    def report(self, data: bytes) -> None:
        """Never raises: one that can't be understood is counted."""
        try:
            self._totals.take(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._totals.unreadable += 1

    def exposition(self, activation: Activation) -> tuple[bytes, str]:
        """The text, and its content type."""
        return self._totals.expose([_Control(activation)]), CONTENT_TYPE_LATEST


class _Control(Collector):
    """Replicas by state, and cold starts by phase."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation

    def collect(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily("wakegate_replicas", "Replicas of all services by state.", labels=["state"])
        for state, count in self._activation.catalog.counts().items():
            replicas.add_metric([state.value], count)
        yield replicas
        starts = self._activation.cold_starts
        yield CounterMetricFamily("wakegate_cold_starts", "Wakes from zero replicas.", value=starts.total)
        seconds = HistogramMetricFamily(
            "wakegate_cold_start_seconds", "Seconds of cold starts by phase.", labels=["phase"]
        )
        for phase, histogram in starts.seconds.items():
            seconds.add_metric([phase], _cumulative(histogram), histogram.total)
        yield seconds


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
