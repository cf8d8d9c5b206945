"""The main job: a service at zero wakes under its requests, once, and loses none."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os

import pytest
from e2e_node import eventually
from scenes import Reply, ask, deploy, host
from shared_nodes import WIDE

from state.store import REPORTS, Store

pytestmark = [pytest.mark.e2e, WIDE.group]


async def test_five_hundred_requests_at_once_to_a_service_at_zero_start_it_once(wide_node):
    node = wide_node
    settings = {"min_replicas": 0, "max_replicas": 1, "scaling": {"idle_timeout": 1}}
    notes = deploy(node, "acme", "crowd", env={"START_GATE": "1"}, **settings)
    gate = notes.path / "go"
    gate.touch()
    eventually(lambda: node.asleep("acme", "crowd"), 60, "the service sleeps")
    assert len(notes.lines("starts")) == 1
    gate.unlink()

    body = os.urandom(300_000)
    digest = hashlib.sha256(body).hexdigest()
    gets = [ask(node.http_port, host("acme", "crowd"), f"/get/{n}") for n in range(490)]
    posts = [ask(node.http_port, host("acme", "crowd"), "/echo", body) for _ in range(10)]
    held_by: dict[str, int] = {}
    async with asyncio.TaskGroup() as group:
        listener = group.create_task(listen(node, held_by))
        asking = [group.create_task(one) for one in (*gets, *posts)]
        async with asyncio.timeout(60):
            while sum(held_by.values()) < 500:
                await asyncio.sleep(0.02)
        gate.touch()
        replies = await asyncio.gather(*asking)
        listener.cancel()

    assert [r.status if isinstance(r, Reply) else r for r in replies] == [200] * 500
    assert {r.body for r in replies[490:]} == {f"300000 {digest}\n".encode()}
    assert all("wake;dur=" in r.fields["server-timing"] for r in replies[:490])
    assert len(notes.lines("starts")) == 2
    seen = {line[3] for line in notes.lines("requests")}
    assert {f"/get/{n}" for n in range(490)} <= seen
    assert {number for number, held in held_by.items() if held} == {"1", "2", "3", "4"}, "every worker held some"


async def listen(node, held_by: dict[str, int]) -> None:
    """Keep the most that each worker ever reported as held."""
    store = Store(f"unix://{node.data}/store.sock")
    try:
        async for _, data in store.subscribe(REPORTS):
            report = json.loads(data)
            number = report["worker"].split("/")[2]
            held = sum(load["held"] for load in report["services"].values())
            held_by[number] = max(held, held_by.get(number, 0))
    finally:
        await store.close()


async def test_order_of_events_of_a_wake(wide_node):
    """The first answer leaves after the replica could answer, never before; figures are in `make bench`."""
    node = wide_node
    notes = deploy(node, "acme", "ordered", env={"START_DELAY": "0.7"}, min_replicas=0, scaling={"idle_timeout": 1})
    eventually(lambda: node.asleep("acme", "ordered"), 60, "the service sleeps")
    reply = await ask(node.http_port, host("acme", "ordered"), "/first")
    assert isinstance(reply, Reply)
    assert reply.status == 200
    began, ready = float(notes.lines("starts")[1][1]), float(notes.lines("ready")[1][1])
    asked = next(float(line[1]) for line in notes.lines("requests") if line[3] == "/first")
    assert began + 0.7 <= ready <= asked
    events = node.api("GET", "/acme/service/ordered/events").json()["items"]
    assert [e["kind"] for e in events].index("deployment.active") < [e["kind"] for e in events].index("service.slept")
