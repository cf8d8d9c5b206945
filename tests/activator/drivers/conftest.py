"""A node under test, in a directory that other uids can reach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from node_under_test import World


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that every uid may enter (pytest's own is closed to them)."""
    path = Path(tempfile.mkdtemp(prefix="wg-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def world(place: Path) -> AsyncIterator[World]:
    made = World(place)
    await made.open()
    yield made
    await made.close()
