"""What `gateway.exposition` has counted, at one moment, as Prometheus text (SPEC section 6).

Taken on the loop, quickly; it shares nothing with what goes on counting, so that the text, 8,000 lines for 2,000
services, can be written by a thread. prometheus-client writes the small families; its own counters are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import lag
from gateway.histogram import bucket

# Upper bounds in seconds. A log-spaced bucket that a bound falls into counts as below it: at most 4 % off.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BOUND_BUCKETS: Final = tuple(bucket(bound) for bound in BOUNDS)
_LE: Final = (*map(str, BOUNDS), "+Inf")

_GAUGES: Final = {
    "in_flight": ("wakegate_in_flight", "Requests at replicas now."),
    "held": ("wakegate_held", "Requests held now."),
    "connections": ("wakegate_connections", "Open client connections."),
    "slots": ("wakegate_slots_owned", "Requests at once that workers own, of services with concurrency."),
    "workers": ("wakegate_workers", "Gateway workers that report."),
}

# Of all services together.
_SUMS: Final = {
    "retries": ("wakegate_retries", "Requests sent to another replica, or again."),
    "retries_refused": ("wakegate_retries_refused", "Requests not sent again, their budget being spent."),
    "ejections": ("wakegate_ejections", "Failing replicas put out of the choice for a while."),
}

# Of the workers themselves, as they report them.
OWN: Final = {
    "accepted": ("wakegate_connections_accepted", "Client connections accepted."),
    "shed": ("wakegate_connections_shed", "Idle client connections closed to make room for new ones."),
    "slots_recalled": ("wakegate_slots_recalled", "Slots given to another worker where requests waited for them."),
    "slots_unanswered": ("wakegate_slots_unanswered", "Messages about slots that the store did not answer."),
    "upstream_closed": ("wakegate_upstream_connections_shed", "Idle connections to replicas closed, being too many."),
    "log_dropped": ("wakegate_access_log_dropped", "Access log lines that could not be written."),
    "spans_dropped": ("wakegate_spans_dropped", "Sampled requests whose spans could not be exported."),
    "reports_failed": ("wakegate_reports_failed", "Worker reports that the store did not take."),
    "wakes_dropped": ("wakegate_wakes_dropped", "Wakes left to the next report."),
    "first_bytes_dropped": ("wakegate_first_bytes_dropped", "First bytes of cold starts that could not be told."),
}

LAG: Final = ("loop_lag", "loop_lag_sum", "loop_lag_cpu", "loop_lag_cpu_sum")  # theirs, too: `gateway.lag`

# The same, told apart by a label: name, text, label.
_LABELLED: Final = (
    ("wakegate_connections_refused", "Client connections closed at once, being too many.", "limit"),
    ("wakegate_tls_handshakes", "TLS handshakes that were completed.", "kind"),
    ("wakegate_tls_handshake_failures", "TLS handshakes that came to nothing.", "reason"),
    ("wakegate_proxy_protocol", "PROXY protocol headers of trusted peers.", "result"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot(Collector):
    """`requests`: namespace, name, {code: count}; the others as `Totals` has them, and of nobody else."""

    requests: Sequence[tuple[str, str, Mapping[str, int]]]
    sums: Mapping[str, Any]
    own: Mapping[str, Any]
    gauges: Mapping[str, int]
    unreadable: int

    def text(self, others: Iterable[Metric] = ()) -> bytes:
        """The text of `/metrics`, with what others add."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        registry.register(_Ready(others))
        return generate_latest(registry) + "".join(self._requests()).encode()

    def collect(self) -> Iterator[Metric]:
        """All but the requests: SPEC section 6, as far as workers count it, and whatever they had to drop."""
        yield self._histogram("wakegate_request_duration_seconds", "From a request's head to its end.", "duration")
        yield self._histogram("wakegate_hold_seconds", "How long requests were held.", "hold")
        for key, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self.gauges[key])
        yield _family("wakegate_upstream_errors", "Failures of replicas by kind.", "error", self.sums.get("errors", {}))
        ways = {way: self.sums.get(f"bytes_{way}", 0) for way in ("in", "out")}
        yield _family("wakegate_bytes", "Bytes from (in) and to (out) clients.", "direction", ways)
        for key, (name, text) in _SUMS.items():
            yield CounterMetricFamily(name, text, value=self.sums.get(key, 0))
        yield CounterMetricFamily("wakegate_reports_unreadable", "Reports not understood.", value=self.unreadable)
        for key, (name, text) in OWN.items():
            yield CounterMetricFamily(name, text, value=self.own[key])
        for name, text, label in _LABELLED:
            yield _family(name, text, label, self.own.get(name, {}))
        yield self._lag()

    def _requests(self) -> Iterator[str]:
        """The lines of the one family that has thousands, without the library's objects for each: going through those,
        the garbage collector stopped all threads for up to 125 ms."""
        sums: Counter[tuple[str, str, str]] = Counter()
        for namespace, name, codes in self.requests:
            for code, count in codes.items():
                sums[namespace, name, code] += count
        yield "# HELP wakegate_requests_total Requests that ended, by status.\n"
        yield "# TYPE wakegate_requests_total counter\n"
        for (namespace, name, code), count in sums.items():
            labels = f'code="{code}",namespace="{namespace}",service="{name}"'  # their letters need no escaping
            yield f"wakegate_requests_total{{{labels}}} {float(count)}\n"

    def _histogram(self, name: str, text: str, key: str) -> Metric:
        buckets = _cumulative(self.sums.get(key, {}))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.sums.get(f"{key}_sum", 0.0))

    def _lag(self) -> Metric:
        family = HistogramMetricFamily(
            "wakegate_loop_lag_seconds", "How late the loops of workers are.", labels=["clock"]
        )
        for clock, key in (("wall", "loop_lag"), ("cpu", "loop_lag_cpu")):
            counts = self.own.get(key, {})
            each = [counts.get(str(index), 0) for index in range(len(lag.BOUNDS) + 1)]
            buckets = zip([*map(str, lag.BOUNDS), "+Inf"], accumulate(each), strict=True)
            family.add_metric([clock], list(buckets), self.own.get(f"{key}_sum", 0.0))
        return family


class _Ready(Collector):
    """Families that somebody else has collected."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def labelled(counters: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Of a worker's report: the counters that are told apart by a label, as far as there are any."""
    refused = {"worker": "refused_full", "address": "refused_address"}
    yield "wakegate_connections_refused", {label: counters.get(key, 0) for label, key in refused.items()}
    if tls := counters.get("tls"):
        kinds = {"full": tls["handshakes"] - tls["resumed"], "resumed": tls["resumed"], "acme": tls.get("proved", 0)}
        yield "wakegate_tls_handshakes", kinds
        yield "wakegate_tls_handshake_failures", tls["failed"]
    if proxied := counters.get("proxy_protocol"):
        yield "wakegate_proxy_protocol", {result: proxied[result] for result in ("read", "malformed")}


def _family(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _cumulative(histogram: Mapping[str, int]) -> list[tuple[str, float]]:
    """The log-spaced histogram under the fixed bounds, as Prometheus wants it."""
    counts = [0] * len(_LE)
    for index, count in histogram.items():
        place = next((i for i, bound in enumerate(_BOUND_BUCKETS) if int(index) <= bound), len(BOUNDS))
        counts[place] += count
    return list(zip(_LE, accumulate(counts), strict=True))
