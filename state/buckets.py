"""Log-spaced buckets: what a histogram's indices mean, and percentiles from them.

Bucket `i` holds durations in `(G^(i-1), G^i]` seconds with G = 1.04. `middle(i)` is the value whose relative distance
to both ends is the same, (G-1)/(G+1) = 1.96 %, so a percentile is within 2 % of the exact one. Histograms are sparse
dicts of bucket -> count: they merge by adding counts, over services, workers and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

GROWTH: Final = 1.04

Histogram = dict[int, int]


def middle(index: int) -> float:
    """The value in seconds that stands for a bucket."""
    return 2.0 * float(GROWTH**index) / (GROWTH + 1.0)


def percentiles(histogram: Mapping[int, int], percents: Sequence[int]) -> list[float]:
    """For each of `percents` (1-100, ascending) the value in seconds that so many in a hundred are not above.

    By nearest rank: that of `p` among `n` is `ceil(p * n / 100)`. Of nothing, all are 0.
    """
    total = sum(histogram.values())
    if not total:
        return [0.0 for _ in percents]
    ranks = [-(-percent * total // 100) for percent in percents]
    found: list[float] = []
    seen, wanted = 0, ranks[0]
    for index, count in sorted(histogram.items()):
        seen += count
        while seen >= wanted:
            found.append(middle(index))
            if len(found) == len(ranks):
                return found
            wanted = ranks[len(found)]
    raise ValueError("percents beyond 100")


def add(into: Histogram, more: Mapping[int, int]) -> None:
    """Merge."""
    for index, count in more.items():
        into[index] = into.get(index, 0) + count
