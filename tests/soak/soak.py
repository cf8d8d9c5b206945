"""Hours of mixed load on a real node, and what must be true at the end of it.

    make soak SECONDS=3600 SOAK_ARGS=--kills

The first third warms up, with a SIGHUP now and then (and `--kills`: kill -9 of a worker); then nothing but traffic,
over which memory is judged (`watch.py`). When the traffic has stopped: nothing in flight, nothing held, no connection,
the processes and descriptors that there were before, no counter below zero, no traceback, no line of the access log
that is not JSON, and no client that got anything but what it had to get.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.e2e_node import Node
from tests.soak.traffic import CLIENTS, World, repeat
from tests.soak.watch import JUDGED, Watch, samples, trends, usage

ORIGIN = Path(__file__).with_name("origin.py")
SERVICES = {
    "steady": {"min_replicas": 2, "max_replicas": 2},
    "narrow": {"min_replicas": 1, "scaling": {"concurrency": 2}},
    "broken": {"min_replicas": 1},
    "sleepy-1": {"min_replicas": 0},
    "sleepy-2": {"min_replicas": 0},
}
NAMESPACE = "soak"
OPTIONS = ("--idle-timeout", "2", "--hold-timeout", "30")
COUNTED = (
    "wakegate_cold_starts_total",
    "wakegate_hold_seconds_count",
    "wakegate_retries_total",
    "wakegate_ejections_total",
    "wakegate_connections_accepted_total",
)
RELOADS = 60.0  # seconds between two, while warming up
FIRST_RELOAD = 5.0
CLOSED = 60.0  # seconds for workers to see that the log was moved; they look four times a second
ROTATION = 20.0  # seconds between two files of the access log
KILL_TROUBLE = 3.0  # seconds during which clients of a killed worker may see anything
LEEWAY = 8  # descriptors beyond those before: connections to the store are opened when first needed, and kept
SETTLING = 90.0  # seconds until all is quiet again


@dataclass
class Soak:
    """One run: `await run()`, then `failures` and `report`."""

    node: Node
    seconds: float
    kills: bool = False
    failures: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    watch: Watch = field(default_factory=Watch)
    reloads: int = 0
    killed: int = 0

    @property
    def warm(self) -> float:
        return self.seconds / 3

    async def run(self) -> None:
        before = {role: [usage(pid) for pid in pids] for role, pids in self._pids().items()}
        await asyncio.to_thread(self._deploy)
        world = World(self.node.http_port, self.node.https_port, self._context(), _hosts())
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look(world))
            tasks.create_task(self._rotate(world))
            tasks.create_task(self._disturb(world))
            for kind, (client, count, pause) in CLIENTS.items():
                for _ in range(count):
                    tasks.create_task(repeat(world, kind, client, pause))
            await asyncio.sleep(self.seconds)
            world.stop.set()
        self._tell_traffic(world, time.monotonic() - began)
        self._judge_memory()
        await self._judge_quiet()
        await asyncio.to_thread(self._remove)
        await self._judge_descriptors({role: [one[1] for one in some if one] for role, some in before.items()})
        self._judge_words()

    # The node

    def _pids(self) -> dict[str, list[int]]:
        return {"serve": [self.node.pid], **self.node.pids()}

    def _deploy(self) -> None:
        self.node.commit(f"{NAMESPACE}/origin", {"Procfile": "web: exec python3 server.py\n", "server.py": _origin()})
        for name, settings in SERVICES.items():
            self.node.create(NAMESPACE, name, repo=f"{NAMESPACE}/origin", **settings)
        for name in ("steady", "narrow", "broken"):
            self.node.wait_status(NAMESPACE, name, "running", 60)

    def _remove(self) -> None:
        for name in SERVICES:
            answer = self.node.api("DELETE", f"/auth/v1/seed/{NAMESPACE}/services/{name}")
            self._expect(answer.status == 204, f"deleting {name}: {answer.status}")

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.node.data / "ca.pem"))

    # While it runs

    async def _look(self, world: World) -> None:
        while not world.stop.is_set():
            self.watch.look(time.monotonic() - world.began, self._pids())
            await _pause(world, 1.0)

    async def _rotate(self, world: World) -> None:
        """Move the access log away, and read what was moved once nobody writes there any more."""
        while not world.stop.is_set():
            await _pause(world, ROTATION)
            await self._read_log()

    async def _read_log(self) -> None:
        path = self.node.data / "access.log"
        moved = path.with_name("access.log.1")
        try:
            path.rename(moved)
        except FileNotFoundError:
            return
        async with asyncio.timeout(CLOSED):
            while self._written_to(moved):
                await asyncio.sleep(0.1)
        wrong = []
        for line in moved.read_text().splitlines():
            try:
                told = json.loads(line)
                self.statuses[told["status"]] += 1
                right = all(told[name] >= 0 for name in told if name.endswith("_ms") or name.startswith("bytes_"))
            except (ValueError, KeyError):
                right = False
            if not right:
                wrong.append(line)
        self._expect(not wrong, f"access log: {len(wrong)} lines are wrong, such as {wrong[:1]}")
        moved.unlink()

    def _written_to(self, file: Path) -> bool:
        """Does a process of the node have it open?"""
        for pid in (pid for pids in self._pids().values() for pid in pids):
            with contextlib.suppress(OSError):  # the process has ended
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if descriptor.samefile(file):
                            return True
        return False

    async def _disturb(self, world: World) -> None:
        """SIGHUP now and then, and half-way between two of them the end of a worker."""
        await _pause(world, min(FIRST_RELOAD, self.warm / 2))
        while time.monotonic() - world.began < self.warm and not world.stop.is_set():
            self.node.send(signal.SIGHUP)
            self.reloads += 1
            await _pause(world, RELOADS / 2)
            if self.kills and time.monotonic() - world.began < self.warm:
                world.disturbed_until = time.monotonic() + KILL_TROUBLE
                self.node.kill(f"worker {1 + self.killed % 2}")
                self.killed += 1
            await _pause(world, RELOADS / 2)

    # At the end

    def _expect(self, condition: bool, failure: str) -> None:
        if not condition:
            self.failures.append(failure)

    def _tell_traffic(self, world: World, took: float) -> None:
        done = sum(world.done.values())
        self.lines.append(f"{took:.0f} s, {done} things done, {self.reloads} reloads, {self.killed} workers killed")
        for kind in CLIENTS:
            self.lines.append(f"  {kind:20} {world.done[kind]:9} done {world.failed[kind]:6} wrong")
            self._expect(world.done[kind] > 0, f"{kind}: nothing was done")
        self.lines.append(f"  closed between two requests: {world.stale}; excused by a killed worker: {world.excused}")
        self._expect(not world.failed, f"clients saw what they must not see: {dict(world.failed)}")
        self.lines += world.wrong

    def _judge_memory(self) -> None:
        judged = self.seconds - self.warm >= JUDGED
        self.lines.append(f"memory after the warm-up, {'judged' if judged else 'too short to be judged'}:")
        for trend in trends(self.watch.lived_through(self.warm, self.seconds), self.warm, self.seconds):
            self.lines.append(f"  {trend}")
            self._expect(trend.flat or not judged, f"memory grows: {trend}")

    async def _judge_quiet(self) -> None:
        quiet = ("wakegate_in_flight", "wakegate_held", "wakegate_connections")
        found: dict[str, float] = {}

        def is_quiet() -> bool:
            answer = self.node.api("GET", "/metrics")
            found.clear()
            found.update(samples(answer.body.decode()))
            return all(found.get(name) == 0 for name in quiet)

        await _within(SETTLING, is_quiet)
        for name in quiet:
            self._expect(found.get(name) == 0, f"{name} is {found.get(name)}")
        below = {name: value for name, value in found.items() if value < 0}
        self._expect(not below, f"below zero: {below}")
        self.lines.append(f"at the end: {', '.join(f'{name} {found.get(name, -1):g}' for name in quiet)}")
        self.lines.append(f"counted: {', '.join(f'{name} {found.get(name, 0):g}' for name in COUNTED)}")
        self._expect(found.get(COUNTED[0], 0) >= self.seconds / 60, "nothing fell asleep and woke")
        dropped = {name: value for name, value in found.items() if "dropped" in name and value}
        self.lines.append(f"dropped: {dropped or 'nothing'}")

    async def _judge_descriptors(self, before: dict[str, list[int]]) -> None:
        now: dict[str, list[int]] = {}

        def are_back() -> bool:
            now.clear()
            now.update({role: [one[1] for pid in pids if (one := usage(pid))] for role, pids in self._pids().items()})
            return all(
                len(now.get(role, [])) == len(some) and max(now[role]) <= max(some) + LEEWAY
                for role, some in before.items()
            )

        back = await _within(SETTLING, are_back)
        for role, some in before.items():
            self.lines.append(f"  {role:14} {some} descriptors before, {now.get(role)} at the end")
        self._expect(back, "descriptors or processes are left over")

    def _judge_words(self) -> None:
        said = self.node.said
        for word in ("Traceback", "never retrieved", "never awaited", "Exception in"):
            self._expect(word not in said, f"{word!r} in what the node said")
        self._expect(said.count("reloaded\n") == self.reloads, f"{said.count('reloaded')} of {self.reloads} reloads")
        # a worker that was replaced unasked (a starved machine, a crash) explains what clients saw
        self.lines += [f"  {line}" for line in said.splitlines() if "restarting" in line or "silent" in line]
        self.lines.append(f"answers by the access log: {dict(sorted(self.statuses.items()))}")


def _origin() -> str:
    return ORIGIN.read_text()


def _hosts() -> dict[str, str]:
    return {name: f"{name}-{NAMESPACE}.apps.localhost" for name in SERVICES}


async def _pause(world: World, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await world.stop.wait()
    except TimeoutError:
        return


async def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.5)
    return True


def soaked(seconds: float, kills: bool = False) -> Iterator[str]:
    """Run it on a node of its own; yields the report's lines and ends with `ok`, or else with the failures."""
    node = Node(workers=2, options=OPTIONS)
    try:
        node.start()
        soak = Soak(node, seconds, kills)
        asyncio.run(soak.run())
        yield from soak.lines
        yield from (f"FAILED: {failure}" for failure in soak.failures)
        if soak.failures:
            yield node.said[-4000:]
        else:
            yield "ok"
    finally:
        node.close()
