"""How often a CA is asked: below Let's Encrypt's limits, so that the mistake of one tenant is no outage of others.

Pure (law 5): what was done is a tuple of moments, kept in the store with the issuance or the account. Times are
microseconds. Moments that lie in the future were written by a clock that was ahead, and count as now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MINUTE: Final = 60 * 1_000_000  # µs
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `most` in any `span` (microseconds)."""

    most: int
    span: int

    def spent(self, moments: Sequence[int], now: int) -> tuple[int, ...]:
        """Those of `moments` that still count, oldest first; never more than the budget has."""
        return tuple(sorted(min(moment, now) for moment in moments if moment > now - self.span)[-self.most :])

    def room_at(self, moments: Sequence[int], now: int) -> int:
        """When there is room for one more: now, or when the oldest of those that count is over."""
        counting = self.spent(moments, now)
        return now if len(counting) < self.most else counting[0] + self.span

    def noted(self, moments: Sequence[int], now: int) -> tuple[int, ...]:
        """With one more, now."""
        return self.spent((*moments, now), now)


# The limits of Let's Encrypt are 300 new orders in 3 hours of an account, 5 failed validations in an hour and 5
# certificates in a week for the same set of names; renewals at the CA's word count for none of them.
ACCOUNT_ORDERS: Final = Budget(250, 3 * HOUR)
NAMESPACE_ORDERS: Final = Budget(100, 3 * HOUR)  # of ours: one tenant's names don't keep all others waiting
FAILED_VALIDATIONS: Final = Budget(4, HOUR)
DUPLICATES: Final = Budget(4, 7 * DAY)
EARLY_RENEWALS: Final = Budget(3, DAY)  # of ours: a CA that always says "now" is not believed more often
