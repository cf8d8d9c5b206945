"""A short soak, and the judgement of the long one."""

from __future__ import annotations

import random

import pytest

from tests.soak.soak import soaked
from tests.soak.watch import MIB, Process, samples, slope, spans, trends


@pytest.mark.e2e
@pytest.mark.xdist_group("soak")
def test_half_a_minute_of_everything() -> None:
    lines = list(soaked(30, kills=False))
    assert lines[-1] == "ok", "\n".join(lines)


def grown(rate: float, peaks: bool = False) -> Process:
    """A process of 100 MiB that grows by `rate` bytes a second for ten minutes."""
    noise = random.Random(1)
    one = Process("worker 1", 1)
    for at in range(600):
        extra = 50 * MIB if peaks and at % 50 == 0 else noise.randrange(MIB)
        one.samples.append((float(at), int(100 * MIB + rate * at + extra), 10))
    return one


def test_flat_memory_with_peaks_is_flat() -> None:
    (trend,) = trends([grown(0, peaks=True)], 200, 600)
    assert trend.flat
    assert abs(trend.growth) < MIB


def test_a_leak_of_20_bytes_a_request_is_seen() -> None:
    (trend,) = trends([grown(20 * 1000)], 200, 600)
    assert not trend.flat
    assert trend.growth == pytest.approx(8_000_000, rel=0.1)


def test_slope_and_spans() -> None:
    assert slope([(0.0, 1.0)]) == 0
    line = [(float(at), 2.0 * at) for at in range(20)]
    assert slope([*line, (20.0, 1000.0)]) == pytest.approx(2)
    assert [value for _, value in spans([(at / 10, at) for at in range(600)], 0, 60)][:2] == [4.5, 14.5]


def test_samples() -> None:
    assert samples('# HELP x y\nx{a="b c"} 1.0\nz -2\n') == {'x{a="b c"}': 1.0, "z": -2.0}
