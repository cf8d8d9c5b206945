"""Kill -9 and SIGSTOP of anything at any moment, under steady traffic; and what must be true during it and afterwards.

    make soak SECONDS=600 SOAK_ARGS="--chaos --seed 7"

A node with four workers and a service of three replicas has 200 idempotent requests a second. Meanwhile replicas,
workers, control and the store are killed or stopped, one or two at once. Who is stopped goes on after a while, or
never: then it is the node's to find out. Of a replica that takes its checks two minutes, so that only long runs have
it. Two workers always work, and one replica.

Every request must be answered 200, but for those over connections that a worker held when it was killed, or stopped and
not back before its end. Afterwards everything is as before: all processes, three replicas and no others, nothing in
flight, nothing held, and the API changes things.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.e2e_node import Node, eventually
from tests.soak.talking import Connection, Cut, request
from tests.soak.watch import samples

WORKERS = 4
REPLICAS = 3
CLIENTS = 64
CONCURRENCY = 25  # of a replica, in half of the runs: with one replica fewer than clients
RATE = 200.0  # requests a second
LONG = 240.0  # seconds; runs from here on stop replicas for good, too
PATIENCE = 200.0  # seconds that a client waits: a replica that was stopped is replaced within
STARTING = 3.0  # seconds until a replica that was seen first is believed to be ready
SETTLING = 180.0  # seconds until all is as before
PROGRAM = Path(__file__).parents[1] / "e2e" / "replica.py"
COMMAND = b"python3\0server.py\0"
HOST = "web-acme.apps.localhost"
BODY = os.urandom(2000)


@dataclass(eq=False)
class Link:
    """A client's connection. `doomed`: its worker was killed or stopped while it was open."""

    connection: Connection
    doomed: bool = False

    @property
    def port(self) -> int:
        name: tuple[str, int] = self.connection.writer.get_extra_info("sockname")
        return name[1]


@dataclass
class Chaos:
    """One run: `await run()`, then `failures` and `lines`."""

    node: Node
    seconds: float
    random: random.Random
    failures: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    links: set[Link] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0
    _doomed: set[int] = field(default_factory=set)  # ports of the clients of workers that were struck
    _known: dict[int, float] = field(default_factory=dict)  # when each living replica was seen first

    async def run(self) -> None:
        await asyncio.to_thread(self._deploy)
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._client())
            async with asyncio.TaskGroup() as strikes:
                await self._strike_for(self.seconds, strikes)
            await asyncio.sleep(1.0)
            self.stop.set()
        self.lines.append(f"{self.seconds:.0f} s: {dict(sorted(self.counts.items()))}")
        await asyncio.to_thread(self._judge)

    def _deploy(self) -> None:
        self.node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": PROGRAM.read_text()})
        scaling = {"concurrency": self.random.choice((0, CONCURRENCY))}
        self.node.create("acme", "web", min_replicas=REPLICAS, max_replicas=REPLICAS, scaling=scaling)
        self.lines.append(f"{scaling}")
        eventually(lambda: self._ready() == REPLICAS, 60, "all replicas are ready")

    def _ready(self) -> int:
        ready: int = self.node.service("acme", "web")["replicas"]["ready"]
        return ready

    # Traffic

    async def _client(self) -> None:
        link: Link | None = None
        while not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, 2 * CLIENTS / RATE)):
                    await self.stop.wait()
            try:
                link = link or await self._open()
                if not await self._ask(link):
                    link = self._closed(link)
            except (Cut, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                excused = link is not None and link.doomed
                self.counts["excused" if excused else "cut"] += 1
                if not excused:
                    self._fail(f"a request: {error!r}")
                link = self._closed(link)
        self._closed(link)

    async def _open(self) -> Link:
        link = Link(await Connection.open(self.node.http_port))
        link.doomed = link.port in self._doomed  # it was accepted, and its worker struck, before we heard of it
        self.links.add(link)
        return link

    def _closed(self, link: Link | None) -> None:
        if link is not None:
            self.links.discard(link)
            link.connection.close()

    async def _ask(self, link: Link) -> bool:
        """Whether the connection can be used again."""
        method = random.choice(("GET", "PUT"))
        length = (f"Content-Length: {len(BODY)}",) if method == "PUT" else ()
        await link.connection.send(request("/x", HOST, *length, method=method) + (BODY if method == "PUT" else b""))
        reply = await link.connection.reply(method, PATIENCE)
        self.counts[str(reply.status)] += 1
        if reply.status != 200:
            self._fail(f"{reply.status}: {reply.fields.get('proxy-status')}")
        return reply.fields.get("connection") != "close"

    def _fail(self, what: str) -> None:
        at = 0.0 if not self.began else time.monotonic() - self.began
        self.failures.append(f"{at:6.2f} s {what}")

    # Strikes

    async def _strike_for(self, seconds: float, strikes: asyncio.TaskGroup) -> None:
        while time.monotonic() - self.began < seconds:
            await asyncio.sleep(self.random.uniform(0.2, 2.5))
            for _ in range(self.random.choice((1, 1, 2))):
                if (victim := await asyncio.to_thread(self._victim)) is not None:
                    self._strike(*victim, strikes)

    def _victim(self) -> tuple[str, int] | None:
        """A role and a process that has it; None: nobody may be struck now."""
        role = self.random.choice(("replica", "replica", "worker", "worker", "control", "valkey-server"))
        if role == "replica":
            able = [pid for pid in self._steady() if not _stopped(pid)]
            return (role, self.random.choice(able)) if len(able) > 1 else None
        pids = [pid for name, some in self.node.pids().items() if name.startswith(role) for pid in some]
        able = [pid for pid in pids if not _stopped(pid)]
        least = WORKERS - 1 if role == "worker" else 1
        return (role, self.random.choice(able)) if len(able) >= least else None

    def _steady(self) -> list[int]:
        """Replicas that have lived for a while."""
        now = time.monotonic()
        self._known = {pid: self._known.get(pid, now) for pid in self.replicas()}
        return [pid for pid, since in self._known.items() if now - since >= STARTING]

    def _strike(self, role: str, pid: int, strikes: asyncio.TaskGroup) -> None:
        how = self.random.choice(("KILL", "STOP", "STOP for good"))
        if role == "replica" and how == "STOP for good" and self.seconds < LONG:
            how = "STOP"
        self.lines.append(f"{time.monotonic() - self.began:6.2f} s {how} {role} {pid}")
        self.counts[f"{how} {role}"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # so that what it has can be looked at
            if role == "worker":
                self._doom(pid)
            if how == "KILL":
                os.kill(pid, signal.SIGKILL)
            elif how == "STOP":
                strikes.create_task(self._continue(pid, self.random.uniform(0.05, 4.0)))

    async def _continue(self, pid: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _doom(self, pid: int) -> None:
        while not _stopped(pid):
            time.sleep(0.001)
        self._doomed |= self.node.client_ports(pid)
        for link in self.links:
            link.doomed = link.doomed or link.port in self._doomed

    # Afterwards

    def replicas(self) -> list[int]:
        """Living replicas."""
        return sorted(pid for pid in self.node.strays() if _command(pid) == COMMAND)

    def _judge(self) -> None:
        for what, condition in (
            ("every process is there", lambda: sum(map(len, self.node.pids().values())) == WORKERS + 2),
            ("the node is ready", lambda: self.node.api("GET", "/readyz", key="").status == 200),
            ("all replicas are ready", lambda: self._ready() == REPLICAS),
            ("no other replica lives", lambda: len(self.replicas()) == REPLICAS),
            ("all are back at zero", self._quiet),
            ("the API creates services that work", self._creates),
        ):
            try:
                eventually(lambda c=condition: _quietly(c), SETTLING, what)  # type: ignore[misc]
            except AssertionError as error:
                self.failures.append(f"afterwards: {error}")
        said = self.node.said
        bad = [word for word in ("Traceback", "never retrieved", "Exception in") if word in said]
        self.failures += [f"{word!r} in what the node said" for word in bad]

    def _quiet(self) -> bool:
        found = samples(self.node.api("GET", "/metrics").body.decode())
        zero = ("wakegate_in_flight", "wakegate_held", "wakegate_connections")
        return (
            found["wakegate_workers"] == WORKERS
            and all(found[name] == 0 for name in zero)
            and not any(value < 0 for value in found.values())
        )

    def _creates(self) -> bool:
        self.node.create("acme", "later", repo="acme/web", min_replicas=0)
        return self.node.request("later-acme.apps.localhost", "/x").status == 200


def _quietly(condition: object) -> bool:
    """Its answer; False while the node can't answer."""
    assert callable(condition)
    try:
        return bool(condition())
    except (OSError, KeyError, ValueError):
        return False


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "TtZ"
    except OSError:
        return True


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def struck(seconds: float, seed: int) -> Iterator[str]:
    """Run it on a node of its own; yields the report's lines and ends with `ok`, or else with the failures."""
    node = Node(workers=WORKERS)
    try:
        node.start()
        chaos = Chaos(node, seconds, random.Random(seed))
        asyncio.run(chaos.run())
        yield f"seed {seed}"
        yield from chaos.lines
        yield from (f"FAILED: {failure}" for failure in chaos.failures)
        if chaos.failures:
            yield node.said[-6000:]
        else:
            yield "ok"
    finally:
        node.close()
