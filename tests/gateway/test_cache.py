"""The file of routes, backends and certificates: whole or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cache
from state.kinds import Kind
from state.store import Record

records = st.dictionaries(
    st.text(min_size=1, max_size=60), st.builds(Record, st.binary(max_size=300), st.integers(0, 2**64 - 1)), max_size=20
)


def contents(routes: int = 3) -> cache.Contents:
    return {
        Kind.ROUTE: {f"h{i}.example": Record(b'{"service":"s"}', i) for i in range(routes)},
        Kind.BACKEND: {"s": Record(b"{}", 7)},
        Kind.CERTIFICATE: {"*.example": Record(b'{"names":["*.example"]}', 9)},
    }


@given(records, records, records)
def test_what_is_written_is_read(
    routes: dict[str, Record], backends: dict[str, Record], certificates: dict[str, Record]
) -> None:
    written = {Kind.ROUTE: routes, Kind.BACKEND: backends, Kind.CERTIFICATE: certificates}
    assert cache.decode(b"".join(cache.encode(written))) == written


def test_many_records_come_in_pieces() -> None:
    pieces = list(cache.encode(contents(1234)))
    assert len(pieces) > 4
    assert cache.decode(b"".join(pieces)) == contents(1234)


@given(st.data())
def test_any_damage_is_seen(data: st.DataObject) -> None:
    whole = b"".join(cache.encode(contents()))
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), whole[:place], whole + b"x"):
        with pytest.raises(cache.Damaged):
            cache.decode(damaged)


async def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "routes"
    await cache.save(path, contents(1))
    await cache.save(path, contents(2))
    assert cache.load(path) == contents(2)
    assert [file.name for file in path.parent.iterdir()] == ["routes"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_file_is_no_cache(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "routes") is None


class Kept:
    """Something to keep, with a version."""

    def __init__(self) -> None:
        self.version: object = None
        self.records = contents()
        self.said: list[str] = []

    def writer(self, path: Path) -> cache.Writer:
        return cache.Writer(path, lambda: self.version, self.records.__getitem__, self.said.append, every=0.01)


async def test_the_writer_writes_when_there_is_something_new(tmp_path: Path) -> None:
    path, kept = tmp_path / "routes", Kept()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(kept.writer(path).run())
        kept.version = ("run", 1)
        while not path.exists():
            await asyncio.sleep(0.005)
        written = path.stat().st_ino
        kept.records[Kind.ROUTE] = {}
        kept.version = ("run", 2)
        while path.stat().st_ino == written:
            await asyncio.sleep(0.005)
        running.cancel()
    assert cache.load(path) == kept.records


async def test_a_disk_that_refuses_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Kept()
    writer = kept.writer(tmp_path / "file" / "routes")
    assert not await writer.write()
    assert not await writer.write()
    assert len(kept.said) == 1
    assert "Not a directory" in kept.said[0] or "File exists" in kept.said[0]


async def test_what_a_killed_writer_left_is_removed_at_the_start(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, foreign = tmp_path / f"routes.{ended.pid}.new", tmp_path / "routes.x.new"
    busy, other = tmp_path / f"routes.{os.getppid()}.new", tmp_path / "other.1.new"
    for file in (left, foreign, busy, other):
        file.write_bytes(b"half")
    kept = Kept()
    kept.version = ("run", 1)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(kept.writer(tmp_path / "routes").run())
        while not (tmp_path / "routes").exists():
            await asyncio.sleep(0.005)
        running.cancel()
    assert {file.name for file in tmp_path.iterdir()} == {"routes", busy.name, other.name}
