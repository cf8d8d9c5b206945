"""Rolling deployments under load: no request fails, never do fewer serve than before, what is long drains.

Every revision of the service's backend, which is what workers follow, is read from the store's feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import Notes, Reply, Traffic, ask, host, traffic
from tunnels import Tunnel

from activator.drivers.process.procfs import read_stat
from state.codec import decode
from state.kinds import Kind
from state.models import Backend
from state.store import Store

pytestmark = [pytest.mark.e2e]

REPLICA = (Path(__file__).parent / "rolling_replica.py").read_text()
DRAIN = 7  # seconds
SLOW = 5
HOST = host("acme", "web")
PATH = "/auth/v1/seed/acme/services/web"


class Watched:
    """The service under load, and every backend that it had meanwhile."""

    def __init__(self, node: Node, notes: Notes, service: str, env: dict[str, str]) -> None:
        self.node = node
        self.notes = notes
        self.service = service
        self.env = env
        self.backends: list[Backend] = []
        self.slow: list[Reply | Exception] = []
        self.shown: list[int] = []  # ready replicas, as the API told
        self.load: Traffic

    async def call(self, method: str, what: str = "", body: Any = None) -> dict[str, Any]:
        answer = await asyncio.to_thread(self.node.api, method, PATH + what, body)
        assert answer.status == 200, answer
        shown: dict[str, Any] = answer.json()
        return shown

    async def read(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.node.service, "acme", "web")

    async def until(self, condition: Any, what: str) -> dict[str, Any]:
        """The service once it is so."""
        async with asyncio.timeout(60):
            while not condition(shown := await self.read()):
                await asyncio.sleep(0.05)
        assert shown, what
        return shown

    async def alone(self, count: int) -> None:
        """Only the newest deployment's replicas are left."""
        states = {"desired": count, "ready": count, "starting": 0, "unhealthy": 0, "draining": 0}
        await self.until(lambda shown: shown["replicas"] == states, "the old ones are gone")

    def alive(self) -> list[int]:
        pids = [int(line[0]) for line in self.notes.lines("starts")]
        return [pid for pid in pids if (stat := read_stat(pid)) is not None and stat.alive]

    @property
    def endpoints(self) -> set[str]:
        return {endpoint.id for endpoint in self.backends[-1].endpoints if endpoint.ready}

    def check(self, least: int) -> None:
        assert (self.load.wrong, self.load.cut) == ([], [])
        assert [reply for reply in self.slow if not isinstance(reply, Reply) or reply.status != 200] == []
        assert min(sum(e.ready for e in backend.endpoints) for backend in self.backends) >= least
        assert min(self.shown) >= least


@contextlib.asynccontextmanager
async def under_load(make_node: Any, replicas: int) -> AsyncIterator[Watched]:
    """200 requests a second, each fiftieth takes `SLOW` seconds."""
    node = make_node(workers=2, options=["--drain-timeout", str(DRAIN)]).start()
    node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    notes = Notes(node, "web")
    env = {"OUT": str(notes.path), "VERSION": "1"}
    created = node.create("acme", "web", min_replicas=replicas, max_replicas=replicas + 1, env=env)
    ready = await asyncio.to_thread(node.wait_status, "acme", "web", "running")
    assert ready["replicas"]["ready"] >= 1
    watched = Watched(node, notes, created["id"], env)
    await watched.until(lambda shown: shown["replicas"]["ready"] == replicas, "all are ready")
    store = Store(f"unix://{node.data}/store.sock")
    over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(_follow(store, watched))
            async with traffic(node.http_port, HOST, rate=196, connections=32) as watched.load:
                tasks.create_task(_slow_ones(watched, over))
                tasks.create_task(_look(watched, over))
                try:
                    yield watched
                finally:
                    over.set()
            following.cancel()
    finally:
        await store.close()


async def _follow(store: Store, watched: Watched) -> None:
    record = await store.get(Kind.BACKEND, watched.service)
    assert record is not None
    watched.backends.append(decode(Backend, record.value))
    revision = record.version
    while True:
        for entry in await store.read_feed(revision):
            revision = entry.revision
            told = [value for kind, i, value in entry.changes if (kind, i) == (Kind.BACKEND, watched.service)]
            watched.backends += [decode(Backend, value) for value in told if value is not None]


async def _slow_ones(watched: Watched, over: asyncio.Event) -> None:
    async def one() -> None:
        watched.slow.append(await ask(watched.node.http_port, HOST, f"/slow?s={SLOW}"))

    async with asyncio.TaskGroup() as tasks:
        while not await _within(over, 0.25):
            tasks.create_task(one())


async def _look(watched: Watched, over: asyncio.Event) -> None:
    while not await _within(over, 0.1):
        with contextlib.suppress(OSError):  # control was killed
            answer = await asyncio.to_thread(watched.node.api, "GET", "/acme/service/web")
            if answer.status == 200:
                watched.shown.append(answer.json()["replicas"]["ready"])


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def answered(seen: Traffic, more: int = 100) -> None:
    goal = seen.answered + more
    async with asyncio.timeout(60):
        while seen.answered < goal:
            await asyncio.sleep(0.01)


async def bad_ones_change_nothing(web: Watched) -> None:
    before, active = web.endpoints, (await web.read())["deployment"]
    failing: list[tuple[str, dict[str, Any], str]] = [
        ("exits", {"env": web.env | {"MODE": "exit"}}, "I can't go on"),
        ("is ill", {"env": web.env | {"MODE": "ill"}, "scaling": {"startup_timeout": 2}}, "500"),
        ("has no branch", {"branch": "nowhere", "scaling": {"startup_timeout": None}}, "nowhere"),
    ]
    for what, change, reason in failing:
        shown = await web.call("PUT", "?wait=running&timeout=60", change)
        assert (shown["status"], shown["deployment"]) == ("running", active), what
        assert shown["rollout"]["state"] == "failed", what
        assert reason in shown["rollout"]["reason"]
    await web.until(lambda shown: shown["replicas"]["ready"] == len(before), "nothing else is left")
    told = {frozenset(e.id for e in backend.endpoints if e.ready) for backend in web.backends}
    assert told == {frozenset(before)}


async def test_bad_deployments_and_redeploys_in_a_row_under_load(make_node):
    """What fails changes nothing; what follows takes over without a failed request; a tunnel has the drain time."""
    async with under_load(make_node, 3) as web:
        tunnel = await asyncio.to_thread(Tunnel, web.node, "web")
        await answered(web.load)
        await bad_ones_change_nothing(web)
        before, began = web.endpoints, time.monotonic()
        good = await web.call("PUT", "?wait=running&timeout=60", {"branch": "main", "env": web.env})
        assert (good["status"], good["rollout"], good["deployment"]["cause"]) == ("running", None, "update")
        await web.until(lambda _: web.endpoints.isdisjoint(before), "the new ones serve")
        assert await asyncio.to_thread(tunnel.echoes, b"still here")
        assert (await web.read())["replicas"]["draining"] >= 1
        cutting = asyncio.create_task(asyncio.to_thread(tunnel.is_cut))
        again = await web.call("POST", "/redeploy?wait=running&timeout=60")
        assert again["deployment"]["cause"] == "redeploy"
        await web.call("PATCH", "/env?wait=running&timeout=60", {"VERSION": "2"})
        reply = await ask(web.node.http_port, HOST)
        assert isinstance(reply, Reply)
        assert reply.body.startswith(b"2 ")
        assert await cutting
        assert time.monotonic() - began >= DRAIN
        await web.alone(3)
        assert len(web.alive()) == 3
    web.check(3)
    assert len(web.slow) > 10


async def test_control_killed_at_any_moment_of_a_rollout(make_node):
    """The caller hears what came of it, or his connection breaks; to say the same once more is all that it takes."""
    async with under_load(make_node, 2) as web:
        for version in range(2, 5):
            await answered(web.load)
            old, patch = web.node.child("control"), {"VERSION": str(version)}
            changing = asyncio.create_task(web.call("PATCH", "/env?wait=running&timeout=60", patch))
            await asyncio.wait([changing], timeout=random.uniform(0, 1.5))
            os.kill(old, signal.SIGKILL)
            await asyncio.wait([changing])
            await asyncio.to_thread(web.node.replaced, "control", old)
            await asyncio.to_thread(eventually, lambda: _reads(web.node), 60, "the API answers again")
            if changing.exception() is not None:
                await web.call("PATCH", "/env", patch)
            await web.until(lambda shown: shown["rollout"] is None and shown["status"] == "running", "it is deployed")
            reply = await ask(web.node.http_port, HOST)
            assert isinstance(reply, Reply)
            assert reply.body.split()[0] == str(version).encode()
        await web.alone(2)
        assert len(web.alive()) == 2
    web.check(2)


def _reads(node: Node) -> bool:
    try:
        return node.api("GET", "/acme/service/web", timeout=5).status == 200
    except OSError:
        return False
