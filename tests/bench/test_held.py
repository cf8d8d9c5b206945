"""Two thousand requests held by one worker and released over four replicas: all answered, and in order."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from bench.connections import raise_file_limit
from bench.held import REPLICAS, WAYS, Held, early, report, table
from bench.product import Form

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
        assert set(row.late) == {"wall", "cpu"}
        assert row.after - row.before < GROWTH, row
    assert single.early == 0
    assert bounded.early < 50 * REPLICAS
    assert all(bounded.replicas)


def test_how_early() -> None:
    assert early([0, 1, 2, 3]) == 0
    assert early([0, 3, 1, 2]) == 2


def test_the_table_tells_each_way() -> None:
    late = {"wall": 0.25, "cpu": 0.0025}
    row = Held("bounded", 10_000, 9_999, [5000, 5000], 7, late, 120.4, 50 << 20, 80 << 20, 51 << 20)
    line = "| 10,000 over 2, bounded | 9,999 | 7 | 250 ms | 2.5 ms | 120 µs | 50, 80, 51 MiB |"
    assert table([row]).splitlines()[2] == line
