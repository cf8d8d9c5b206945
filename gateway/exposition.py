"""What all workers counted, folded for `/metrics` and for analytics (SPEC section 6).

Workers report cumulative counters; here they grow totals by their differences. So nothing goes backwards when a worker
ends (its share stays), when reports are lost (the next one has it all) or when a service is deleted, and a worker that
was replaced counts as a new one. Everything is bounded: services that were quiet the longest are folded into one of
their namespace, workers that ended are forgotten.

Pure but for its clock. prometheus-client only writes the text; its own counters and its multiprocess mode are not used.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.histogram import bucket

# Upper bounds in seconds. A log-spaced bucket that a bound falls into counts as below it: at most 4 % off.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BOUND_BUCKETS: Final = tuple(bucket(bound) for bound in BOUNDS)
_LE: Final = (*map(str, BOUNDS), "+Inf")

SERVICES: Final = 10_000  # services with totals of their own
WORKERS: Final = 4096  # workers whose last counters are remembered
_SILENT: Final = 10.0  # seconds without a report after which a worker's load counts no more
_REPLACED: Final = 60.0  # the same for the last counters of a worker that has a successor

_OWN: Final = {
    "accepted": ("wakegate_connections_accepted", "Client connections accepted."),
    "log_dropped": ("wakegate_access_log_dropped", "Access log lines that could not be written."),
    "spans_dropped": ("wakegate_spans_dropped", "Sampled requests whose spans could not be exported."),
    "reports_failed": ("wakegate_reports_failed", "Worker reports that the store did not take."),
    "wakes_dropped": ("wakegate_wakes_dropped", "Wakes left to the next report."),
}

Counters = dict[str, Any]


@dataclass(slots=True)
class _Worker:
    """The newest report of a worker, and its last counters by service ("" and its own under other keys)."""

    seq: int = 0
    heard: float = 0.0
    connections: int = 0
    loads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    services: dict[str, Counters] = field(default_factory=dict)
    own: Counters = field(default_factory=dict)


class Totals(Collector):
    """`take` every report; `collect` and `expose` give the metrics, `totals_for` one service's counters."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unreadable = 0  # reports that `take` raised on, as its caller counts them
        self._clock = clock
        self._workers: OrderedDict[str, _Worker] = OrderedDict()  # the longest silent first
        self._services: OrderedDict[str, Counters] = OrderedDict()  # the longest quiet first
        self._own: Counters = dict.fromkeys(_OWN, 0)

    def take(self, report: Mapping[str, Any]) -> None:
        """A report as `gateway.reporter` made it; one that is older than what is known is left out.

        Raises KeyError, TypeError, ValueError or AttributeError on what is not a report.
        """
        name, seq = str(report["worker"]), int(report["seq"])
        node, _, number, _ = name.split("/")
        worker = self._workers.get(name) or _Worker()
        if seq <= worker.seq:
            return
        worker.seq, worker.heard, worker.loads = seq, self._clock(), report["services"]
        self._workers[name] = worker
        self._workers.move_to_end(name)
        if "counters" in report:
            self._count(worker, report["counters"])
        self._forget_workers(node, number)

    def totals_for(self, service: str) -> Counters:
        """One service's counters, all workers together: the shape of `Edge.counters()["services"][id]`, {} if none."""
        return _copy(self._services.get(service, {}))

    def expose(self, extra: Iterable[Collector] = ()) -> bytes:
        """The text of `/metrics`, with what other collectors add."""
        registry = CollectorRegistry(auto_describe=False)
        for collector in (self, *extra):
            registry.register(collector)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """SPEC section 6, as far as workers count it, and whatever they had to drop."""
        yield self._requests()
        yield self._histogram("wakegate_request_duration_seconds", "From a request's head to its end.", "duration")
        yield self._histogram("wakegate_hold_seconds", "How long requests were held.", "hold")
        alive = [worker for worker in self._workers.values() if self._clock() - worker.heard < _SILENT]
        yield _gauge("wakegate_in_flight", "Requests at replicas now.", _load(alive, "in_flight"))
        yield _gauge("wakegate_held", "Requests held now.", _load(alive, "held"))
        yield _gauge("wakegate_connections", "Open client connections.", sum(worker.connections for worker in alive))
        yield _gauge("wakegate_workers", "Gateway workers that report.", len(alive))
        yield self._sums("wakegate_upstream_errors", "Failures of replicas by kind.", "error", self._errors())
        yield self._sums("wakegate_bytes", "Bytes from (in) and to (out) clients.", "direction", self._bytes())
        retries = sum(totals.get("retries", 0) for totals in self._services.values())
        yield CounterMetricFamily("wakegate_retries", "Requests sent to another replica.", value=retries)
        yield CounterMetricFamily("wakegate_reports_unreadable", "Reports not understood.", value=self.unreadable)
        for key, (name, text) in _OWN.items():
            yield CounterMetricFamily(name, text, value=self._own[key])

    def _count(self, worker: _Worker, counters: Mapping[str, Any]) -> None:
        worker.connections = int(counters.get("connections", 0))
        own = {key: counters[key] for key in _OWN if key in counters}
        grow(self._own, own, worker.own)
        worker.own = own
        for service, new in counters["services"].items():
            grow(self._services.setdefault(service, {}), new, worker.services.get(service, {}))
            self._services.move_to_end(service)
            worker.services[service] = new
        while len(self._services) > SERVICES:
            self._fold_quietest()

    def _fold_quietest(self) -> None:
        service, totals = self._services.popitem(last=False)
        common = f"*/{totals.get('namespace', '')}"
        if service != common:
            grow(self._services.setdefault(common, {}), totals | {"name": ""}, {})
        else:
            self._services[common] = totals
        self._services.move_to_end(common)

    def _forget_workers(self, node: str, number: str) -> None:
        """Drop the predecessors of a node's worker that have ended, and the longest silent of too many."""
        now = self._clock()
        for name, worker in list(self._workers.items()):
            if now - worker.heard < _REPLACED:
                break
            other_node, _, other_number, _ = name.split("/")
            if (other_node, other_number) == (node, number):
                del self._workers[name]
        while len(self._workers) > WORKERS:
            self._workers.popitem(last=False)

    def _requests(self) -> Metric:
        sums: Counter[tuple[str, str, str]] = Counter()
        for totals in self._services.values():
            for code, count in totals.get("requests", {}).items():
                sums[totals["namespace"], totals["name"], code] += count
        family = CounterMetricFamily(
            "wakegate_requests", "Requests that ended, by status.", labels=["namespace", "service", "code"]
        )
        for labels, count in sums.items():
            family.add_metric(labels, count)
        return family

    def _histogram(self, name: str, text: str, key: str) -> Metric:
        sums: Counter[int] = Counter()
        for totals in self._services.values():
            for index, count in totals.get(key, {}).items():
                sums[int(index)] += count
        seconds = sum(totals.get(f"{key}_sum", 0.0) for totals in self._services.values())
        return HistogramMetricFamily(name, text, buckets=_cumulative(sums), sum_value=seconds)

    def _errors(self) -> Mapping[str, int]:
        sums: Counter[str] = Counter()
        for totals in self._services.values():
            sums.update(totals.get("errors", {}))
        return sums

    def _bytes(self) -> Mapping[str, int]:
        return {way: sum(t.get(f"bytes_{way}", 0) for t in self._services.values()) for way in ("in", "out")}

    @staticmethod
    def _sums(name: str, text: str, label: str, sums: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in sums.items():
            family.add_metric([value], count)
        return family


def grow(totals: Counters, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Add to `totals` what `new` counts beyond `old`; a counter that went back has begun anew. Texts are taken over."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            grow(totals.setdefault(key, {}), value, old.get(key, {}))
        elif isinstance(value, str):
            totals[key] = value
        else:
            before = old.get(key, 0)
            totals[key] = totals.get(key, 0) + (value - before if value >= before else value)


def _copy(counters: Counters) -> Counters:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in counters.items()}


def _load(workers: Iterable[_Worker], key: str) -> int:
    return sum(int(load[key]) for worker in workers for load in worker.loads.values())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _cumulative(histogram: Mapping[int, int]) -> list[tuple[str, float]]:
    """The log-spaced histogram under the fixed bounds, as Prometheus wants it."""
    counts = [0] * len(_LE)
    for index, count in histogram.items():
        place = next((i for i, bound in enumerate(_BOUND_BUCKETS) if index <= bound), len(BOUNDS))
        counts[place] += count
    return list(zip(_LE, accumulate(counts), strict=True))
