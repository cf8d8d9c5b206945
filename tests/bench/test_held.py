"""Two thousand requests held by one worker and released over four replicas: all answered, and in order."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from bench.connections import raise_file_limit
from bench.held import CLOCKS, PHASES, REPLICAS, WAYS, Held, early, report, table
from bench.product import Form
from bench.visitor import Visits, summary

HELD = 2000
GROWTH = 8 * 2**20  # bytes


@pytest.mark.e2e
def test_held_requests_are_released_in_order() -> None:
    assert raise_file_limit() > 2 * HELD
    form = Form("wakegate", Path(sys.executable).with_name("wakegate"))
    with tempfile.TemporaryDirectory(prefix="wgheld-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)  # replicas have uids of their own
        bounded, unbounded, single = report(form, directory, None, HELD)
    assert [bounded.way, unbounded.way, single.way] == [way.name for way in WAYS]
    for row in (bounded, unbounded, single):
        assert row.answered == sum(row.replicas) == HELD, row
        assert set(row.late) == set(row.late_closing) == set(CLOCKS)
        assert all(row.visits[phase].count for phase in PHASES), row
        assert row.after - row.before < GROWTH, row
    assert single.after - bounded.after < GROWTH / 2, "what stays is kept for the next"
    assert single.early == 0
    assert bounded.early < 50 * REPLICAS
    assert all(bounded.replicas)


def test_how_early() -> None:
    assert early([0, 1, 2, 3]) == 0
    assert early([0, 3, 1, 2]) == 2


def test_the_table_tells_each_way() -> None:
    late = {"wall": 0.25, "cpu": 0.0025}
    visits = {phase: Visits(100, 1.04, 20.3, 31.5) for phase in PHASES}
    row = Held("bounded", 10_000, 9_999, [5000, 5000], 7, late, late, visits, 120.4, 50 << 20, 80 << 20, 51 << 20)
    times = "1.0, 20, 32 ms"
    line = f"| 10,000 over 2, bounded | 9,999 | 7 | 250 ms | 2.5 ms | 2.5 ms | {times} | {times} | {times} |"
    line += " 120 µs | 50, 80, 51 MiB |"
    assert table([row]).splitlines()[2] == line


def test_the_visits_of_a_phase() -> None:
    visits = [(10.0 + at, 0.001 * at) for at in range(101)]
    assert summary(visits, 10.0, 1000.0) == Visits(101, 50.0, 99.0, 100.0)
    assert summary(visits, 20.0, 21.0) == Visits(1, 10.0, 10.0, 10.0)
