"""A replica's output on its way to the log: whatever idiom writes it and whoever is killed, no line is lost or torn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node_under_test import World, running

from activator.drivers.process.procfs import living, read_stat
from activator.drivers.process.relay import DROPPED, Relays, ended

FOREVER = "sleep 67890"
# each way of writing to either stream, in turn; the last one is what the log shows when all came
WAYS = """
number=0
while [ $number -lt 240 ]; do
  number=$((number+1))
  case $((number % 6)) in
    0) echo "line $number";;
    1) echo "line $number" >/dev/stdout;;
    2) echo "line $number" >&2;;
    3) echo "line $number" >/dev/stderr;;
    4) echo "line $number" >/proc/self/fd/2;;
    5) echo "line $number" >>/dev/stdout;;
  esac
  [ $((number % 8)) != 0 ] || sleep 0.05
done
echo over
"""


def relays_of(directory: Path) -> list[int]:
    """Processes that write to its raw files."""
    found = []
    for stat in living():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{stat.pid}/fd/1").startswith(f"{directory}/"):
                found.append(stat.pid)
    return found


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)


async def test_no_way_of_writing_loses_a_line(world: World) -> None:
    world.repository("loud").commit({"Procfile": "web: sh ./loud\n", "loud": WAYS})
    replica, _ = await world.start(await world.build(repo="acme/loud"))
    await world.exit(replica)
    lines = world.lines(replica=replica)
    assert sorted(lines) == sorted(["over", *(f"line {number}" for number in range(1, 241))])
    assert relays_of(world.data_dir / "replicas" / replica) == []


async def test_nor_do_controls_that_come_and_go(world: World) -> None:
    world.repository("loud").commit({"Procfile": "web: sh ./loud\n", "loud": WAYS.replace("0.05", "0.2")})
    replica, _ = await world.start(await world.build(repo="acme/loud"))
    for count in (30, 90, 150):
        await world.until(lambda: len(world.lines(replica=replica)) > count)  # noqa: B023 - called at once
        await world.close(keep=True)
        await world.open()
    await world.exit(replica)
    numbers = [line.removeprefix("line ") for line in world.lines(replica=replica)]
    assert sorted(numbers) == sorted(["over", *map(str, range(1, 241))])


async def test_what_is_said_last_while_nobody_controls_is_not_lost(world: World) -> None:
    replica, started = await world.run('echo first; while [ ! -e $HOME/go ]; do sleep 0.02; done; echo "last"; exit 3')
    await world.said("first")
    await world.close(keep=True)
    next((world.data_dir / "process" / "homes").glob("*/*")).joinpath("go").touch()
    await world.until(lambda: not running(started.pid or 0))
    await world.open()
    how = await world.exit(replica)
    assert how.last_line == "last"
    assert world.lines(replica=replica) == ["first", "last"]


async def test_a_relay_ends_with_its_replica_and_not_before(world: World) -> None:
    replica, _ = await world.run(f"echo up; {FOREVER}")
    await world.said("up")
    relays = relays_of(world.data_dir / "replicas" / replica)
    assert len(relays) == 4  # a shell and its `cat`, twice
    sessions = {stat.session for pid in relays if (stat := read_stat(pid)) is not None}
    for session in sessions:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.killpg(session, number)
    assert all(map(running, relays))
    await world.driver.stop(replica, 5)
    assert not any(map(running, relays))


async def test_one_that_is_killed_is_replaced_and_the_replica_serves_on(world: World) -> None:
    wait = "until [ -e $HOME/go ]; do sleep 0.02; done"
    replica, started = await world.run(f"echo up; {wait}; echo more; echo worse >&2; {FOREVER}")
    await world.said("up")
    relays = relays_of(world.data_dir / "replicas" / replica)
    cats = [pid for pid in relays if Path(f"/proc/{pid}/comm").read_text() == "cat\n"]
    assert len(cats) == 2
    for pid in cats:
        os.kill(pid, signal.SIGKILL)
    next((world.data_dir / "process" / "homes").glob("*/*")).joinpath("go").touch()
    await world.until(lambda: sorted(world.lines(replica=replica)) == ["more", "up", "worse"])
    assert started.pid is not None
    assert running(started.pid)


@pytest.mark.root
async def test_a_full_disk_costs_lines_and_not_the_replica(place: Path) -> None:
    with small_disk(place / "disk") as disk:
        for name in ("stdout", "stderr"):
            (disk / name).touch()
        with Relays(disk, None) as relays:
            output = relays.outputs[0]
            for _ in range(400):
                os.write(output, b"x" * 999 + b"\n")  # neither refused nor waited for
            os.truncate(disk / "stdout", 0)
            await until(lambda: f"\n{DROPPED}\n" in (disk / "stdout").read_text())
            os.write(output, b"last\n")
        assert await ended(disk, relays)
        assert (disk / "stdout").read_text().endswith(f"\n{DROPPED}\nlast\n")


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "wakegate-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


async def test_a_start_that_fails_leaves_no_relay(place: Path) -> None:
    for name in ("stdout", "stderr"):
        (place / name).touch()
    with pytest.raises(OSError, match="no"), Relays(place, None):
        raise OSError("no")
    assert relays_of(place) == []
    (place / "stderr").unlink()
    with pytest.raises(FileNotFoundError):
        Relays(place, None)
    assert relays_of(place) == []
