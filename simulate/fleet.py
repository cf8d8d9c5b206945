"""A thousand services side by side, 95 % of them asleep at any moment: most have a visitor now and then."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from random import Random
from typing import Final

from simulate.results import row
from simulate.runs import POLICIES, Run, play
from simulate.traces import HOUR, Rate, Trace, around, exponential
from simulate.world import Model, Outcome, Sample

SERVICES: Final = 1000
IDLE_TIMEOUT: Final = 90.0
_ON: Final = 60.0  # seconds of traffic on average
_OFF: Final = 2900.0  # and without


def traces(count: int = SERVICES, seconds: float = HOUR) -> Iterator[Trace]:
    """Services of all kinds: 0.1 to 5 requests/s while somebody is there, of 0.05 to 2 s each; 0.5 to 20 s to start."""
    for number in range(count):
        random = Random(number)
        most = _between(random, 0.1, 5.0)
        yield Trace(
            f"service-{number}",
            "on and off",
            seconds,
            _visits(random, most, seconds),
            most,
            exponential(_between(random, 0.05, 2.0)),
            Model(around(_between(random, 0.5, 20.0)), concurrency=random.choice((1, 4, 80)), max_replicas=10),
            idle_timeout=IDLE_TIMEOUT,
            seed=number,
        )


def _between(random: Random, low: float, high: float) -> float:
    """Evenly over the orders of magnitude."""
    return math.exp(random.uniform(math.log(low), math.log(high)))


def _visits(random: Random, most: float, seconds: float) -> Rate:
    edges, now, there = [0.0], 0.0, random.random() < _ON / (_ON + _OFF)
    begins_there = there
    while now < seconds:
        now += random.expovariate(1 / (_ON if there else _OFF))
        edges.append(now)
        there = not there

    def rate(at: float) -> float:
        changes = bisect_right(edges, at) - 1
        return most if (changes % 2 == 0) == begins_there else 0.0

    return rate


def run(count: int = SERVICES, seconds: float = HOUR, policies: Collection[str] = tuple(POLICIES)) -> list[Run]:
    """Each algorithm on the same services. `replicas` of a sample are of all services, `ready` the services awake."""
    runs = []
    for name in policies:
        make = POLICIES[name]
        outcomes = [play(trace, make(trace)) for trace in traces(count, seconds)]
        runs.append(Run(row(name, outcomes), tuple(_together(outcomes, seconds))))
    return runs


def _together(outcomes: Iterable[Outcome], seconds: float) -> Iterator[Sample]:
    found: dict[float, list[Sample]] = defaultdict(list)
    for outcome in outcomes:
        for sample in outcome.samples:
            found[sample.at].append(sample)
    for second in range(int(seconds) + 1):
        here = found[float(second)]
        yield Sample(
            float(second),
            replicas=sum(sample.replicas for sample in here),
            ready=sum(sample.replicas > 0 for sample in here),
            held=sum(sample.held for sample in here),
            waited=max((sample.waited for sample in here), default=0.0),
        )


def asleep(samples: Iterable[Sample], count: int = SERVICES) -> float:
    """The share of services without a replica, on average."""
    awake = [sample.ready for sample in samples]
    return 1 - sum(awake) / max(1, len(awake)) / count
