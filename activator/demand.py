"""What the workers report, as levels: what is in flight, what is held, and which revision each has applied.

Laws kept here: 2 (a report replaces the one before; a missing report is not an idle one: the last one of a worker
counts for as long as it is registered; a wake only hurries what the next report would say) and 3 (drained = one report
with the revision, of the store's present run, and nothing in flight). Pure: time is an argument, monotonic seconds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from activator.traffic import Had, Traffic, had

NEWBORN: Final = 3  # reports: who has sent no more when he is first heard began while we listened
HINT_SECONDS: Final = 2.5  # a wake counts for no longer, whatever happens to the reports
HINT_AT_LEAST: Final = 0.25  # a report on its way at the same time must not take it back unseen

HINTS_SWEPT: Final = 1000


class MalformedReport(ValueError):
    """The message is no report."""


@dataclass(frozen=True, slots=True)
class Load:
    """Of one service: requests in flight and held, and those in flight by replica.

    `oldest`: seconds for which the request that waits longest has been held.
    """

    in_flight: int = 0
    held: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    oldest: float = 0.0

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or self.held > 0


IDLE: Final = Load()


@dataclass(frozen=True, slots=True)
class Report:
    """The newest message of one worker; services that it left out are idle.

    `traffic`: what each service has had from this worker so far, `ejections`: how often that left a replica of it out
    of its choice; None = this report doesn't count them. `first_bytes`: by replica, microseconds from its readiness to
    the first byte for somebody who was held for its start; each is told several times.
    """

    worker: str
    seq: int
    run_id: str
    revision: int
    services: Mapping[str, Load]
    traffic: Mapping[str, Had] | None = None
    last: bool = False  # it serves nobody any more, and ends
    ejections: Mapping[str, int] | None = None
    first_bytes: Mapping[str, int] = field(default_factory=dict)


def parse(data: bytes) -> Report:
    """Raises MalformedReport."""
    try:
        raw: Any = json.loads(data)
        services = {
            service: Load(
                int(load["in_flight"]),
                int(load["held"]),
                {r: int(n) for r, n in load["replicas"].items()},
                float(load["held_ms"]) / 1000,
            )
            for service, load in raw["services"].items()
        }
        worker, run_id = str(raw["worker"]), str(raw["run_id"])
        return Report(
            worker,
            int(raw["seq"]),
            run_id,
            int(raw["revision"]),
            services,
            _traffic(raw),
            last=raw.get("last") is True,
            ejections=_ejections(raw),
            first_bytes={str(replica): int(micros) for replica, micros in raw.get("first_bytes", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedReport(f"a worker's report can't be read: {error!r}") from error


def _traffic(raw: Any) -> dict[str, Had] | None:
    counters = raw.get("counters")
    if counters is None:
        return None
    return {service: had(counted) for service, counted in counters.get("services", {}).items()}


def _ejections(raw: Any) -> dict[str, int] | None:
    counters = raw.get("counters")
    if counters is None:
        return None
    return {s: int(c.get("ejections", 0)) for s, c in counters.get("services", {}).items() if s}


class Demand:
    """The last report of each worker, and the wakes of the last moments."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._heard: dict[str, float] = {}
        self._hints: dict[str, float] = {}
        self._active: dict[str, float] = {}
        self.traffic = Traffic()

    @property
    def workers(self) -> Collection[str]:
        """Those whose last report counts."""
        return self._reports.keys()

    def report(self, report: Report, now: float) -> set[str]:
        """Take a report in; returns the services whose load it tells or takes back. Older ones are ignored."""
        known = self._reports.get(report.worker)
        if known is not None and known.seq >= report.seq:
            return set()
        self._reports[report.worker] = report
        self._heard[report.worker] = now
        if report.traffic is not None:
            # requests that came and went between two reports are activity, too
            newborn = report.seq <= NEWBORN
            for service in self.traffic.count(report.worker, report.traffic, newborn=newborn):
                self._active[service] = now
        for service, load in report.services.items():
            if load.busy:
                self._active[service] = now
        return set(report.services) | (set(known.services) if known else set())

    def active_at(self, service: str) -> float | None:
        """When it last had a request, as far as reports say."""
        return self._active.get(service)

    def hint(self, service: str, now: float) -> None:
        """Somebody is held for a service that has no ready replica."""
        if len(self._hints) > HINTS_SWEPT:
            self._drop_old_hints(now)
        self._hints[service] = now
        self._active[service] = now

    def keep(self, registered: Collection[str]) -> set[str]:
        """Drop the reports of workers that don't count any more; returns the services that they served."""
        gone = [worker for worker in self._reports if worker not in registered]
        services: set[str] = set()
        for worker in gone:
            services |= set(self._reports.pop(worker).services)
            del self._heard[worker]
            self.traffic.leave(worker)
        return services

    def forget(self, service: str) -> None:
        """The service is gone."""
        self._active.pop(service, None)
        self.traffic.forget(service)

    def load(self, service: str, now: float) -> Load:
        """The sum over all workers; a fresh wake counts as one held."""
        in_flight = held = 0
        oldest = 0.0
        replicas: dict[str, int] = {}
        for report in self._reports.values():
            load = report.services.get(service)
            if load is not None:
                in_flight += load.in_flight
                held += load.held
                oldest = max(oldest, load.oldest)
                for replica, count in load.replicas.items():
                    replicas[replica] = replicas.get(replica, 0) + count
        if held == 0 and self._hinted(service, now):
            held = 1
        return Load(in_flight, held, replicas, oldest)

    def in_flight(self, replica: str) -> int:
        """At one replica, whichever service it is of."""
        return sum(load.replicas.get(replica, 0) for r in self._reports.values() for load in r.services.values())

    def services(self, now: float) -> set[str]:
        """Those with any load, or woken just now."""
        self._drop_old_hints(now)
        return set(self._hints).union(*(report.services for report in self._reports.values()))

    def held(self, service: str, now: float) -> bool:
        return self._hinted(service, now) or any(
            load.held > 0 for r in self._reports.values() if (load := r.services.get(service)) is not None
        )

    def called(self, service: str, revision: int, run_id: str, since: float, now: float) -> bool:
        """Whether somebody is held who was not merely held before: by the word of a worker that has applied `revision`,
        or by a wake after `since`."""
        told = (r.services.get(service, IDLE) for r in self._reports.values() if _applied(r, revision, run_id))
        return any(load.held > 0 for load in told) or (self._hinted(service, now) and self._hints[service] > since)

    def _hinted(self, service: str, now: float) -> bool:
        """A wake counts until every worker has reported since."""
        at = self._hints.get(service)
        if at is None or now - at >= HINT_SECONDS:
            return False
        return now - at < HINT_AT_LEAST or any(heard <= at for heard in self._heard.values())

    def _drop_old_hints(self, now: float) -> None:
        self._hints = {service: at for service, at in self._hints.items() if now - at < HINT_SECONDS}

    def heard(self, worker: str) -> float | None:
        """When the worker last reported."""
        return self._heard.get(worker)

    def complete(self, registered: Iterable[str], run_id: str) -> bool:
        """Whether every registered worker has reported under this run of the store."""
        return not self.missing(0, registered, run_id)

    def missing(self, revision: int, registered: Iterable[str], run_id: str) -> set[str]:
        """The registered workers that have not acknowledged `revision` in this run of the store."""
        return {worker for worker in registered if not self._acknowledged(worker, revision, run_id)}

    def drained(self, service: str, replica: str, revision: int, registered: Iterable[str], run_id: str) -> bool:
        """Whether every registered worker has acknowledged, and has nothing in flight on the replica."""
        return all(
            self._acknowledged(worker, revision, run_id)
            and not self._reports[worker].services.get(service, IDLE).replicas.get(replica)
            for worker in registered
        )

    def _acknowledged(self, worker: str, revision: int, run_id: str) -> bool:
        report = self._reports.get(worker)
        return report is not None and _applied(report, revision, run_id)


def _applied(report: Report, revision: int, run_id: str) -> bool:
    return report.run_id == run_id and report.revision >= revision
