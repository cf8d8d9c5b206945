"""A control plane on a real store, with a node in a directory that other uids can reach."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "drivers"))  # its repositories and its node serve here too

from plane import Plane


@pytest.fixture
def ground() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wg-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def plane(ground: Path, store_url: str) -> AsyncIterator[Plane]:
    asyncio.get_running_loop().set_debug(False)  # it doubles what real processes cost; units have it on
    made = Plane(ground, store_url)
    yield made
    await made.close()
