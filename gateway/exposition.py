"""What all workers counted, folded for `/metrics` and for analytics (SPEC section 6).

Workers report cumulative counters; here they grow totals by their differences. So nothing goes backwards when a worker
ends (its share stays), when reports are lost (the next one has it all) or when a service is deleted, and a worker that
was replaced counts as a new one. Everything is bounded: services that were quiet the longest are folded into one of
their namespace, workers that ended are forgotten.

Pure but for its clock. What a scrape gets is a `gateway.snapshot.Snapshot`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.core import Metric

from gateway.snapshot import OWN, Snapshot, labelled

SERVICES: Final = 10_000  # services with totals of their own
WORKERS: Final = 4096  # workers whose last counters are remembered
_SILENT: Final = 10.0  # seconds without a report after which a worker's load counts no more
_REPLACED: Final = 60.0  # the same for the last counters of a worker that has a successor

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


class Totals:
    """`take` every report; `snapshot` and `expose` give the metrics, `totals_for` one service's counters."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unreadable = 0  # reports that `take` raised on, as its caller counts them
        self._clock = clock
        self._workers: OrderedDict[str, _Worker] = OrderedDict()  # the longest silent first
        self._services: OrderedDict[str, Counters] = OrderedDict()  # the longest quiet first
        self._sums: Counters = {}  # all services together, also those that are no more
        self._own: Counters = dict.fromkeys(OWN, 0)

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

    def expose(self, others: Iterable[Metric] = ()) -> bytes:
        """The text of `/metrics`, with what others add. With thousands of services it takes a while: see `Snapshot`."""
        return self.snapshot().text(others)

    def snapshot(self) -> Snapshot:
        """All of it, now."""
        alive = [worker for worker in self._workers.values() if self._clock() - worker.heard < _SILENT]
        return Snapshot(
            [(one["namespace"], one["name"], dict(one.get("requests", {}))) for one in self._services.values()],
            _copy(self._sums),
            _copy(self._own),
            {
                "in_flight": _load(alive, "in_flight"),
                "held": _load(alive, "held"),
                "connections": sum(worker.connections for worker in alive),
                "workers": len(alive),
            },
            self.unreadable,
        )

    def _count(self, worker: _Worker, counters: Mapping[str, Any]) -> None:
        worker.connections = int(counters.get("connections", 0))
        own = {key: counters[key] for key in OWN if key in counters} | dict(labelled(counters))
        grow(self._own, own, worker.own)
        worker.own = own
        for service, new in counters["services"].items():
            more = _beyond(new, worker.services.get(service, {}))
            _add(self._services.setdefault(service, {}), more)
            _add(self._sums, {key: value for key, value in more.items() if not isinstance(value, str)})
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


def grow(totals: Counters, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Add to `totals` what `new` counts beyond `old`; a counter that went back has begun anew. Texts are taken over."""
    _add(totals, _beyond(new, old))


def _beyond(new: Mapping[str, Any], old: Mapping[str, Any]) -> Counters:
    """What `new` counts beyond `old`: texts, and of numbers those that differ. Most of a histogram does not."""
    more: Counters = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping):
            if value != before:
                more[key] = _changed(value, before or {})
        elif isinstance(value, str):
            more[key] = value
        elif value != before:
            more[key] = _more(value, before or 0)
    return more


def _changed(new: Mapping[str, float], old: Mapping[str, float]) -> Counters:
    return {key: _more(value, old.get(key, 0)) for key, value in new.items() - old.items()}


def _more(now: float, before: float) -> float:
    return now - before if now >= before else now


def _add(totals: Counters, more: Counters) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            inner = totals.setdefault(key, {})
            for name, number in value.items():
                inner[name] = inner.get(name, 0) + number
        elif isinstance(value, str):
            totals[key] = value
        else:
            totals[key] = totals.get(key, 0) + value


def _copy(counters: Counters) -> Counters:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in counters.items()}


def _load(workers: Iterable[_Worker], key: str) -> int:
    return sum(int(load[key]) for worker in workers for load in worker.loads.values())
