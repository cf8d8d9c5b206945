"""Log-spaced buckets for durations: about 2 % relative error over any range, one small integer per observation.

Bucket `i` holds durations in `(G^(i-1), G^i]` seconds with G = 1.04 (`state.buckets`, which reads them again).
Histograms are sparse dicts of bucket -> count, so they add up across workers by adding counts.
"""

from __future__ import annotations

import math
from typing import Final

from state.buckets import GROWTH as GROWTH
from state.buckets import LEAST, SCALE

_SCALE: Final = SCALE
_LEAST: Final = LEAST


def bucket(seconds: float) -> int:
    """The index for a duration in seconds."""
    if seconds <= _LEAST:
        seconds = _LEAST
    return math.ceil(math.log(seconds) * _SCALE)


def upper(index: int) -> float:
    """The upper bound of a bucket in seconds."""
    return float(GROWTH**index)


def count(histogram: dict[int, int], seconds: float) -> None:
    """Add one observation."""
    index = bucket(seconds)
    histogram[index] = histogram.get(index, 0) + 1
