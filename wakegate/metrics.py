"""`/metrics`: what the workers counted (`gateway.exposition`) beside what control itself knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from activator.branches import Branches
from activator.coldstarts import BUCKETS, ColdStarts, Histogram
from activator.journal import Journal
from activator.logs import Collector
from activator.views import Catalog
from certs.issuer import Issuer
from certs.verifier import Verifier
from control.analytics.collector import Analytics
from control.door import Door
from control.pushes.hooks import Hooks
from control.streaming.streams import Streams
from gateway.exposition import Totals
from wakegate.counters import CountersFile, Kept


class Metrics:
    """`report` takes every report of a worker as it came; `exposition` is what a scrape gets.

    What workers counted, and the `cold_starts` of this node, go on from what `file` has. Reads it, which is file work.
    """

    def __init__(self, file: CountersFile) -> None:
        self._totals = Totals()
        self._file = file
        self._showing = asyncio.Lock()  # what is shown is on the disk first, one scrape after the other
        self.cold_starts = ColdStarts()
        if (kept := file.read()) is not None:
            self._totals.restore(kept.traffic)
            self._restore_starts(kept.cold_starts)

    def _restore_starts(self, state: Mapping[str, Any] | None) -> None:
        try:
            if state is not None:
                self.cold_starts.restore(state)
        except (ValueError, TypeError, KeyError):
            self.cold_starts = ColdStarts()  # of a version with other buckets

    def _kept(self) -> Kept:
        return Kept(self._totals.state(), self.cold_starts.state())

    def report(self, data: bytes) -> None:
        """Never raises: one that can't be understood is counted."""
        try:
            self._totals.take(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._totals.unreadable += 1

    async def exposition(
        self, catalog: Catalog, certificates: Mapping[str, float], more: Iterable[Metric] = ()
    ) -> tuple[bytes, str]:
        """The text, and its content type. A thread writes it: with thousands of services it would stop the loop.

        `certificates`: by name, the seconds that they last. `more` goes along.
        """
        async with self._showing:
            others = [*_of_control(catalog, self.cold_starts), _of_certificates(certificates), *more]
            snapshot, kept = self._totals.snapshot(), self._kept()
            await asyncio.to_thread(self._file.write, kept)
        return await asyncio.to_thread(snapshot.text, others), CONTENT_TYPE_LATEST

    async def close(self) -> None:
        """What was counted since the last scrape is kept, too."""
        async with self._showing:
            await asyncio.to_thread(self._file.write, self._kept())


def _of_control(catalog: Catalog, starts: ColdStarts) -> Iterator[Metric]:
    """Replicas by state, and cold starts by phase."""
    replicas = GaugeMetricFamily("wakegate_replicas", "Replicas of all services by state.", labels=["state"])
    for state, count in catalog.counts().items():
        replicas.add_metric([state.value], count)
    yield replicas
    yield CounterMetricFamily("wakegate_cold_starts", "Starts that ended a wake.", value=starts.total)
    seconds = HistogramMetricFamily("wakegate_cold_start_seconds", "Seconds of cold starts by phase.", labels=["phase"])
    for phase, histogram in starts.seconds.items():
        seconds.add_metric([phase], _cumulative(histogram), histogram.total)
    yield seconds
    text = "Seconds of cold starts from the wake until the replica was ready."
    buckets, sum_value = _cumulative(starts.whole), starts.whole.total
    yield HistogramMetricFamily("wakegate_cold_start_total_seconds", text, buckets=buckets, sum_value=sum_value)
    text = "Starts that were to end a wake and came to nothing, by the phase that they failed in."
    failures = CounterMetricFamily("wakegate_cold_start_failures", text, labels=["phase"])
    for phase, count in starts.failures.items():
        failures.add_metric([phase], count)
    yield failures


def _of_certificates(left: Mapping[str, float]) -> Metric:
    seconds = GaugeMetricFamily(
        "wakegate_certificate_expiry_seconds", "Seconds until a certificate ends.", labels=["domain"]
    )
    for name, until in left.items():
        seconds.add_metric([name], until)
    return seconds


def of_orders(issuer: Issuer) -> Metric:
    """What became of orders of certificates: issued, renewed, or why not."""
    text = "Orders of certificates by result: issued, renewed, or the reason why not."
    orders = CounterMetricFamily("wakegate_acme_orders", text, labels=["result"])
    for result, count in issuer.counts.items():
        orders.add_metric([result], count)
    return orders


def of_domains(verifier: Verifier) -> Iterator[Metric]:
    """Looks at what DNS says of custom domains, and what came of them."""
    counts = verifier.counts
    checks = CounterMetricFamily("wakegate_domain_checks", "Looks at custom domains by result.", labels=["result"])
    checks.add_metric(["answered"], counts.checks - counts.unanswered)
    checks.add_metric(["unanswered"], counts.unanswered)
    yield checks
    changes = CounterMetricFamily("wakegate_domain_changes", "What became of custom domains.", labels=["change"])
    for change, count in (("verified", counts.verified), ("demoted", counts.demotions), ("moved", counts.moves)):
        changes.add_metric([change], count)
    yield changes


def of_telling(streams: Streams, collector: Collector, journal: Journal) -> Iterator[Metric]:
    """What tenants are told, and what was lost of it."""
    large, refused = streams.sending, streams.places.refused
    yield GaugeMetricFamily("wakegate_streams", "Clients that follow logs or events.", value=streams.count)
    for name, text, count in (
        ("wakegate_streams_refused", "Streams that were refused: too many of a key, a namespace, or in all.", refused),
        ("wakegate_streams_cut", "Streams that were cut: their clients did not take what was sent.", streams.dropped),
        ("wakegate_large_answers_refused", "Large answers that were refused: too much on its way.", large.refused),
        ("wakegate_large_answers_cut", "Answers that were cut: their clients did not take them.", large.cut),
        (
            "wakegate_log_dropped_bytes",
            "Output of replicas that was written faster than it is kept.",
            collector.dropped,
        ),
        ("wakegate_events_dropped", "Events of services that were lost while the store was gone.", journal.dropped),
    ):
        yield CounterMetricFamily(name, text, value=count)


def of_the_door(door: Door) -> Iterator[Metric]:
    """Requests to the API that were refused, or let through without their quota being known."""
    for name, text, count in (
        ("wakegate_api_unauthorized", "Requests to the API without a valid key.", door.failures.total),
        ("wakegate_api_limited", "Requests to the API beyond the quota of their key.", door.limit.refused),
        (
            "wakegate_api_unlimited",
            "Requests to the API that were let through, since the store did not tell their key's quota.",
            door.limit.unlimited,
        ),
        (
            "wakegate_idempotent_answers_evicted",
            "Answers to requests with an Idempotency-Key that were forgotten early: their tenant had too many.",
            door.idempotency.evicted,
        ),
    ):
        yield CounterMetricFamily(name, text, value=count)


def of_pushes(hooks: Hooks, branches: Branches) -> Iterator[Metric]:
    """How this node learnt of pushes."""
    deliveries = CounterMetricFamily("wakegate_webhooks", "Deliveries of webhooks by result.", labels=["result"])
    for result, count in hooks.counts.items():
        deliveries.add_metric([result], count)
    yield deliveries
    looks = CounterMetricFamily("wakegate_branch_looks", "Looks at the branches of repositories.", labels=["result"])
    looks.add_metric(["seen"], branches.looks - branches.failures)
    looks.add_metric(["failed"], branches.failures)
    yield looks


def of_the_agent(faults: Mapping[str, int]) -> Iterator[Metric]:
    """What nobody foresaw in looking after this node's replicas."""
    text = "Errors that nobody foresaw in looking after replicas and builds; what they ended is tried again."
    met = CounterMetricFamily("wakegate_agent_faults", text, labels=["at"])
    for at, count in faults.items():
        met.add_metric([at], count)
    yield met


def of_the_gpus(catalog: Catalog, percent: Mapping[str, float], failures: Mapping[str, int]) -> Iterator[Metric]:
    """How busy the GPUs of services are, by id, and how often this node could not measure its own, by source."""
    text = "Mean utilization of the GPUs of a service's ready replicas, where it is measured."
    busy = GaugeMetricFamily("wakegate_gpu_utilization_ratio", text, labels=["namespace", "service"])
    for service_id, value in percent.items():
        service = catalog.service(service_id)
        if service is not None:
            busy.add_metric([service.namespace, service.name], value / 100)
    yield busy
    text = "Looks at a source of GPU utilization that failed."
    failed = CounterMetricFamily("wakegate_gpu_reads_failed", text, labels=["source"])
    for source, count in failures.items():
        failed.add_metric([source], count)
    yield failed


def of_analytics(analytics: Analytics) -> Iterator[Metric]:
    """What is missing in analytics."""
    text = "Windows of workers, lines and changes of replicas that analytics lost."
    yield CounterMetricFamily("wakegate_analytics_dropped", text, value=analytics.dropped)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
