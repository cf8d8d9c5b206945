"""Taking in what replicas write, through crashes, floods and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from activator.logs import Collector, LogLimits, LogStore, Source, last_lines
from activator.logs import collector as collector_module
from activator.logs.reader import Query
from activator.logs.source import Allowance, Intake


class Node:
    """A collector and the raw files of replicas."""

    def __init__(self, root: Path, limits: LogLimits | None = None) -> None:
        self.root = root
        self.store = LogStore(root / "logs", limits)
        self.collector = Collector(self.store)
        self.running = asyncio.get_running_loop().create_task(self.collector.run())

    def replica(self, name: str) -> Source:
        directory = self.root / "replicas" / name
        directory.mkdir(parents=True, exist_ok=True)
        for stream in ("stdout", "stderr"):
            (directory / stream).touch()
        source = Source("svc", "d1", name, directory)
        self.collector.add(source)
        return source

    def write(self, source: Source, data: bytes, stream: str = "stdout") -> None:
        with open(source.directory / stream, "ab") as file:
            file.write(data)

    def lines(self, replica: str | None = None) -> list[str]:
        return [line.line for line in self.store.read_now("svc", Query(limit=10_000, replica=replica)).items]

    async def kill(self) -> None:
        """As `kill -9` leaves it: nothing is taken in any more."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running
        self.collector._intakes.clear()
        await self.collector.close()

    async def close(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running
        await self.collector.close()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.005)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    await made.close()


async def test_lines_come_as_they_are_written(node: Node) -> None:
    source = node.replica("r1")
    node.write(source, b"one\ntwo\nhal")
    await until(lambda: node.lines() == ["one", "two"])
    node.write(source, b"f\n")
    await until(lambda: node.lines() == ["one", "two", "half"])
    node.write(source, b"caf\xc3\xa9 \xff\n", "stderr")
    await until(lambda: node.lines()[-1] == "café \ufffd")
    node.write(source, b"last words")
    await node.collector.finish("r1")
    assert node.lines()[-1] == "last words"
    assert node.collector._intakes == {}


async def test_without_inotify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "_inotify", lambda: None)
    node = Node(tmp_path)
    source = node.replica("r1")
    await until(lambda: not node.collector._dirty)
    node.write(source, b"one\n")
    await until(lambda: node.lines() == ["one"])
    await node.close()


async def test_none_lost_and_none_twice_over_kills(tmp_path: Path) -> None:
    count = 0
    for _ in range(8):
        node = Node(tmp_path, LogLimits(segment=20_000))
        source = node.replica("r1")
        before = len(node.lines())
        node.write(source, b"".join(b"line %d\n" % n for n in range(count, count + 500)))
        count += 500
        await until(lambda: len(node.lines()) > before)  # noqa: B023
        await node.kill()
    node = Node(tmp_path)
    node.replica("r1")
    await node.collector.finish("r1")
    assert node.lines() == [f"line {n}" for n in range(count)]
    await node.close()


async def test_killed_between_the_log_and_the_raw_file(tmp_path: Path) -> None:
    """The only two steps there are: the lines are in the log, their raw bytes are not freed yet."""
    node = Node(tmp_path)
    source = node.replica("r1")
    node.write(source, b"x" * 99 + b"\n")
    Intake(source, LogStore(tmp_path / "logs")).take()
    await node.kill()
    again = Node(tmp_path)
    again.replica("r1")
    again.write(source, b"next\n")
    await until(lambda: again.lines()[-1:] == ["next"])
    assert again.lines() == ["x" * 99, "next"]
    await again.close()


async def test_raw_bytes_are_freed(node: Node) -> None:
    source = node.replica("r1")
    total = 0
    for n in range(40):
        data = b"".join(b"%d %d %b\n" % (n, k, b"x" * 90) for k in range(1000))
        node.write(source, data)
        total += len(data)
    await node.collector.finish("r1")
    status = (source.directory / "stdout").stat()
    assert status.st_size == total
    assert status.st_blocks * 512 < 2 << 20
    assert last_lines(source.directory, 1) == (f"39 999 {'x' * 90}",)


async def test_a_flood_is_bounded_and_counted(tmp_path: Path) -> None:
    node = Node(tmp_path, LogLimits(backlog=100_000))
    source = Source("svc", "d1", "r1", tmp_path)
    (tmp_path / "stdout").write_bytes(b"".join(b"line %06d\n" % n for n in range(50_000)))
    (tmp_path / "stderr").touch()
    node.collector.add(source)
    await until(lambda: node.lines()[-1:] == ["line 049999"])
    lines = node.lines()
    assert "bytes of output were dropped here" in lines[0]
    assert int(lines[0].split()[1]) == node.collector.dropped == 50_000 * 12 - (len(lines) - 1) * 12
    await node.close()


def test_an_allowance_is_a_rate_and_a_burst() -> None:
    allowance = Allowance(100, now=50.0)
    assert allowance.left(50.0)
    allowance.spend(450)  # the burst is 4 s of the rate; the last piece may go beyond
    assert not allowance.left(50.4)
    assert allowance.left(50.6)
    allowance.spend(11)
    assert not allowance.left(50.6)
    assert allowance.left(1000.0)
    allowance.spend(400)
    assert not allowance.left(1000.0)


async def test_who_writes_too_fast_waits_and_his_last_words_do_not(tmp_path: Path) -> None:
    node = Node(tmp_path, LogLimits(rate=1000))
    source = node.replica("r1")
    node.write(source, b"".join(b"line %04d\n" % n for n in range(1000)))
    await until(lambda: node.lines() != [])
    node.write(source, b"".join(b"line %04d\n" % n for n in range(1000, 2000)))
    intake = node.collector._intakes["r1"]
    await until(lambda: not intake.take())
    assert len(node.lines()) < 2000
    await node.collector.finish("r1")
    assert node.lines() == [f"line {n:04}" for n in range(2000)]
    await node.close()


async def test_a_truncated_file_is_read_from_its_start(node: Node) -> None:
    source = node.replica("r1")
    node.write(source, b"before, and quite long\n")
    await until(lambda: len(node.lines()) == 1)
    (source.directory / "stdout").write_bytes(b"after\n")
    await until(lambda: node.lines()[-1] == "after")


async def test_a_full_disk_pauses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = True
    original = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return original(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    node = Node(tmp_path)
    source, other = node.replica("r1"), node.replica("r2")
    node.write(source, b"one\n")
    node.write(other, b"other\n")
    await until(lambda: node.collector.problem is not None)
    assert "No space left" in str(node.collector.problem)
    await node.collector.finish("r2")  # does not wait for room
    node.write(source, b"two\n")
    assert node.lines() == []
    full = False
    await until(lambda: len(node.lines()) == 3)
    assert node.lines("r1") == ["one", "two"]
    assert node.lines("r2") == ["other"]
    await until(lambda: node.collector.problem is None)
    told = [record.message for record in caplog.records]
    assert sum("is not being kept" in text for text in told) == 1
    assert "output of replicas is being kept again" in told
    await node.close()


async def test_a_replica_that_is_gone_before_its_first_line(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.collector.add(Source("svc", "d1", "r1", node.root / "nowhere"))
    await node.collector.finish("r1")
    await node.collector.finish("r1")
    assert node.collector.problem is None
    assert node.lines() == []


async def test_many_replicas_get_their_turn_beside_a_chatty_one(node: Node) -> None:
    chatty = node.replica("chatty")
    quiet = [node.replica(f"q{n}") for n in range(20)]
    node.write(chatty, b"".join(b"%d %b\n" % (n, b"x" * 100) for n in range(30_000)))
    for source in quiet:
        node.write(source, b"hello\n")
    await until(lambda: all(node.lines(f"q{n}") == ["hello"] for n in range(20)))


def test_last_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path, 3) == ()
    (tmp_path / "stdout").write_bytes(b"a\nb\r\n\nc")
    (tmp_path / "stderr").touch()
    assert last_lines(tmp_path, 2) == ("b", "c")
    (tmp_path / "stderr").write_bytes(b"\0" * 70_000 + b"tail of a line\nTraceback\n" + b"y" * 5000)
    assert last_lines(tmp_path, 5) == ("tail of a line", "Traceback", "y" * 1024)
