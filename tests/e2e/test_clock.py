"""A stepped wall clock changes nothing: every duration is measured on the monotonic clock.

The wall clock of supervisor, control and workers is moved under their feet by a `sitecustomize` in their path; the
machine's stays, and so does the store's, whose clock no script of ours reads. (libfaketime 0.9.10 makes poll() fail.)
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest
from scenes import Reply, ask, deploy, host, traffic

pytestmark = pytest.mark.e2e

SHIM = """\
import os, time
_seconds, _nanoseconds = time.time, time.time_ns
def _offset():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return int(file.read())
time.time = lambda: _seconds() + _offset()
time.time_ns = lambda: _nanoseconds() + _offset() * 1_000_000_000
"""
DAY = 86_400  # s


def move(clock: Path, offset: int) -> None:
    """At once: no reader sees half a number."""
    fresh = clock.with_suffix(".new")
    fresh.write_text(str(offset))
    fresh.rename(clock)


async def test_a_stepped_wall_clock_changes_nothing(make_node, tmp_path: Path):
    """Forward, far backward, and forward again to the true time."""
    (tmp_path / "sitecustomize.py").write_text(SHIM)
    clock = tmp_path / "offset"
    clock.write_text("0")
    fake = {"PYTHONPATH": str(tmp_path), "CLOCK_OFFSET": str(clock)}
    node = make_node(workers=2, env=fake).start()
    warm = deploy(node, "acme", "warm", min_replicas=1)
    sleeper = deploy(node, "acme", "sleeper", min_replicas=0, scaling={"idle_timeout": 2})
    await asyncio.to_thread(node.wait_status, "acme", "warm", "running")
    await asyncio.to_thread(node.wait_status, "acme", "sleeper", "stopped")
    pids = node.pids()
    now = time.time()
    for count, step in enumerate((2 * DAY, -2 * DAY, 0), 1):
        async with traffic(node.http_port, host("acme", "warm"), rate=50, connections=8) as seen:
            move(clock, step)
            held = await ask(node.http_port, host("acme", "sleeper"))
            assert isinstance(held, Reply), held
            assert held.status == 200
            await asyncio.to_thread(node.wait_status, "acme", "sleeper", "stopped")
            assert (
                node.api("POST", "/auth/v1/keys", {"name": f"k{count}", "namespace": "acme", "scope": "read"}).status
                == 201
            )
        assert seen.answered == seen.sent > 0
        assert seen.wrong == []
        assert len(sleeper.lines("starts")) == 1 + count
        stamp = node.api("GET", "/acme/service/sleeper/events").json()["items"][-1]["time"]
        assert abs(datetime.fromisoformat(stamp).timestamp() - now - step) < DAY, "the clock did step"
    assert len(warm.lines("starts")) == 1
    assert node.pids() == pids, "nothing was restarted"
