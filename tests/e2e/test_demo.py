"""`wakegate demo`: every step works and shows, failing says why, and nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_node import ROOT, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder() -> Iterator[Path]:
    """A TMPDIR of our own that every uid may pass."""
    with tempfile.TemporaryDirectory(prefix="wg-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "wakegate", "demo"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_shows_a_cold_start_a_warm_request_and_a_sleep(folder):
    demo = start(folder)
    said, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, said
    for step in ("clone, build, start", "a warm one: 200", "asleep", "20 answers of 200 from 1 process"):
        assert step in said
    assert re.search(r"cold start \d+ ms: decide \d+, schedule \d+, start \d+, ready \d+ \(ms\)", said)
    assert list(folder.iterdir()) == []


def test_it_fails_where_a_step_fails_and_says_why(folder):
    (folder / "bin").mkdir()
    demo = start(folder, PATH=str(folder / "bin"))
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "git is not installed" in said


def test_it_can_be_interrupted(folder):
    demo = start(folder)
    assert demo.stdout is not None
    eventually(lambda: "nobody asks" in demo.stdout.readline(), 60)
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert list(folder.iterdir()) == []
