"""A cold start of a real node, as everybody sees it: the client, the owner, the operator; and one that fails."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import REPLICA, Notes, Reply, ask, host
from shared_nodes import RESTARTED

pytestmark = [pytest.mark.e2e, RESTARTED.group]

BEFORE = ("decide", "schedule", "start", "ready")  # the phases of a start from what is built already…
PHASES = (*BEFORE, "first_byte")  # …for which somebody is held
STARTS, FAILURES = "wakegate_cold_start_seconds_count", "wakegate_cold_start_failures_total"
PROCFILE = "web: [ ! -e $OUT/broken ] || exit 9; exec python3 server.py\n"


def events(node: Node, kind: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = node.api("GET", f"/acme/service/web/events?kind={kind}").json()["items"]
    return items


async def woken(node: Node) -> Reply:
    reply = await ask(node.http_port, host("acme", "web"))
    assert isinstance(reply, Reply)
    return reply


def counted(node: Node, metric: str) -> Counter[str]:
    """By phase."""
    text = node.api("GET", "/metrics", key="").body.decode()
    found = re.findall(rf'^{metric}\{{phase="(\w+)"\}} (\d+)\.0$', text, re.M)
    return Counter({phase: int(number) for phase, number in found})


async def test_a_start_is_told_by_phases_and_a_failed_one_with_its_reason(restarted_node: Node) -> None:
    node = restarted_node
    notes = Notes(node, "cold").path
    before, failed_before = counted(node, STARTS), counted(node, FAILURES)
    node.commit("acme/web", {"Procfile": PROCFILE, "server.py": REPLICA})
    node.create("acme", "web", env={"OUT": str(notes)}, min_replicas=0, scaling={"idle_timeout": 1})
    eventually(lambda: node.asleep("acme", "web"), 60, "the service sleeps")

    reply = await woken(node)
    assert reply.status == 200
    names = [metric.partition(";")[0] for metric in reply.fields["server-timing"].split(", ")]
    assert names == ["wake", *PHASES]
    (answered,) = eventually(lambda: events(node, "replica.answered"))
    assert list(answered["phases"]) == [f"{phase}_ms" for phase in (*PHASES, "total")]
    ready = next(event for event in events(node, "replica.ready") if event["replica"] == answered["replica"])
    assert [ready["phases"][f"{phase}_ms"] for phase in BEFORE] == [
        answered["phases"][f"{phase}_ms"] for phase in BEFORE
    ]

    def told() -> bool:
        totals = node.api("GET", "/acme/service/web/analytics").json()["totals"]
        return totals["cold_starts"] == 1 and list(totals["cold_start_phases"]) == list(PHASES)

    eventually(told, 60, "analytics have the start that somebody was held for, and its first byte")
    found = counted(node, STARTS)
    assert (found["ready"], found["first_byte"]) == (before["ready"] + 1, before["first_byte"] + 1)

    eventually(lambda: node.asleep("acme", "web"), 60, "the service sleeps")
    (notes / "broken").touch()
    reply = await woken(node)
    assert reply.status == 503
    assert json.loads(reply.body)["detail"] == "exited with code 9 while starting"
    (failed,) = eventually(lambda: events(node, "replica.failed"))
    assert failed["phase"] == "ready"
    assert list(failed["phases"]) == [f"{phase}_ms" for phase in (*BEFORE, "total")]
    assert counted(node, FAILURES)["ready"] == failed_before["ready"] + 1


async def test_a_start_that_its_owner_asked_for_is_a_cold_start(restarted_node: Node) -> None:
    node = restarted_node
    node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    node.create("acme", "web", env={"OUT": str(Notes(node, "owned").path)}, min_replicas=0)
    service = "/auth/v1/seed/acme/services/web"
    eventually(lambda: node.service("acme", "web")["status"] == "running", 60, "it runs")
    assert node.api("POST", f"{service}/sleep").status == 200
    eventually(lambda: node.asleep("acme", "web"), 60, "it sleeps")
    before = counted(node, STARTS)
    assert node.api("POST", f"{service}/wake?wait=running&timeout=60").json()["status"] == "running"
    first, ready = eventually(lambda: len(found := events(node, "replica.ready")) == 2 and found)
    assert first["reason"].startswith("started in ")
    assert ready["reason"].startswith("cold start ")
    assert list(ready["phases"]) == [f"{phase}_ms" for phase in (*BEFORE, "total")]
    found = counted(node, STARTS)
    assert (found["decide"], found["ready"]) == (before["decide"] + 1, before["ready"] + 1)
    assert found["first_byte"] == before["first_byte"], "nobody was held"
