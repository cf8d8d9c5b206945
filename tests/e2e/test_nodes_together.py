"""Several real nodes of one store on one machine; one is killed whole, or a worker of one without control."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis
from e2e_node import Node, eventually

pytestmark = pytest.mark.xdist_group("nodes together")

APP = {
    "Procfile": "web: python3 app.py\n",
    "app.py": """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
""",
}
GRACE = ("--node-grace", "6", "--stale-limit", "10")
HOST = "web-acme.apps.localhost"


@pytest.fixture
def together(fleet: Callable[..., Node]) -> Callable[..., Node]:
    return lambda *options: fleet(*GRACE, *options)


def kill_whole(node: Node) -> None:
    """As if the machine lost power, but for the replicas of the process driver, which are nobody's children."""
    family = [node.pid, *(pid for pids in node.pids().values() for pid in pids)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    assert node.process is not None
    node.process.wait(20)


def node_id(node: Node) -> str:
    return (node.data / "node.id").read_text().strip()


def replica_nodes(store_url: str) -> dict[str, str]:
    """The node of each replica on record, by its state."""
    with redis.Redis(unix_socket_path=store_url.removeprefix("unix://")) as store:
        records: Any = store.hvals("{wg}:replica")
    replicas = [_parsed(record) for record in records]
    return {f"{r['state']} {r['id']}": r["node"] for r in replicas}


def _parsed(record: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.partition(b":")[2])
    return found


def kinds(node: Node, key: str) -> dict[str, str]:
    answer = node.api("GET", "/acme/service/web/events", key=key)
    return {item["kind"]: item["reason"] for item in answer.json()["items"]}


def test_what_a_killed_node_ran_goes_on_elsewhere(together: Callable[..., Node], store_url: str) -> None:
    one = together()
    key = one.admin_key
    one.commit("acme/web", APP)
    one.create("acme", "web", min_replicas=1)
    one.wait_status("acme", "web", "running")
    first = one.request(HOST).body
    two = together()
    kill_whole(one)
    lost = node_id(one)

    def seen() -> dict[str, Any]:
        answer = two.api("GET", "/acme/service/web", key=key)
        assert answer.status == 200, answer
        return dict(answer.json())

    statuses = []

    def moved() -> bool:
        assert two.request(HOST).status == 200
        statuses.append(seen()["status"])
        return set(replica_nodes(store_url).values()) == {node_id(two)}

    eventually(moved, 60, "its replica is on the other node alone")
    assert set(statuses) <= {"running", "degraded"}
    assert seen()["status"] == "running"
    assert two.request(HOST).body != first
    told = kinds(two, key)
    assert told["node.lost"].startswith(f"node {lost} has not been heard of for ")
    one.start()
    eventually(lambda: "node.returned" in kinds(two, key), 30, "its return is told")
    eventually(lambda: not _alive(int(first)), 30, "what it ran is ended")
    assert two.request(HOST).status == 200


def test_a_killed_node_takes_no_slots_along(fleet: Callable[..., Node]) -> None:
    """The one request that the replica may have at a time was the killed node's to send."""
    one = fleet("--node-grace", "8")
    one.commit("acme/web", APP)
    one.create("acme", "web", min_replicas=1, scaling={"concurrency": 1, "hold_timeout": 120})
    one.wait_status("acme", "web", "running")
    two = fleet("--node-grace", "8")
    replica = eventually(lambda: (answer := two.request(HOST)).status == 200 and answer.body)
    kill_whole(two)
    answer = one.request(HOST, timeout=150)
    assert (answer.status, answer.body) == (200, replica), "the same replica, and no other, once the slot is given up"


def test_what_only_a_killed_node_could_run_has_failed_until_it_is_back(together: Callable[..., Node]) -> None:
    one, west = together(), together("--region", "eu-west-1")
    one.commit("acme/web", APP)
    one.create("acme", "web", region="eu-west-1")
    one.wait_status("acme", "web", "running")
    kill_whole(west)
    shown = one.wait_status("acme", "web", "failed", 60)
    assert shown["deployment"]["reason"].startswith("no live node can run it: no node is in eu-west-1; regions here: ")
    listed = one.api("GET", "/acme/services?status=failed").json()["items"]
    assert [item["name"] for item in listed] == ["web"]
    body = {"name": "other", "repo": "acme/web", "gpu": "none", "region": "eu-west-1"}
    refused = one.api("POST", "/auth/v1/seed/acme/services", body)
    assert (refused.status, refused.json()["errors"][0]["field"]) == (422, "region")
    west.start()
    one.wait_status("acme", "web", "running", 60)
    assert {"node.lost", "node.returned"} <= kinds(one, one.admin_key).keys()


def test_a_worker_killed_without_a_control_of_its_own_holds_up_nothing(
    together: Callable[..., Node], store_url: str
) -> None:
    together()
    edge = together("--role", "gateway", "--stale-limit", "3600")

    def registered() -> set[str]:
        with redis.Redis(unix_socket_path=store_url.removeprefix("unix://")) as store:
            found: Any = store.hkeys("{wg}:workers")
        return {worker.decode() for worker in found if worker.decode().startswith(node_id(edge))}

    (before,) = eventually(registered)
    edge.kill("worker 1")
    eventually(lambda: registered() and before not in registered(), 30, "only the new one is registered")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
