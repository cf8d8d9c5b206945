"""The lateness of a loop: what stops it is seen, whether it computes or waits, and is told in fixed buckets."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.lag import BOUNDS, PERIOD, Lateness, LoopLag

STOP = 0.1  # seconds


def compute() -> None:
    until = time.thread_time() + STOP
    while time.thread_time() < until:
        pass


def late(lateness: Lateness) -> int:
    """Ticks that came later than a stop of `STOP` makes one at least."""
    bounds = (0.0, *BOUNDS)
    return sum(count for bound, count in zip(bounds, lateness.buckets, strict=True) if bound >= STOP - PERIOD - 0.03)


async def ticked(lag: LoopLag, more: int) -> None:
    goal = sum(lag.wall.buckets) + more
    async with asyncio.timeout(30):
        while sum(lag.wall.buckets) < goal:
            await asyncio.sleep(PERIOD)


@pytest.mark.parametrize(("stop", "computed"), [(lambda: time.sleep(STOP), 0), (compute, 1)])
async def test_a_stop_is_seen_and_whether_it_was_computing(stop, computed: int) -> None:
    lag = LoopLag()
    lag.start()
    await ticked(lag, 1)
    stop()
    await ticked(lag, 1)
    lag.stop()
    assert late(lag.wall) >= 1
    assert late(lag.cpu) >= computed
    assert lag.wall.seconds >= lag.cpu.seconds
    if not computed:
        assert lag.cpu.seconds < STOP - PERIOD
    await asyncio.sleep(2 * PERIOD)
    assert sum(lag.wall.buckets) == sum(lag.cpu.buckets)


def test_what_is_told_has_no_zeros() -> None:
    lag = LoopLag()
    lag.wall.add(0.0)
    lag.wall.add(0.0025)
    lag.wall.add(9.0)
    lag.cpu.add(0.0)
    assert lag.counters() == {
        "loop_lag": {"0": 1, "1": 1, str(len(BOUNDS)): 1},
        "loop_lag_sum": 9.0025,
        "loop_lag_cpu": {"0": 1},
        "loop_lag_cpu_sum": 0.0,
    }
