"""What all workers counted, folded for `/metrics` and for analytics (SPEC section 6).

Workers report cumulative counters; here they grow totals by their differences. So nothing goes backwards when a worker
ends (its share stays), when reports are lost (the next one has it all) or when a service is deleted, and a worker that
was replaced counts as a new one. Everything is bounded: services that were quiet the longest are folded into one of
their namespace, workers that ended are forgotten. By a `State` totals go on after a restart of control: nothing falls,
and nothing is counted twice.

Pure but for its clock. What a scrape gets is a `gateway.snapshot.Snapshot`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.core import Metric

from gateway.snapshot import LAG, OWN, Snapshot, labelled

SERVICES: Final = 10_000  # services with totals of their own
WORKERS: Final = 4096  # workers whose last counters are remembered
_SILENT: Final = 10.0  # seconds without a report after which a worker's load counts no more
_REPLACED: Final = 60.0  # the same for the last counters of a worker that has a successor
_OF_EACH: Final = ("namespace", "name", "requests")  # what is told of each service, and not of all together

Counters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """`requests` by service and code. `sums`: what all its services together have counted of everything else."""

    name: str
    seq: int
    own: Counters
    sums: Counters
    requests: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class State:
    """All that totals go on from. `services`: id, namespace, name and requests by code, the longest quiet first."""

    services: Sequence[tuple[str, str, str, Mapping[str, int]]]
    sums: Counters
    own: Counters
    workers: Sequence[WorkerState]


@dataclass(slots=True)
class _Worker:
    """The newest report of a worker, its last counters by service, and the sum of them but for the requests.

    `owed`: of the sum, what is in the totals since before a restart; the services that it is of are told anew. `seen`:
    since then, it has reported.
    """

    seq: int = 0
    heard: float = 0.0
    seen: bool = False
    connections: int = 0
    slots: int = 0
    loads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    services: dict[str, Counters] = field(default_factory=dict)
    own: Counters = field(default_factory=dict)
    sums: Counters = field(default_factory=dict)
    owed: Counters = field(default_factory=dict)


class Totals:
    """`take` every report; `snapshot` and `expose` give the metrics, `requests_of` those of one service by code."""

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
        worker.seq, worker.heard, worker.loads, worker.seen = seq, self._clock(), report["services"], True
        self._workers[name] = worker
        self._workers.move_to_end(name)
        if "counters" in report:
            self._count(worker, report["counters"])
        self._forget_workers(node, number)

    def requests_of(self, service: str) -> dict[str, int]:
        """One service's requests by code, all workers together."""
        return dict(self._services.get(service, {}).get("requests", {}))

    def state(self) -> State:
        """What `restore` goes on from; it shares nothing that changes."""
        return State(
            [(i, one["namespace"], one["name"], dict(one.get("requests", {}))) for i, one in self._services.items()],
            _copy(self._sums),
            _copy(self._own),
            [
                WorkerState(
                    name, w.seq, w.own, _copy(w.sums), {i: c.get("requests", {}) for i, c in w.services.items()}
                )
                for name, w in self._workers.items()
            ],
        )

    def restore(self, state: State) -> None:
        """Go on from there; of totals that have taken nothing yet."""
        for service, namespace, name, requests in state.services:
            self._services[service] = {"namespace": namespace, "name": name, "requests": dict(requests)}
        self._sums = _copy(state.sums)
        self._own |= _copy(state.own)
        for known in state.workers:
            services: dict[str, Counters] = {i: {"requests": requests} for i, requests in known.requests.items()}
            sums, owed = _copy(known.sums), _copy(known.sums)
            self._workers[known.name] = _Worker(
                known.seq, self._clock(), own=known.own, services=services, sums=sums, owed=owed
            )

    def expose(self, others: Iterable[Metric] = ()) -> bytes:
        """The text of `/metrics`, with what others add. With thousands of services it takes a while: see `Snapshot`."""
        return self.snapshot().text(others)

    def snapshot(self) -> Snapshot:
        """All of it, now."""
        now = self._clock()
        alive = [worker for worker in self._workers.values() if worker.seen and now - worker.heard < _SILENT]
        return Snapshot(
            [(one["namespace"], one["name"], dict(one.get("requests", {}))) for one in self._services.values()],
            _copy(self._sums),
            _copy(self._own),
            {
                "in_flight": _load(alive, "in_flight"),
                "held": _load(alive, "held"),
                "connections": sum(worker.connections for worker in alive),
                "slots": sum(worker.slots for worker in alive),
                "workers": len(alive),
            },
            self.unreadable,
        )

    def _count(self, worker: _Worker, counters: Mapping[str, Any]) -> None:
        worker.connections = int(counters.get("connections", 0))
        worker.slots = int(counters.get("slots", 0))
        own = {key: counters[key] for key in (*OWN, *LAG) if key in counters} | dict(labelled(counters))
        grow(self._own, own, worker.own)
        worker.own = own
        for service, new in counters["services"].items():
            more = _beyond(new, worker.services.get(service, {}))
            _add(self._services.setdefault(service, {}), {key: more[key] for key in _OF_EACH if key in more})
            self._services.move_to_end(service)
            rest = {key: value for key, value in more.items() if key not in _OF_EACH}
            if worker.owed:
                rest = _paid(worker.owed, rest)
            _add(worker.sums, rest)
            _add(self._sums, rest)
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


def _paid(owed: Counters, more: Counters) -> Counters:
    """What is left of `more` once it has paid what is `owed`, of which only the rest stays."""
    left: Counters = {}
    for key, value in more.items():
        debt = owed.pop(key, None)
        if not debt:
            left[key] = value
        elif isinstance(value, dict):
            left[key] = _paid(debt, value)
            if debt:
                owed[key] = debt
        else:
            left[key] = max(0, value - debt)
            if debt > value:
                owed[key] = debt - value
    return left


def _copy(counters: Counters) -> Counters:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in counters.items()}


def _load(workers: Iterable[_Worker], key: str) -> int:
    return sum(int(load[key]) for worker in workers for load in worker.loads.values())
