"""The analytics of a known load: what was asked and answered, over everything that may happen to the processes."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import Reply, ask, deploy, host, traffic

from control.analytics.collector import Analytics
from control.analytics.resolution import HOUR, choose
from state.mirror import Mirror
from state.store import Store

pytestmark = pytest.mark.e2e

NAME = host("acme", "web")
SLOW = {"0.02": 30, "0.1": 15, "0.4": 4, "0.8": 1}  # seconds that the replica takes, and how many such requests


def analytics(node: Node) -> Any:
    """Of the last hour. A control that has just been started has not read the store yet."""

    def read() -> Any:
        try:
            answer = node.api("GET", "/acme/service/web/analytics")
        except OSError:
            return None
        assert answer.status in (200, 503), answer
        return answer.json() if answer.status == 200 else None

    return eventually(read, 20, "analytics are answered")


def logged(log: Path) -> list[Mapping[str, Any]]:
    """What the access log says of the service."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [line for line in lines if line["service"] == "acme/web"]


def agrees(totals: Mapping[str, Any], log: Path) -> bool:
    """With the access log: counts exactly, percentiles within 2 % and the rounding of either side."""
    eventually(lambda: len(logged(log)) >= totals["requests"], 10, "the last lines are written")
    lines = logged(log)
    assert totals["requests"] == len(lines)
    assert totals["errors"] == sum(line["status"] >= 500 for line in lines)
    assert totals["bytes_in"] == sum(line["bytes_in"] for line in lines)
    assert totals["bytes_out"] == sum(line["bytes_out"] for line in lines)
    durations = sorted(line["total_ms"] for line in lines)
    for percent in (50, 95, 99):
        exact = durations[math.ceil(percent * len(durations) / 100) - 1]
        assert abs(totals[f"p{percent}_ms"] - exact) <= 0.02 * exact + 0.0015, percent
    return True


async def known_load(node: Node) -> None:
    """Requests whose durations the replica is told, those that fail, and bodies; all at once."""
    async with asyncio.TaskGroup() as group:
        for seconds, count in SLOW.items():
            for _ in range(count):
                group.create_task(ask(node.http_port, NAME, f"/slow?s={seconds}"))
        for size in (0, 1, 100_000):
            group.create_task(ask(node.http_port, NAME, "/echo", b"x" * size))


def reached(node: Node, requests: int) -> Mapping[str, Any]:
    """The totals of the last hour, once they have so many requests; never more."""

    def told() -> Mapping[str, Any] | None:
        totals: Mapping[str, Any] = analytics(node)["totals"]
        assert totals["requests"] <= requests
        return totals if totals["requests"] == requests else None

    return eventually(told, 30, f"{requests} requests are told")


async def test_counts_are_exact_over_drains_and_kills(make_node):
    """A known load, a reload under load, a killed control, an end with requests that had to be cut, killed workers."""
    node = make_node(options=["--drain-timeout", "1"])
    log = node.root / "access.log"
    node.options += ["--access-log", str(log)]
    node.start()
    deploy(node, "acme", "web", min_replicas=1)
    await asyncio.to_thread(node.wait_status, "acme", "web", "running")

    await known_load(node)
    totals = await asyncio.to_thread(reached, node, sum(SLOW.values()) + 3)
    assert agrees(totals, log)
    counted = 'wakegate_requests_total{code="200",namespace="acme",service="web"}'
    await asyncio.to_thread(eventually, lambda: metric(node, counted) == totals["requests"], 20, "the same in /metrics")
    assert totals["p50_ms"] >= 20
    assert totals["p99_ms"] >= 400

    async with traffic(node.http_port, NAME, rate=60, connections=8) as seen:
        node.send(signal.SIGHUP)
        await asyncio.to_thread(eventually, lambda: "reloaded" in node.lines(), 60, "reloaded")
        node.kill("control")
        goal = seen.answered + 60
        async with asyncio.timeout(30):
            while seen.answered < goal:
                await asyncio.sleep(0.01)
    assert seen.wrong == []
    await asyncio.to_thread(
        eventually, lambda: sum(map(len, [p for r, p in node.pids().items() if "worker" in r])) == 2
    )
    asked = sum(SLOW.values()) + 3 + seen.answered
    totals = await asyncio.to_thread(reached, node, asked)
    assert agrees(totals, log)

    async with asyncio.TaskGroup() as group:
        cut = [group.create_task(ask(node.http_port, NAME, "/slow?s=60")) for _ in range(4)]
        await asyncio.to_thread(eventually, lambda: metric(node, "wakegate_in_flight") == 4, 20, "in flight")
        status = await asyncio.to_thread(node.stop)
    assert status == 0
    assert not any(isinstance(task.result(), Reply) for task in cut)
    await asyncio.to_thread(node.start)
    totals = await asyncio.to_thread(reached, node, asked + 4)
    assert agrees(totals, log)

    def started() -> bool:
        told = node.api("GET", "/acme/service/web/events?kind=replica.ready").json()["items"]
        return len(told) == 2  # the first one, and the one after the node's end

    await asyncio.to_thread(eventually, started, 20, "the replica's second start is told")
    assert analytics(node)["totals"]["cold_starts"] == 0  # nobody waited for either

    async with traffic(node.http_port, NAME, rate=100, connections=8) as seen:
        async with asyncio.timeout(30):
            while seen.answered < 100:
                await asyncio.sleep(0.01)
    asked += 4 + seen.answered
    await asyncio.to_thread(reached, node, asked)  # each worker has told all that it counted, a second ago at most
    for number in (1, 2):
        node.kill(f"worker {number}")
    await asyncio.to_thread(reached, node, asked)
    async with asyncio.timeout(40):
        while await stored(node) < asked:  # also what the dead had not delivered
            await asyncio.sleep(0.2)
    assert await stored(node) == asked


async def stored(node: Node) -> int:
    """Requests of the last hour as far as they are in the store."""
    store = Store(f"unix://{node.data}/store.sock")
    service, now = node.service("acme", "web")["id"], int(time.time())
    nobody_heard = Analytics(store, Mirror(store, ()), lambda: None)
    try:
        answer = await nobody_heard.read(service, choose(now - HOUR, now + 60, 60, now), now)
    finally:
        await store.close()
    found: int = answer["totals"]["requests"]
    return found


def workers(node: Node) -> int:
    return sum(len(pids) for role, pids in node.pids().items() if role.startswith("worker"))


def metric(node: Node, name: str) -> int:
    lines = node.api("GET", "/metrics").body.decode().splitlines()
    return int(float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")), "0")))
