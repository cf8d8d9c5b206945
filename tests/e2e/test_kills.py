"""kill -9 and SIGSTOP of each process under traffic: warm services serve on, replicas are adopted, none is doubled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from e2e_node import Node, eventually
from scenes import Notes, Reply, Traffic, ask, deploy, host, traffic

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kills")]

WORKERS = 4
CONNECTIONS = 64
RATE = 100  # requests per second, over all connections


@pytest.fixture(scope="module")
def node(make_shared_node: Callable[..., Node]) -> Node:
    return make_shared_node(workers=WORKERS).start()


async def wait(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    await asyncio.to_thread(eventually, condition, seconds, what)


async def answered(seen: Traffic, more: int) -> None:
    """Until this many more requests were answered."""
    goal = seen.answered + more
    async with asyncio.timeout(60):
        while seen.answered < goal:
            await asyncio.sleep(0.01)


def replicas(notes: Notes) -> int:
    """Living replicas, by their own notes."""
    return sum(os.path.exists(f"/proc/{line[0]}") for line in notes.lines("starts"))


async def whole(node: Node) -> None:
    """Everything works: API, a wake of another service, all processes there."""
    await wait(lambda: len(node.pids()) == WORKERS + 2, what="every process is there")
    await wait(lambda: node.api("GET", "/readyz", key="").status == 200, what="readyz")


async def warm(node: Node, name: str) -> Notes:
    notes = deploy(node, "acme", name, min_replicas=1)
    await wait(lambda: node.service("acme", name)["status"] == "running")
    await whole(node)
    return notes


async def end(node: Node, name: str, notes: Notes) -> None:
    """Still one replica, the first one, and the API still creates services that work."""
    await whole(node)
    assert len(notes.lines("starts")) == 1, "adopted, neither doubled nor replaced"
    assert replicas(notes) == 1
    deploy(node, "later", name, min_replicas=0)
    reply = await ask(node.http_port, host("later", name))
    assert isinstance(reply, Reply)
    assert reply.status == 200


async def strike(node: Node, role: str, number: int, recovered: Callable[[int], Awaitable[None]]) -> int:
    """Send the signal; returns how many client connections the process held."""
    pid = node.child(role)
    held = len(node.client_ports(pid)) if role.startswith("worker") else 0
    os.kill(pid, number)
    await recovered(pid)
    return held


async def test_kill_9_of_control_a_worker_and_the_store_in_turn_three_rounds(node: Node):
    notes = await warm(node, "killed")
    async with traffic(node.http_port, host("acme", "killed"), rate=RATE, connections=CONNECTIONS) as seen:
        await answered(seen, 200)
        held = 0
        for turn in range(3):
            for role in ("control", f"worker {turn + 1}", "valkey-server"):

                async def recovered(old: int, role: str = role) -> None:
                    await wait(lambda: node.replaced(role, old), what=role)
                    await answered(seen, 100)

                held += await strike(node, role, signal.SIGKILL, recovered)
                # a client may find out later, when it sends its next request, that the worker is gone
                assert len(seen.cut) <= held, (role, seen.cut)
                await whole(node)
        await answered(seen, 200)
    assert seen.wrong == []
    assert seen.answered + len(seen.cut) == seen.sent
    await end(node, "killed", notes)


@pytest.mark.parametrize("role", ["control", "worker 1", "valkey-server"])
async def test_a_stopped_process_is_worked_around_then_replaced(node: Node, role: str):
    name = role.replace(" ", "-")
    notes = await warm(node, name)
    async with traffic(node.http_port, host("acme", name), rate=RATE, connections=CONNECTIONS) as seen:
        await answered(seen, 100)

        async def recovered(old: int) -> None:
            await answered(seen, 400)
            await wait(lambda: node.replaced(role, old), what=role)

        held = await strike(node, role, signal.SIGSTOP, recovered)
        await answered(seen, 200)
        assert len(seen.cut) <= held, seen.cut
    assert seen.wrong == []
    await end(node, name, notes)
