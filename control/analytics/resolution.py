"""Which resolution serves which range: a pure decision. All times are whole Unix seconds.

Rows are kept three times: at 10 s for 2 hours, at 1 min for 2 days, at 1 h for 90 days. A range is served by the
coarsest of those that still have its beginning and whose rows fit into its steps without a rest; if none fits, by the
finest, in steps rounded up to whole rows. So an answer's step may be longer than asked for, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

POINTS: Final = 1500  # steps in one answer
LEAST_STEP: Final = 10
_LEEWAY: Final = 60  # seconds: a range of the whole retention is asked for a little later than it was thought of


@dataclass(frozen=True, slots=True)
class Tier:
    """Rows of `step` seconds, kept for `retention`, in chunks of `span`."""

    step: int
    retention: int
    span: int

    def chunk(self, at: int) -> str:
        """The name of the chunk that has the row of a time."""
        return f"{self.step}:{at // self.span}"

    def chunks(self, start: int, end: int) -> Iterator[str]:
        """The names of those with rows in [start, end)."""
        return (f"{self.step}:{number}" for number in range(start // self.span, -(-end // self.span)))

    def kept(self, start: int, end: int, now: int) -> Iterator[str]:
        """The same, of those that can exist; a worker's clock may be a little ahead."""
        return self.chunks(max(start, now - self.retention - self.span), min(end, now + self.span))

    def expires(self, chunk: str) -> int:
        """When nothing in it is kept any more."""
        return (int(chunk.partition(":")[2]) + 1) * self.span + self.retention + _LEEWAY

    def keeps(self, at: int, now: int) -> bool:
        """Whether the row of a time is kept."""
        return at >= now - self.retention - _LEEWAY


HOUR: Final = 3600
DAY: Final = 24 * HOUR
TIERS: Final = (Tier(10, 2 * HOUR, 600), Tier(60, 2 * DAY, 2 * HOUR), Tier(HOUR, 90 * DAY, 5 * DAY))
"""The finest first."""


def tier_of(chunk: str) -> Tier | None:
    """Whose chunk it is, by its name; None: of something else."""
    step = chunk.partition(":")[0]
    return next((tier for tier in TIERS if str(tier.step) == step), None)


@dataclass(frozen=True, slots=True)
class Range:
    """What is served: [start, end) in steps of `step`, a multiple of the tier's; both are multiples of `step`."""

    start: int
    end: int
    step: int
    tier: Tier

    @property
    def points(self) -> int:
        return (self.end - self.start) // self.step


def points(start: int, end: int, step: int) -> int:
    """How many steps were asked for."""
    return -(-(end - start) // step)


def choose(start: int, end: int, step: int, now: int) -> Range:
    """The range that is served for what was asked for: `start` before `end`, `step` at least LEAST_STEP."""
    able = [tier for tier in TIERS if tier.keeps(start, now)] or [TIERS[-1]]
    fitting = [tier for tier in able if step % tier.step == 0]
    tier = fitting[-1] if fitting else able[0]
    step = -(-step // tier.step) * tier.step
    return Range(start // step * step, -(-end // step) * step, step, tier)
