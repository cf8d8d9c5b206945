"""Pushes on a real node with real repositories: told by a signed webhook, or found by looking at the branch."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from e2e_node import Answer, Node, eventually

pytestmark = pytest.mark.e2e

APP = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"TEXT")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


COUNTS = {"redeploy": 1, "queued": 0, "none": 4, "refused": 1}


def app(text: str) -> dict[str, str]:
    return {"Procfile": "web: python3 app.py\n", "app.py": APP.replace("TEXT", text)}


def deliver(node: Node, service: dict[str, Any], ref: str, commit: str, delivery: str) -> Answer:
    """As GitHub does."""
    body = json.dumps({"ref": ref, "after": commit, "repository": {"full_name": service["repo"]}}).encode()
    mac = hmac.new(service["webhook"]["secret"].encode(), body, hashlib.sha256).hexdigest()
    path = "/" + service["webhook"]["url"].split("/", 3)[3]
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": f"sha256={mac}"}
    return node.api("POST", path, body, key="", **headers)


def serves(node: Node, name: str, commit: str) -> dict[str, Any]:
    """The service once this commit is the one that serves."""

    def active() -> dict[str, Any] | None:
        service = node.service("acme", name)
        deployment = service["deployment"]
        return service if (deployment["state"], deployment["commit"]) == ("active", commit) else None

    found = eventually(active, 30, f"{name} serves {commit}")
    assert found is not None
    return found


def deployments(node: Node, name: str) -> list[tuple[str, str, str]]:
    """Cause, state and commit of each, newest first."""
    answer = node.api("GET", f"/acme/service/{name}/deployments")
    return [(d["cause"], d["state"], d["commit"]) for d in answer.json()["items"]]


def events(node: Node, name: str) -> list[str]:
    return [event["kind"] for event in node.api("GET", f"/acme/service/{name}/events").json()["items"]]


def metric(node: Node, name: str) -> float:
    lines = node.api("GET", "/metrics").body.decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def looks(node: Node) -> float:
    return metric(node, 'wakegate_branch_looks_total{result="seen"}')


def test_pushes_redeploy(make_node):
    node = make_node(workers=1, options=["--git-poll", "0.5"]).start()
    first = {name: node.commit(f"acme/{name}", app("one")) for name in ("hooked", "polled")}
    hooked, polled = (node.create("acme", name) for name in ("hooked", "polled"))
    for name, commit in first.items():
        serves(node, name, commit)

    # what is deployed already does nothing, but shows that webhooks tell of this branch
    for ref, delivery in (("refs/heads/dev", "00"), ("refs/heads/main", "0")):
        ignored = deliver(node, hooked, ref, first["hooked"], delivery)
        assert (ignored.status, ignored.json()["action"]) == (200, "none")
    begun = looks(node)
    eventually(lambda: looks(node) >= begun + 3, 30, "whatever was being looked at was seen")
    second = node.commit("acme/hooked", app("two"))
    told = deliver(node, hooked, "refs/heads/main", second, "1")
    assert (told.status, told.json()["action"]) == (202, "redeploy")
    assert serves(node, "hooked", second)["deployment"]["id"] == told.json()["deployment"]
    assert node.request("hooked-acme.apps.localhost").body == b"two"
    for delivery in ("1", "2"):
        replayed = deliver(node, hooked, "refs/heads/main", second, delivery)
        assert (replayed.status, replayed.json()["action"]) == (200, "none")
    forged = deliver(
        node, {**hooked, "webhook": {**polled["webhook"], "url": hooked["webhook"]["url"]}}, "x", second, "3"
    )
    assert forged.status == 403
    assert deployments(node, "hooked") == [("push", "active", second), ("create", "superseded", first["hooked"])]
    assert {"push.received", "webhook.seen"} < set(events(node, "hooked"))

    counts = {result: metric(node, f'wakegate_webhooks_total{{result="{result}"}}') for result in COUNTS}
    assert counts == COUNTS

    # nobody tells of the other one's pushes: they are found
    second = node.commit("acme/polled", app("two"))
    serves(node, "polled", second)
    bad = node.commit("acme/polled", {"Procfile": "web: exit 3\n"})
    eventually(lambda: deployments(node, "polled")[0][1:] == ("failed", bad), 30, "the bad one failed")
    assert node.request("polled-acme.apps.localhost").body == b"two"
    node.replaced("control", node.kill("control"))  # the next leader knows what was tried
    eventually(lambda: node.api("GET", "/acme/service/polled").status == 200, 30, "control reads")
    third = node.commit("acme/polled", app("three"))
    serves(node, "polled", third)
    assert deployments(node, "polled") == [
        ("push", "active", third),
        ("push", "failed", bad),
        ("push", "superseded", second),
        ("create", "superseded", first["polled"]),
    ]
    assert "branch.moved" in events(node, "polled")
