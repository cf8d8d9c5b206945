"""What the warm reserve saves and costs: services with a habit, and one without, over six weeks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from simulate.results import Row, row
from simulate.runs import play, spec_of
from simulate.traces import HOUR, Rate, Trace, around, exponential
from simulate.wakegate import Wakegate
from simulate.world import Model

DAY: Final = 24 * HOUR
WEEKS: Final = 6
VISIT: Final = 120.0  # seconds
_RATE: Final = 0.1  # requests per second during a visit

COLUMNS: Final = (
    f"{WEEKS} weeks of",
    "requests",
    "cold starts",
    "with the reserve",
    "avoided",
    "p95 of the waits",
    "with it",
    "replica-hours",
    "with it",
)

Visits = Callable[[Random, float], Iterator[float]]  # moments at which a visit begins, in order


@dataclass(frozen=True, slots=True)
class Habit:
    """When visits come, and how long they are."""

    name: str
    visits: Visits
    seconds: float = VISIT


def _office(random: Random, seconds: float) -> Iterator[float]:
    """On weekdays from 8 to 18, every half hour on average."""
    now = 0.0
    while (now := now + random.expovariate(1 / (0.5 * HOUR))) < seconds:
        if now % (7 * DAY) < 5 * DAY and 8 * HOUR <= now % DAY < 18 * HOUR:
            yield now


def _nightly(random: Random, seconds: float) -> Iterator[float]:
    """Each day some minutes after 2 o'clock."""
    return (day * DAY + 2 * HOUR + random.uniform(0, 600) for day in range(int(seconds // DAY)))


def _weekly(random: Random, seconds: float) -> Iterator[float]:
    """Mondays soon after 9."""
    return (week * 7 * DAY + 9 * HOUR + random.uniform(0, 300) for week in range(int(seconds // (7 * DAY))))


def _random(random: Random, seconds: float) -> Iterator[float]:
    """Twice a day on average, whenever."""
    now = 0.0
    while (now := now + random.expovariate(2 / DAY)) < seconds:
        yield now


HABITS: Final = (
    Habit("office hours, a visit every half hour", _office),
    Habit("a job each night", _nightly, 600.0),
    Habit("an hour on Monday mornings", _weekly, 3600.0),
    Habit("twice a day at random", _random),
)


def trace(habit: Habit, weeks: int = WEEKS) -> Trace:
    """Six weeks from a Monday on; 30 s to start, 1 s for each request."""
    seconds = weeks * 7 * DAY
    model = Model(around(30.0, 0.2), concurrency=4, max_replicas=5)
    return Trace(habit.name, habit.name, seconds, _rate(habit, seconds), _RATE, exponential(1.0), model)


def _rate(habit: Habit, seconds: float) -> Rate:
    begins = list(habit.visits(Random(1), seconds))

    def rate(now: float) -> float:
        place = bisect_right(begins, now) - 1
        return _RATE if place >= 0 and now - begins[place] < habit.seconds else 0.0

    return rate


def run(habit: Habit, weeks: int = WEEKS) -> tuple[Row, Row]:
    """Without the reserve, and with it."""
    made = trace(habit, weeks)
    without, reserved = (Wakegate(spec_of(made), warm_reserve=warm) for warm in (False, True))
    return (
        row(habit.name, [play(made, without, sampled=False)]),
        row(habit.name, [play(made, reserved, sampled=False)]),
    )


def table(pairs: Sequence[tuple[Row, Row]]) -> str:
    """In Markdown, a line for each habit."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    for without, reserved in pairs:
        avoided = 1 - reserved.cold_starts / max(1, without.cold_starts)
        lines.append(
            f"| {without.policy} | {without.requests:,} | {without.cold_starts:,} | {reserved.cold_starts:,}"
            f" | {100 * avoided:.0f} % | {without.p95:.1f} s | {reserved.p95:.1f} s"
            f" | {without.replica_seconds / HOUR:,.0f} | {reserved.replica_seconds / HOUR:,.0f} |"
        )
    return "\n".join(lines)
