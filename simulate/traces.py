"""The traces: when requests come, how long each keeps a replica busy, and what the service is like. Seeded, seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from simulate.world import Model, Request

HOUR: Final = 3600.0

Rate = Callable[[float], float]  # requests per second at a moment
Draw = Callable[[Random], float]


@dataclass(frozen=True, slots=True)
class Trace:
    """`rate` never exceeds `most`; arrivals are a Poisson process with it, `work` draws what each costs."""

    name: str
    what: str
    seconds: float
    rate: Rate
    most: float
    work: Draw
    model: Model
    idle_timeout: float = 300.0
    seed: int = 1

    def requests(self) -> Iterator[Request]:
        """In order of arrival, by thinning (Lewis and Shedler 1979); the same each time."""
        random, now = Random(self.seed), 0.0
        while True:
            now += random.expovariate(self.most)
            if now >= self.seconds:
                return
            if random.random() * self.most < self.rate(now):
                yield Request(now, self.work(random))


def exponential(mean: float) -> Draw:
    return lambda random: random.expovariate(1 / mean)


def around(median: float, spread: float = 0.3) -> Draw:
    """Lognormal: starts and work that vary by a factor, never negative."""
    return lambda random: random.lognormvariate(math.log(median), spread)


def pareto(shortest: float, shape: float, longest: float) -> Draw:
    """A heavy tail, cut so that a trace ends."""
    return lambda random: min(longest, shortest * random.paretovariate(shape))


def _spike(now: float) -> float:
    return 100.0 if 900 <= now < 1200 else 2.0


def _diurnal(now: float) -> float:
    """Nobody at night, most at noon."""
    return max(0.0, -0.5 + 10.5 * math.sin(math.pi * now / (24 * HOUR)) ** 2)


def _sawtooth(now: float) -> float:
    return 40.0 * (now % 600) / 600


def _on_off(now: float) -> float:
    return 20.0 if now % 900 < 180 else 0.0


def _stairs(now: float) -> float:
    """Up in steps of ten minutes, and down again."""
    return (2.0, 6.0, 12.0, 20.0, 12.0, 2.0)[min(5, int(now // 600))]


TRACES: Final = (
    Trace(
        "spike",
        "2 requests/s, and 100/s for five minutes; 0.5 s each, 5 at once per replica, 5 s to start",
        HOUR,
        _spike,
        100.0,
        exponential(0.5),
        Model(around(5.0), concurrency=5, max_replicas=50),
    ),
    Trace(
        "diurnal",
        "a day from nobody at night to 10 requests/s at noon; 2 s each, 2 at once, 10 s to start",
        24 * HOUR,
        _diurnal,
        10.0,
        exponential(2.0),
        Model(around(10.0), concurrency=2, max_replicas=50),
    ),
    Trace(
        "sawtooth",
        "up to 40 requests/s in ten minutes, then back to none, six times; 0.5 s each, 4 at once, 5 s to start",
        HOUR,
        _sawtooth,
        40.0,
        exponential(0.5),
        Model(around(5.0), concurrency=4, max_replicas=50),
    ),
    Trace(
        "on-off",
        "20 requests/s for three minutes of every fifteen; 0.5 s each, 4 at once, 5 s to start",
        HOUR,
        _on_off,
        20.0,
        exponential(0.5),
        Model(around(5.0), concurrency=4, max_replicas=50),
    ),
    Trace(
        "slow-start",
        "2, 6, 12, 20, 12, 2 requests/s for ten minutes each; 1 s each, 4 at once, 90 s to start",
        HOUR,
        _stairs,
        20.0,
        exponential(1.0),
        Model(around(90.0, 0.1), concurrency=4, max_replicas=50, hold_timeout=300.0),
    ),
    Trace(
        "heavy-tail",
        "5 requests/s, most of 0.3 s, some of minutes (Pareto, shape 1.2); 4 at once, 5 s to start",
        HOUR,
        lambda _: 5.0,
        5.0,
        pareto(0.3, 1.2, 300.0),
        Model(around(5.0), concurrency=4, max_replicas=50),
    ),
)
