"""Log-spaced buckets: what a histogram's indices mean, and percentiles from them.

Bucket `i` holds durations in `(G^(i-1), G^i]` seconds with G = 1.04. `middle(i)` is the value whose relative distance
to both ends is the same, (G-1)/(G+1) = 1.96 %, so a percentile is within 2 % of the exact one. Histograms are sparse
dicts of bucket -> count: they merge by adding counts, over services, workers and time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

GROWTH: Final = 1.04
SCALE: Final = 1.0 / math.log(GROWTH)
LEAST: Final = 1e-6  # seconds: shorter ones count as this

Histogram = dict[int, int]


def bucket(seconds: float) -> int:
    """The index for a duration; `gateway.histogram` has the same for the hot path."""
    return math.ceil(math.log(max(seconds, LEAST)) * SCALE)


def middle(index: int) -> float:
    """The value in seconds that stands for a bucket."""
    return 2.0 * float(GROWTH**index) / (GROWTH + 1.0)


def percentiles(histogram: Mapping[int, int], percents: Sequence[int]) -> list[float]:
    """For each of `percents` (1-100) the value in seconds that so many in a hundred are not above.

    By nearest rank: that of `p` among `n` is `ceil(p * n / 100)`. Of nothing, all are 0.
    """
    buckets = sorted(histogram)
    seen = list(accumulate(map(histogram.__getitem__, buckets)))
    if not seen:
        return [0.0 for _ in percents]
    return [middle(buckets[bisect_left(seen, -(-percent * seen[-1] // 100))]) for percent in percents]


def add(into: Histogram, more: Mapping[int, int]) -> None:
    """Merge."""
    get = into.get
    for index, count in more.items():
        into[index] = get(index, 0) + count
