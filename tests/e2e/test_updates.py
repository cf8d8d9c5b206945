"""Deployments as their owner sees them: updates, redeploys, bad ones, rollback, cancel, sleep and wake."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from e2e_node import Answer, Node, eventually
from shared_nodes import WIDE

pytestmark = [pytest.mark.e2e, WIDE.group]

SERVER = """\
import http.server, json, os, sys, time
if os.environ.get("MODE") == "exit":
    sys.exit("I can't go on")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.environ.get("MODE") == "ill" and self.path == "/":
            return self.send_error(500)
        if self.path.startswith("/slow/"):
            time.sleep(float(self.path[6:]))
        body = json.dumps({"pid": os.getpid(), "version": open("version").read(), "word": os.environ.get("WORD"),
                           "other": os.environ.get("OTHER")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


class Owner:
    """One service of the shared node, with a repository of its own."""

    def __init__(self, node: Node, name: str) -> None:
        self.node = node
        self.name = name
        self.host = f"{name}-acme.apps.localhost"
        self.path = f"/auth/v1/seed/acme/services/{name}"

    def push(self, version: str, *, branch: str = "main", procfile: str = "web: exec python3 server.py\n") -> str:
        files = {"Procfile": procfile, "server.py": SERVER, "version": version}
        return self.node.commit(f"acme/{self.name}", files, branch=branch)

    def create(self, **fields: Any) -> dict[str, Any]:
        self.commit = self.push("1")
        body = {"name": self.name, "repo": f"acme/{self.name}", "gpu": "none", **fields}
        answer = self.node.api("POST", "/auth/v1/seed/acme/services?wait=running&timeout=60", body)
        assert (answer.status, answer.json()["status"]) == (201, "running"), answer
        return answer.json()

    def call(self, method: str, what: str = "", body: Any = None, *, status: int = 200, **headers: str) -> Any:
        answer = self.node.api(method, self.path + what, body, **headers)
        assert answer.status == status, answer
        return answer.json()

    def put(self, *, wait: bool = True, **fields: Any) -> Any:
        return self.call("PUT", "?wait=running&timeout=60" if wait else "", fields)

    def get(self) -> Any:
        return self.node.service("acme", self.name)

    def deployments(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.node.api("GET", f"/acme/service/{self.name}/deployments").json()["items"]
        return items

    def ask(self, path: str = "/x") -> dict[str, Any]:
        answer: Answer = self.node.request(self.host, path)
        assert answer.status == 200, answer
        body: dict[str, Any] = json.loads(answer.body)
        return body


_names = (f"app{number}" for number in itertools.count())


@pytest.fixture
def owner(wide_node: Node) -> Owner:
    return Owner(wide_node, next(_names))


def test_a_change_of_the_environment_rolls_and_keeps_the_commit(owner: Owner) -> None:
    first = owner.create(env={"WORD": "one", "OTHER": "x"})
    assert first["deployment"]["cause"] == "create"
    owner.push("2")  # not asked for yet
    second = owner.put(env={"WORD": "two"})
    assert (second["status"], second["rollout"], second["env"]) == ("running", None, {"WORD": "***"})
    deployed = second["deployment"]
    assert (deployed["cause"], deployed["state"], deployed["commit"]) == ("update", "active", owner.commit)
    answered = owner.ask()
    assert (answered["version"], answered["word"], answered["other"]) == ("1", "two", None)
    merged = owner.call("PATCH", "/env?wait=running", {"OTHER": "y"})
    assert merged["env"] == {"OTHER": "***", "WORD": "***"}
    assert (owner.ask()["word"], owner.ask()["other"]) == ("two", "y")
    unchanged = owner.put(env={"WORD": "two", "OTHER": "y"})
    assert unchanged["deployment"] == merged["deployment"]
    removed = owner.call("PATCH", "/env?wait=running", {"OTHER": None, "NEVER": None})
    assert removed["env"] == {"WORD": "***"}
    assert owner.ask()["other"] is None


def test_scaling_restarts_nothing(owner: Owner) -> None:
    created = owner.create(max_replicas=3)
    pid = owner.ask()["pid"]
    changed = owner.put(
        min_replicas=2, max_replicas=4, target_gpu_utilization=50, scaling={"scale_down_delay": 0, "affinity": "cookie"}
    )
    assert changed["deployment"]["id"] == created["deployment"]["id"]
    eventually(lambda: owner.get()["replicas"]["ready"] == 2, what="the second one is ready")
    assert pid in {owner.ask()["pid"] for _ in range(20)}
    assert len(owner.deployments()) == 1


def test_redeploys_and_branches_take_the_newest_commit(owner: Owner) -> None:
    owner.create()
    second = owner.push("2")
    redeployed = owner.call("POST", "/redeploy?wait=running")
    assert (redeployed["deployment"]["cause"], redeployed["deployment"]["commit"]) == ("redeploy", second)
    assert owner.ask()["version"] == "2"
    third = owner.push("3", branch="dev")
    moved = owner.put(branch="dev")
    assert (moved["branch"], moved["deployment"]["commit"]) == ("dev", third)
    assert owner.ask()["version"] == "3"
    states = [(d["cause"], d["state"]) for d in owner.deployments()]
    assert states == [("update", "active"), ("redeploy", "superseded"), ("create", "superseded")]


BAD = {
    "exits": ({"env": {"MODE": "exit"}}, ["exited with code 1", "I can't go on"]),
    "is-ill": ({"env": {"MODE": "ill"}}, ["500", "2 s"]),
    "listens-elsewhere": ({"health_check_path": "/slow/60"}, ["2 s"]),
    "has-no-branch": ({"branch": "nowhere"}, ["nowhere", "no branch"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_deployment_leaves_the_old_one_serving(owner: Owner, case: str) -> None:
    fields, words = BAD[case]
    created = owner.create(scaling={"startup_timeout": 30})
    before = owner.ask()
    owner.put(scaling={"startup_timeout": 2})
    after = owner.put(**fields)
    assert after["status"] == "running"
    assert after["deployment"]["id"] == created["deployment"]["id"]
    assert after["rollout"]["state"] == "failed"
    assert all(word in after["rollout"]["reason"] for word in words), after["rollout"]
    assert owner.ask() == before
    eventually(lambda: owner.get()["replicas"]["starting"] == 0, what="nothing of it is left starting")
    assert owner.ask() == before


def test_a_deployment_in_progress_refuses_others_and_is_cancelled(owner: Owner) -> None:
    owner.create()
    before = owner.ask()
    rolling = owner.put(env={"MODE": "ill"}, wait=False)
    assert (rolling["status"], rolling["rollout"]["state"] in ("pending", "building", "starting")) == ("running", True)
    for method, what, body in (
        ("POST", "/redeploy", None),
        ("POST", "/rollback", {}),
        ("POST", "/sleep", None),
        ("PUT", "", {"env": {}}),
        ("PATCH", "/env", {"A": "b"}),
    ):
        assert "in progress" in owner.call(method, what, body, status=409)["detail"]
    owner.put(max_replicas=2, wait=False)
    eventually(lambda: owner.get()["replicas"]["starting"] == 1, what="the new one starts")
    cancelled = owner.call("POST", "/cancel")
    assert (cancelled["status"], cancelled["rollout"]) == ("running", None)
    assert owner.deployments()[0]["state"] == "cancelled"
    eventually(
        lambda: owner.get()["replicas"] == {"desired": 1, "ready": 1, "starting": 0, "unhealthy": 0, "draining": 0},
        what="the new one is gone",
    )
    assert owner.ask() == before
    owner.call("POST", "/cancel", status=409)


def test_a_long_build_is_cancelled(owner: Owner) -> None:
    owner.create()
    owner.push("2", procfile="build: sleep 600\nweb: exec python3 server.py\n")
    owner.call("POST", "/redeploy")
    eventually(lambda: owner.get()["rollout"]["state"] == "building", what="it builds")
    owner.call("POST", "/cancel")
    owner.push("3")
    assert owner.call("POST", "/redeploy?wait=running")["deployment"]["state"] == "active"
    assert owner.ask()["version"] == "3"


def test_a_rollback_brings_back_what_an_earlier_one_ran(owner: Owner) -> None:
    first = owner.create(env={"WORD": "one"})["deployment"]
    owner.call("POST", "/rollback", status=409)
    owner.push("2")
    owner.call("POST", "/redeploy?wait=running")
    third = owner.put(env={"WORD": "three"})["deployment"]
    back = owner.call("POST", "/rollback?wait=running")  # the one before had the commit of 2 and the word of one
    assert back["deployment"]["cause"] == "rollback"
    assert (owner.ask()["version"], owner.ask()["word"]) == ("2", "one")
    back = owner.call("POST", "/rollback?wait=running", {"deployment": first["id"]})
    assert back["deployment"]["commit"] == owner.commit
    assert (owner.ask()["version"], owner.ask()["word"]) == ("1", "one")
    owner.call("POST", "/rollback?wait=running", {"deployment": third["id"]})
    assert (owner.ask()["version"], owner.ask()["word"]) == ("2", "three")
    failed = owner.put(env={"MODE": "exit"})["rollout"]
    refused = owner.call("POST", "/rollback", {"deployment": failed["id"]}, status=422)
    assert refused["errors"][0]["field"] == "deployment"


def test_sleep_finishes_what_is_in_flight_and_the_next_request_wakes(owner: Owner) -> None:
    owner.create(min_replicas=0)
    first = owner.ask()["pid"]
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(owner.ask, "/slow/2")
        eventually(lambda: not slow.done() and owner.get()["replicas"]["ready"] == 1)
        asleep = owner.call("POST", "/sleep")
        assert asleep["status"] == "stopped"
        assert slow.result()["pid"] == first
    eventually(lambda: sum(owner.get()["replicas"].values()) == 0, what="nothing runs")
    assert owner.call("POST", "/sleep")["status"] == "stopped"
    assert owner.ask()["pid"] != first
    assert owner.get()["status"] == "running"
    owner.call("POST", "/sleep")
    eventually(lambda: sum(owner.get()["replicas"].values()) == 0, what="nothing runs")
    awake = owner.call("POST", "/wake?wait=running&timeout=30")
    assert (awake["status"], awake["replicas"]["ready"]) == ("running", 1)
    owner.put(min_replicas=1)
    assert "min_replicas" in owner.call("POST", "/sleep", status=409)["detail"]


def test_asleep_during_a_deployment_the_active_one_wakes(owner: Owner) -> None:
    owner.create(min_replicas=0, env={"WORD": "old"})
    owner.call("POST", "/sleep")
    eventually(lambda: sum(owner.get()["replicas"].values()) == 0, what="nothing runs")
    owner.put(env={"MODE": "ill"}, wait=False)
    assert owner.ask()["word"] == "old"
    owner.call("POST", "/cancel")
    owner.call("POST", "/sleep")
    proven = owner.put(env={"WORD": "new"})
    assert (proven["deployment"]["cause"], proven["replicas"]["ready"]) == ("update", 1)
    assert owner.ask()["word"] == "new"
