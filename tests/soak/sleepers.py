"""A thousand services of which a twentieth is awake: each has requests for a while, and long ones without.

    python -m tests.soak --services 1000 --seconds 300

For real: every wake starts a process (busybox's httpd, so that a small machine has room for dozens), every sleep ends
one. Each service goes on and off by itself, at random moments and for random times, exponential both, and has a request
a second while it is on, each over a connection of its own. Every request must be answered 200.

Told besides: how long those waited that woke something, what the processes of the node used, and how many commands the
store had for each wake.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.e2e.e2e_node import Node, eventually
from tests.soak.talking import Connection, Cut, request
from tests.soak.watch import samples, usage

FILES = {
    "Procfile": "web: exec busybox httpd -f -p $HOST:$PORT -h www\n",
    "www/index.html": "hello",
}
OPTIONS = ("--idle-timeout", "5", "--max-services", "0", "--builds", "8", "--git-poll", "0", "--hold-timeout", "60")
IDLE = 5.0  # seconds until a service without requests sleeps, as in `OPTIONS`
ON = 10.0  # seconds, on average
AWAKE = 0.05  # share of the services, on average
OFF = (ON + IDLE) / AWAKE - ON
CREATORS = 8
SETTLING = 120.0  # seconds
CLOCK_TICK = 100
PHASES = 'wakegate_cold_start_seconds_sum{phase="'


@dataclass
class Sleepers:
    """One run: `await run()`, then `failures` and `lines`."""

    node: Node
    services: int
    seconds: float
    failures: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # ms, of requests that were held
    statuses: Counter[int] = field(default_factory=Counter)
    awake: list[float] = field(default_factory=list)  # replicas that live, each second
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0

    async def run(self) -> None:
        await asyncio.to_thread(self._deploy)
        before = await asyncio.to_thread(self._usage)
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            for number in range(self.services):
                tasks.create_task(self._service(number))
            await asyncio.sleep(self.seconds)
            self.stop.set()
        after = await asyncio.to_thread(self._usage)
        self._tell({name: value - before.get(name, 0.0) for name, value in after.items()})
        await asyncio.to_thread(self._judge)

    def _deploy(self) -> None:
        began = time.monotonic()
        self.node.commit("acme/static", FILES)
        with ThreadPoolExecutor(CREATORS) as pool:
            list(pool.map(self._create, range(self.services)))
        eventually(lambda: self._replicas() == 0, 60 + self.services, "all were started, and sleep")
        self.lines.append(
            f"{self.services} services created, started once and asleep: {time.monotonic() - began:.0f} s"
        )

    def _create(self, number: int) -> None:
        """Until its first replica was healthy."""
        body = {"name": f"s{number}", "repo": "acme/static", "gpu": "none", "min_replicas": 0, "max_replicas": 1}
        path = "/auth/v1/seed/acme/services?wait=running&timeout=300"
        answer = self.node.api("POST", path, body, timeout=320)
        if answer.status != 201:
            self._fail(f"creating s{number}: {answer.status} {answer.body!r}")

    def _metrics(self) -> dict[str, float]:
        return samples(self.node.api("GET", "/metrics").body.decode())

    def _replicas(self) -> float:
        return sum(value for name, value in self._metrics().items() if name.startswith("wakegate_replicas{"))

    # While it runs

    async def _service(self, number: int) -> None:
        """On and off for ever; at the beginning as if it had been so for long."""
        host = f"s{number}-acme.apps.localhost"
        on = random.random() < ON / (ON + OFF)
        while not self.stop.is_set():
            until = time.monotonic() + random.expovariate(1 / (ON if on else OFF))
            while on and time.monotonic() < until and not self.stop.is_set():
                await self._ask(host)
                await self._pause(min(random.expovariate(1.0), until - time.monotonic()))
            await self._pause(until - time.monotonic())
            on = not on

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self.stop.wait()
        except TimeoutError:
            return

    async def _ask(self, host: str) -> None:
        began = time.monotonic()
        try:
            connection = await Connection.open(self.node.http_port)
            try:
                await connection.send(request("/", host, "Connection: close"))
                reply = await connection.reply(patience=70.0)
            finally:
                connection.close()
        except (Cut, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._fail(f"{host}: {error!r}")
            return
        self.statuses[reply.status] += 1
        if reply.status != 200:
            self._fail(f"{host}: {reply.status} {reply.fields.get('proxy-status')}")
        elif "wake;" in reply.fields.get("server-timing", ""):
            self.waits.append((time.monotonic() - began) * 1000)

    def _fail(self, what: str) -> None:
        at = time.monotonic() - self.began if self.began else 0.0
        self.failures.append(f"{at:6.1f} s {what}")

    async def _look(self) -> None:
        while not self.stop.is_set():
            found = await asyncio.to_thread(self._metrics)
            self.awake.append(sum(value for name, value in found.items() if name == 'wakegate_replicas{state="ready"}'))
            await self._pause(1.0)

    # What it took

    def _usage(self) -> dict[str, float]:
        """Seconds of CPU by role, commands of the store, cold starts: all since the beginning."""
        found = {role: sum(map(_cpu, pids)) for role, pids in self._pids().items()}
        with redis.Redis(unix_socket_path=str(self.node.data / "store.sock")) as store:
            found["commands"] = float(store.info("stats")["total_commands_processed"])
        metrics = self._metrics()
        found["wakes"] = metrics["wakegate_cold_starts_total"]
        sums = {name: value for name, value in metrics.items() if name.startswith(PHASES)}
        return found | {f"phase {name.removeprefix(PHASES).rstrip(chr(34) + '}')}": s for name, s in sums.items()}

    def _pids(self) -> dict[str, list[int]]:
        return {"serve": [self.node.pid], **self.node.pids()}

    def _tell(self, used: dict[str, float]) -> None:
        wakes, commands = used.pop("wakes"), used.pop("commands")
        requests = sum(self.statuses.values())
        share = 100 * sum(self.awake) / len(self.awake) / self.services
        self.lines.append(f"{self.seconds:.0f} s: {requests} requests, {wakes:.0f} cold starts, {share:.1f} % awake")
        self.lines.append(f"answers: {dict(self.statuses)}; {len(self.failures)} failed")
        waits = sorted(self.waits) or [0.0]
        ranks = {f"p{share}": waits[min(len(waits) - 1, len(waits) * share // 100)] for share in (50, 90, 99)}
        told = ", ".join(f"{name} {value:.0f}" for name, value in {**ranks, "longest": waits[-1]}.items())
        self.lines.append(f"held requests waited (ms): {told}")
        phases = {name: used.pop(name) for name in list(used) if name.startswith("phase ")}
        means = ", ".join(f"{name[6:]} {1000 * took / max(wakes, 1):.0f}" for name, took in phases.items())
        self.lines.append(f"phases of a start, on average (ms): {means}")
        self.lines.append(f"store: {commands:.0f} commands, {commands / max(wakes, 1):.0f} for each wake")
        for role, seconds in sorted(used.items()):
            resident = sum(one[0] for pid in self._pids().get(role, []) if (one := usage(pid)))
            each = f"{1000 * seconds / max(wakes, 1):.0f} ms for each wake"
            self.lines.append(f"  {role:14} {seconds:6.1f} s of CPU, {each}, {resident / 2**20:.0f} MiB at the end")

    def _judge(self) -> None:
        try:
            eventually(lambda: self._replicas() == 0, SETTLING, "all sleep")
            eventually(lambda: self._metrics()["wakegate_connections"] == 0, SETTLING, "no connection is left")
        except AssertionError as error:
            self.failures.append(str(error))
        found = self._metrics()
        self.failures += [f"{name} is {found[name]}" for name in ("wakegate_in_flight", "wakegate_held") if found[name]]
        if "Traceback" in self.node.said:
            self.failures.append("'Traceback' in what the node said")


def _cpu(pid: int) -> float:
    """Seconds in user mode and in the kernel; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICK


def slept(services: int, seconds: float) -> Iterator[str]:
    """Run it on a node of its own; yields the report's lines and ends with `ok`, or else with the failures."""
    node = Node(workers=2, options=OPTIONS)
    try:
        node.start()
        sleepers = Sleepers(node, services, seconds)
        asyncio.run(sleepers.run())
        yield from sleepers.lines
        yield from (f"FAILED: {failure}" for failure in sleepers.failures[:50])
        if sleepers.failures:
            yield node.said[-4000:]
        else:
            yield "ok"
    finally:
        node.close()
