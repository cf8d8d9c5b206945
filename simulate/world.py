"""One service in a simulated Wakegate: everything but the algorithm that says how many replicas there should be.

Requests arrive, are served by the least busy replica below its `concurrency`, or held first in, first out; a replica
starts, is ready, drains and stops. Workers report each second; the leader looks every 2 s, at each report that tells of
somebody held, when a replica becomes ready, and at once when a request meets no ready replica (`activator.leader`).
Seconds on a clock that begins with 0.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from simulate.policies import Policy, Report

REPORT: Final = 1.0
TICK: Final = 2.0
WAKE: Final = 0.01  # from a request that finds nobody to the leader's look
FORWARD: Final = 0.02  # from the first 200 to the release of who is held


@dataclass(frozen=True, slots=True)
class Model:
    """What a service is like. `start` draws the seconds from the decision to the first 200; `concurrency` requests
    share a replica without slowing each other down, and it takes no more. Who is held longer than `hold_timeout`, or
    is one more than `hold_limit`, has failed."""

    start: Callable[[Random], float]
    concurrency: int
    max_replicas: int
    hold_timeout: float = 120.0
    hold_limit: int = 4000


@dataclass(frozen=True, slots=True)
class Request:
    """It arrives at a moment and keeps a replica busy for `work` seconds."""

    at: float
    work: float


@dataclass(slots=True, eq=False)
class Replica:
    number: int
    ready: bool = False
    draining: bool = False
    in_flight: int = 0
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One second: replicas that exist and that are ready, who is held, and the longest wait that ended in it."""

    at: float
    replicas: int
    ready: int
    held: int
    waited: float


@dataclass(slots=True)
class Outcome:
    """What became of a trace. `waits`: seconds held, one for each answered request, `arrivals` when it came."""

    seconds: float
    waits: list[float] = field(default_factory=list)
    failed: int = 0
    starts: int = 0
    cold_starts: int = 0  # wakes from zero that somebody waited for
    replica_seconds: float = 0.0
    changes: int = 0  # of how many are wanted
    samples: list[Sample] = field(default_factory=list)


class World:
    """One service under one policy. `sampled`: whether each second is kept for drawing."""

    def __init__(self, model: Model, policy: Policy, seconds: float, seed: int, *, sampled: bool = True) -> None:
        self.outcome = Outcome(seconds)
        self.desired = 0
        self._model = model
        self._policy = policy
        self._seed = seed
        self._sampled = sampled
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._replicas: list[Replica] = []
        self._held: deque[Request] = deque()
        self._in_flight = 0
        self._arrived = 0
        self._area = self._area_at = self._busy = 0.0  # request-seconds in the system, since the last report
        self._told = Report()
        self._live = False
        self._waited = 0.0
        self._numbers = 0

    def run(self, requests: Iterator[Request]) -> Outcome:
        """Until the trace is over and nobody is held or in flight."""
        upcoming = next(requests, None)
        while upcoming is not None or self._held or self._in_flight or self._now < self.outcome.seconds:
            if upcoming is not None and (not self._events or upcoming.at <= self._events[0][0]):
                self._advance(upcoming.at)
                self._arrive(upcoming)
                upcoming = next(requests, None)
            elif self._events:
                at, _, event = heapq.heappop(self._events)
                self._advance(at)
                event()
            else:
                break
        for replica in self._replicas:
            self._account(replica)
        return self.outcome

    # -- the clock

    def _advance(self, now: float) -> None:
        self._area += (self._in_flight + len(self._held)) * (now - self._now)
        self._now = now

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, event))

    def _rouse(self) -> None:
        """Reports and ticks go on; a service of which nothing is left has none."""
        if not self._live:
            self._live = True
            self._area, self._area_at = 0.0, self._now
            self._at((self._now // REPORT + 1) * REPORT, self._report)
            self._at((self._now // TICK + 1) * TICK, self._tick)

    # -- requests

    def _arrive(self, request: Request) -> None:
        self._arrived += 1
        self._rouse()
        replica = self._free()
        if replica is not None and not self._held:
            self._serve(replica, request)
        elif len(self._held) >= self._model.hold_limit:
            self.outcome.failed += 1
        else:
            self._held.append(request)
            if len(self._held) == 1 and not any(r.ready and not r.draining for r in self._replicas):
                self._at(self._now + WAKE, self._wake)

    def _free(self) -> Replica | None:
        able = [r for r in self._replicas if r.ready and not r.draining and r.in_flight < self._model.concurrency]
        return min(able, key=lambda r: r.in_flight, default=None)

    def _serve(self, replica: Replica, request: Request) -> None:
        waited = self._now - request.at
        self.outcome.waits.append(waited)
        self._waited = max(self._waited, waited)
        replica.in_flight += 1
        self._in_flight += 1

        def done() -> None:
            replica.in_flight -= 1
            self._in_flight -= 1
            self._release()

        self._at(self._now + request.work, done)

    def _release(self) -> None:
        while self._held and (replica := self._free()) is not None:
            self._serve(replica, self._held.popleft())

    def _expire(self) -> None:
        while self._held and self._now - self._held[0].at > self._model.hold_timeout:
            self._waited = max(self._waited, self._now - self._held.popleft().at)
            self.outcome.failed += 1

    # -- control

    def _report(self) -> None:
        self._expire()
        span = self._now - self._area_at
        mean = self._area / span if span > 0 else 0.0
        self._area, self._area_at = 0.0, self._now
        oldest = self._now - self._held[0].at if self._held else 0.0
        self._told = Report(self._in_flight, len(self._held), mean, self._arrived, oldest)
        self._policy.hear(self._told, self._now)
        for replica in [r for r in self._replicas if r.draining and r.in_flight == 0]:
            self._stop(replica)
        if self._held:
            self._look(self._told)
        self._sample()
        if self._replicas or self._held or self._in_flight:
            self._at(self._now + REPORT, self._report)
        elif self._live:
            self._live = False
            self._sleep()

    def _tick(self) -> None:
        if self._live:
            self._look(self._told)
            self._at(self._now + TICK, self._tick)

    def _sleep(self) -> None:
        again = self._policy.forget(self._now)
        if again is not None and again < self.outcome.seconds:
            self._at(again, self._look_at_the_sleeping)

    def _look_at_the_sleeping(self) -> None:
        if self._live:
            return
        self._look(Report(requests=self._arrived))
        if self._replicas:
            self._rouse()
        else:
            self._sleep()

    def _wake(self) -> None:
        if self._held:
            told = self._told
            self._look(Report(told.in_flight, max(1, told.held), told.mean, told.requests, told.oldest))

    def _look(self, report: Report) -> None:
        """Call back, start or release until as many are there as are wanted (`activator.planning`)."""
        ready = sum(r.ready and not r.draining for r in self._replicas)
        desired = self._policy.desired(report, ready, self.desired, self._now)
        self.outcome.changes += desired != self.desired
        self.outcome.cold_starts += desired > 0 and not self._replicas and bool(self._held)
        self.desired = desired
        present = [r for r in self._replicas if not r.draining]
        missing = desired - len(present)
        for replica in sorted((r for r in self._replicas if r.draining), key=lambda r: -r.in_flight)[: max(0, missing)]:
            replica.draining = False
            missing -= 1
        for nth in range(missing):
            self._start(nth)
        for replica in sorted(present, key=lambda r: (r.ready, r.in_flight, -r.number))[: max(0, -missing)]:
            if replica.ready:
                replica.draining = True
            else:
                self._stop(replica)
        self._release()

    def _start(self, nth: int) -> None:
        self._numbers += 1
        # the same moment is as fast or slow under every policy
        seconds = self._model.start(Random((self._seed * 1_000_003 + int(self._now)) * 1009 + nth))
        replica = Replica(self._numbers, started_at=self._now)
        self._replicas.append(replica)
        self.outcome.starts += 1

        def ready() -> None:
            if replica in self._replicas:
                replica.ready = True
                self._release()
                self._look(self._told)

        self._at(self._now + seconds + FORWARD, ready)

    def _stop(self, replica: Replica) -> None:
        self._replicas.remove(replica)
        self._account(replica)

    def _account(self, replica: Replica) -> None:
        end = self.outcome.seconds
        self.outcome.replica_seconds += max(0.0, min(self._now, end) - min(replica.started_at, end))

    def _sample(self) -> None:
        if self._sampled and self._now <= self.outcome.seconds:
            ready = sum(r.ready and not r.draining for r in self._replicas)
            self.outcome.samples.append(Sample(self._now, len(self._replicas), ready, len(self._held), self._waited))
        self._waited = 0.0
