"""How a process starts, and how it is known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.drivers.process.procfs import parse_stat, read_stat
from activator.drivers.process.run import Lines
from activator.drivers.process.spawn import Command, Process, base_environment, spawn
from activator.drivers.process.sweep import Owner, Sighting, assign
from activator.drivers.process.users import Identity


def start(line: str, cwd: Path, record: Path, output: int) -> Process:
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        command = Command(line, cwd, base_environment(cwd), Identity())
        return spawn(command, record=descriptor, stdout=output, stderr=output)
    finally:
        os.close(descriptor)


async def test_the_child_writes_who_it_is_and_then_execs(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as output:
        process = start("exec cat /proc/self/stat", tmp_path, tmp_path / "pid", output.fileno())
    await process.ended()
    assert process.reap() == (0, None)
    process.close()
    recorded, seen = (parse_stat((tmp_path / name).read_text()) for name in ("pid", "out"))
    assert (recorded.pid, recorded.start) == (seen.pid, seen.start) == (process.pid, process.start)
    assert recorded.session == recorded.group == process.pid


async def test_nothing_runs_that_could_not_be_recorded(tmp_path: Path) -> None:
    """A full disk: better no replica than one that nobody would find again."""
    with open(tmp_path / "out", "wb") as output:
        process = start("touch ran", tmp_path, Path("/dev/full"), output.fileno())
    await process.ended()
    assert process.reap() == (125, None)
    process.close()
    assert not (tmp_path / "ran").exists()
    assert "is the disk of the node full?" in (tmp_path / "out").read_text().splitlines()[-1]


def test_adopting_nobody() -> None:
    own = read_stat(os.getpid())
    assert own is not None
    assert Process.adopt(own.pid, own.start - 1) is None
    assert Process.adopt(2**22 + 1, 1) is None
    found = Process.adopt(own.pid, own.start)
    assert found is not None
    assert found.reap() == (None, None)
    found.close()


def test_a_command_name_may_hold_anything() -> None:
    stat = parse_stat("7 (a) b (c)) S 1 7 6 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0")
    assert (stat.pid, stat.state, stat.ppid, stat.group, stat.session, stat.start) == (7, "S", 1, 7, 6, 4242)
    with pytest.raises(ValueError, match="not a line"):
        parse_stat("7 (a) S 1")


def seen(pid: int, ppid: int, session: int, *, started: int = 10, home: str = "", port: str = "") -> Sighting:
    stat = parse_stat(f"{pid} (x) S {ppid} {pid} {session} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0")
    return Sighting(stat, ours=home.startswith("/d/"), home=home.encode() or None, port=port.encode() or None)


def test_whose_process_it_is() -> None:
    a, b = Owner("a", 100, 10, b"/d/a", b"1"), Owner("b", 200, 10, b"/d/b", b"2")
    sightings = [
        seen(100, 1, 100),  # its first process
        seen(101, 100, 100, started=12),  # in its session
        seen(102, 101, 102, started=13),  # left the session, its parent is known
        seen(103, 1, 103, started=13, home="/d/a", port="1"),  # lost its parent too, kept its environment
        seen(200, 1, 200, started=11),  # another process got b's number
        seen(201, 1, 201, home="/d/a", port="3"),  # of a replica that is no more
        seen(202, 1, 202, home="/d/b", port="2", started=9),  # older than its owner
        seen(203, 1, 203, home="/home/me", port="1"),  # a stranger
    ]
    assert assign(sightings, [a, b]) == {100: "a", 101: "a", 102: "a", 103: "a", 201: None, 202: None}


@given(st.lists(st.binary(max_size=30)))
def test_output_comes_in_whole_lines(parts: list[bytes]) -> None:
    lines = Lines()
    said = [line for part in parts for line in lines.feed(part)]
    said += lines.end()
    text = b"".join(parts)
    expected = text.split(b"\n")
    assert said == [
        line.decode("utf-8", "replace").rstrip("\r") for line in (expected if expected[-1] else expected[:-1])
    ]
