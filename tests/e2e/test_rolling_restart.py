"""Nodes of one store stop in order: what they run goes to others, and no request is lost, wherever it is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import Notes, Reply, ask, deploy, host
from test_nodes_together import node_id, replica_nodes

from tests.conftest import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("nodes together")]

WARM, ONE, ASLEEP = (host("acme", name) for name in ("warm", "one", "asleep"))
BALANCER = "127.0.0.9"  # no port of a node is one of this address' own: nobody connects to himself


async def post(port: int, name: str, target: str = "/x") -> Reply | Exception:
    """One that a gateway may not repeat once a replica has it."""
    return await ask(port, name, target, b"once", source=BALANCER)


class Balancer:
    """Sends each request to any node, and to another where the connection is refused."""

    def __init__(self, *nodes: Node) -> None:
        self.ports = {node: node.http_port for node in nodes}
        self.answered = 0
        self.wrong: list[str] = []

    async def ask(self, name: str, target: str = "/x") -> None:
        reply: Reply | Exception | None = None
        for port in random.sample(list(self.ports.values()), len(self.ports)):
            reply = await post(port, name, target)
            if not isinstance(reply, ConnectionRefusedError):
                break
        if isinstance(reply, Reply) and reply.status == 200:
            self.answered += 1
        else:
            self.wrong.append(f"{name}{target}: {reply!r}")

    async def answers(self, more: int = 100) -> None:
        """Returns once so many more requests were answered."""
        goal = self.answered + more
        async with asyncio.timeout(60):
            while self.answered < goal:
                assert self.wrong == []
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def clients(balancer: Balancer) -> AsyncIterator[None]:
    """20 requests a second to what is awake, one a second that takes three, and now and then one to what sleeps."""
    over = asyncio.Event()

    async def client(pause: float, name: str, target: str) -> None:
        async with asyncio.TaskGroup() as requests:
            while not over.is_set():
                requests.create_task(balancer.ask(name, target))
                await asyncio.sleep(random.uniform(0, 2 * pause))

    async with asyncio.TaskGroup() as tasks:
        for pause, name, target in ((0.05, WARM, "/x"), (0.05, ONE, "/x"), (1, WARM, "/slow?s=3"), (3, ASLEEP, "/x")):
            tasks.create_task(client(pause, name, target))
        try:
            yield
        finally:
            over.set()


def on(store_url: str, node: Node) -> dict[str, str]:
    """The replicas on record at this node."""
    return {replica: where for replica, where in replica_nodes(store_url).items() if where == node_id(node)}


async def in_flight(notes: Notes, request: Coroutine[Any, Any, Reply | Exception]) -> asyncio.Task[Reply | Exception]:
    """The request, once a replica has it."""
    before = len(notes.lines("requests"))
    task = asyncio.ensure_future(request)
    async with asyncio.timeout(30):
        while len(notes.lines("requests")) == before:
            await asyncio.sleep(0.01)
    return task


def answered(reply: Reply | Exception) -> bool:
    return isinstance(reply, Reply) and reply.status == 200


@pytest.fixture
async def two(fleet: Callable[..., Node]) -> list[Node]:
    return [await asyncio.to_thread(fleet, "--drain-timeout", "15", "--idle-timeout", "2") for _ in range(2)]


def service(node: Node, name: str, status: str = "running", **fields: Any) -> Notes:
    """A new one, once it has the status."""
    notes = deploy(node, "acme", name, **fields)
    for file in ("starts", "ready", "requests", "stops"):
        (notes.path / file).touch()
        (notes.path / file).chmod(0o666)  # a namespace has another uid on each node
    node.wait_status("acme", name, status)
    return notes


def in_order(store_url: str, nodes: list[Node]) -> list[Node]:
    """Those with replicas first."""
    return sorted(nodes, key=lambda node: not on(store_url, node))


async def test_no_request_is_lost_while_one_node_after_the_other_is_restarted(two: list[Node], store_url: str) -> None:
    key = two[0].admin_key
    notes = await asyncio.to_thread(service, two[0], "warm", min_replicas=1)
    nodes = in_order(store_url, two)
    await asyncio.to_thread(service, two[0], "one", min_replicas=1, scaling={"concurrency": 1})
    await asyncio.to_thread(service, two[0], "asleep", "stopped", min_replicas=0)
    balancer = Balancer(*nodes)
    async with clients(balancer):
        await balancer.answers()
        for node, other in (nodes, reversed(nodes)):
            assert on(store_url, node)
            slow = await in_flight(notes, post(other.http_port, WARM, "/slow?s=4"))
            assert await asyncio.to_thread(node.stop) == 0
            assert answered(await slow)
            assert on(store_url, node) == {}
            await balancer.answers()
            await asyncio.to_thread(node.start)
            balancer.ports[node] = node.http_port
            await balancer.answers()
    assert balancer.wrong == []
    events = nodes[0].api("GET", "/acme/service/warm/events?limit=1000", key=key).json()["items"]
    drained = [event["reason"] for event in events if event["kind"] == "replica.draining"]
    assert drained == [f"node {node_id(node)} stops, and it is replaced" for node in nodes]
    assert "replica.cut" not in {event["kind"] for event in events}
    assert len(notes.lines("stops")) == 2


async def test_a_node_stops_although_the_other_does_not_answer(two: list[Node], store_url: str) -> None:
    """And that one, once it goes on, serves what had been here."""
    await asyncio.to_thread(service, two[0], "warm", min_replicas=1)
    node, other = in_order(store_url, two)
    family = [other.pid, *(pid for pids in other.pids().values() for pid in pids)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert await asyncio.to_thread(node.stop, seconds=90) == 0
        assert node.strays() == []
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    assert answered(await post(other.http_port, WARM))


async def test_a_second_signal_ends_it_at_once(fleet: Callable[..., Node], store_url: str) -> None:
    two = [await asyncio.to_thread(fleet, "--drain-timeout", "600") for _ in range(2)]
    notes = await asyncio.to_thread(service, two[0], "warm", min_replicas=1)
    node, other = in_order(store_url, two)
    slow = await in_flight(notes, post(other.http_port, WARM, "/slow?s=600"))
    node.send(signal.SIGTERM)
    await asyncio.to_thread(eventually, lambda: on(store_url, other), what="the other node takes over")
    assert await asyncio.to_thread(node.stop, seconds=30) == 0
    assert node.strays() == []
    cut = await slow
    assert isinstance(cut, Reply)
    assert cut.status == 502


async def test_a_control_that_dies_meanwhile_goes_on_with_it(two: list[Node], store_url: str) -> None:
    notes = await asyncio.to_thread(service, two[0], "warm", min_replicas=1)
    node, other = in_order(store_url, two)
    slow = [await in_flight(notes, post(port, WARM, "/slow?s=6")) for port in (node.http_port, other.http_port)]
    old = node.child("control")
    node.send(signal.SIGTERM)
    await asyncio.to_thread(eventually, lambda: "the node stops" in node.said, what="it hands over")
    os.kill(old, signal.SIGKILL)
    assert node.process is not None
    assert await asyncio.to_thread(node.process.wait, 60) == 0, node.said
    assert [answered(await one) for one in slow] == [True, True]
    assert set(replica_nodes(store_url).values()) == {node_id(other)}
    assert answered(await post(other.http_port, WARM))


async def test_what_others_have_in_flight_at_the_last_node_ends_and_what_comes_is_held_until_it_is_back(
    fleet: Callable[..., Node], store_url: str
) -> None:
    node = await asyncio.to_thread(fleet, "--drain-timeout", "15")
    edge = await asyncio.to_thread(fleet, "--role", "gateway")
    notes = await asyncio.to_thread(service, node, "warm", min_replicas=1)
    slow = await in_flight(notes, post(edge.http_port, WARM, "/slow?s=3"))
    assert await asyncio.to_thread(node.stop) == 0
    assert answered(await slow)
    held = asyncio.ensure_future(post(edge.http_port, WARM))
    await asyncio.to_thread(node.start)
    assert answered(await held)


async def test_a_node_whose_store_is_gone_stops(fleet: Callable[..., Node], valkey: Valkey) -> None:
    node = await asyncio.to_thread(fleet)
    await asyncio.to_thread(service, node, "warm", min_replicas=1)
    valkey.kill()
    assert await asyncio.to_thread(node.stop, seconds=40) == 0
    assert node.strays() == []
