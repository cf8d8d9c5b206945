"""Every sentence of the text that the Services API started from, on one real node. Images: test_container.py."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Answer, Node, eventually
from shared_nodes import PLAIN

pytestmark = [pytest.mark.e2e, PLAIN.group]

APP = """\
import http.server, json, os, sys, time

if os.path.exists(os.environ.get("BROKEN_IF", "")):
    sys.exit("broken on purpose")
time.sleep(float(os.environ.get("START_DELAY", "0")))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/crash":
            os._exit(3)
        if path == "/slow":
            print("slow", flush=True)
            time.sleep(float(query))
        if path == "/say":
            print(query, flush=True)
        body = json.dumps({"version": open("version").read().strip(), "env": dict(os.environ), "pid": os.getpid()})
        self.send_response(204 if path == "/empty" else 200)
        self.end_headers()
        if path != "/empty":
            self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
_names = (f"s{number}" for number in itertools.count())


class Seed:
    """A node, and calls as the text names them. Every service has a repository of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def commit(self, name: str, version: str, branch: str = "main") -> str:
        files = {"Procfile": "web: exec python3 server.py\n", "server.py": APP, "version": version}
        return self.node.commit(f"acme/{name}", files, branch=branch)

    def post(self, body: dict[str, Any], **headers: str) -> Answer:
        return self.node.api("POST", "/auth/v1/seed/acme/services", body, **headers)

    def create(self, **fields: Any) -> str:
        """A new service from a repository with version "one"; its name."""
        name = next(_names)
        self.commit(name, "one")
        answer = self.post({"name": name, "repo": f"acme/{name}", "gpu": "none", **fields})
        assert answer.status == 201, answer
        return name

    def running(self, **fields: Any) -> str:
        name = self.create(**fields)
        self.until(name, "running")
        return name

    def until(self, name: str, status: str) -> dict[str, Any]:
        return self.node.wait_status("acme", name, status)

    def write(self, method: str, name: str, body: Any = None, more: str = "", **headers: str) -> Answer:
        return self.node.api(method, f"/auth/v1/seed/acme/services/{name}{more}", body, **headers)

    def get(self, name: str, more: str = "") -> Answer:
        return self.node.api("GET", f"/acme/service/{name}{more}")

    def ask(self, name: str, path: str = "/", **more: Any) -> Answer:
        return self.node.request(f"{name}-acme.apps.localhost", path, **more)

    def listed(self, query: str = "") -> list[str]:
        answer = self.node.api("GET", f"/acme/services?limit=100{query}")
        assert answer.status == 200, answer
        return [item["name"] for item in answer.json()["items"]]

    def pids(self, name: str) -> set[int]:
        """The processes that run in a checkout of this service's repository."""
        service_id = self.get(name).json()["id"]
        found = set()
        for pid in self.node.strays():
            with contextlib.suppress(OSError):  # it ended since
                if service_id in str(Path(f"/proc/{pid}/cwd").readlink()):
                    found.add(pid)
        return found


@pytest.fixture
def seed(plain_node: Node) -> Seed:
    return Seed(plain_node)


def problem(answer: Answer, status: int, *fields: str) -> None:
    """It is this problem, and names these fields."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    assert body["request_id"]
    assert {error["field"] for error in body.get("errors", [])} == set(fields), body


# List and get


def test_services_are_filtered_by_each_status(seed: Seed) -> None:
    flag = seed.node.root / "broken"
    names = {
        "deploying": seed.create(env={"START_DELAY": "300"}),
        "running": seed.running(),
        "degraded": seed.running(env={"BROKEN_IF": str(flag)}),
        "stopped": seed.create(min_replicas=0, scaling={"idle_timeout": 1}),
        "failed": seed.create(branch="nowhere"),
    }
    flag.touch()
    seed.ask(names["degraded"], "/crash")
    for status, name in names.items():
        seed.until(name, status)
    for status, name in names.items():
        assert name in seed.listed(f"&status={status}")
        others = set(names.values()) - {name}
        assert not others & set(seed.listed(f"&status={status}")), status
    problem(seed.node.api("GET", "/acme/services?status=asleep"), 400, "status")
    for name in names.values():
        seed.write("DELETE", name, more="?force=true")


def test_pages(seed: Seed) -> None:
    mine = [seed.create() for _ in range(3)]
    everything = seed.listed()
    assert [name for name in everything if name in mine] == mine, "in order of creation"
    page = seed.node.api("GET", f"/acme/services?page={len(everything)}&limit=1").json()
    assert [item["name"] for item in page["items"]] == mine[-1:]
    assert (page["page"], page["limit"], page["total"]) == (len(everything), 1, len(everything))
    assert seed.node.api("GET", "/acme/services?page=1000").json()["items"] == []
    problem(seed.node.api("GET", "/acme/services?page=0&limit=101"), 400, "page", "limit")


def test_details_include_scaling_state_and_deployment(seed: Seed) -> None:
    service = seed.get(seed.running(min_replicas=2, max_replicas=2)).json()
    eventually(lambda: seed.get(service["name"]).json()["replicas"]["ready"] == 2)
    assert service["replicas"]["desired"] == 2
    assert service["deployment"]["state"] == "active"
    assert len(service["deployment"]["commit"]) == 40
    problem(seed.get("nobody"), 404)


# Logs and analytics


def test_logs_limit_and_since(seed: Seed) -> None:
    name = seed.running()
    for number in range(5):
        seed.ask(name, f"/say?{number}")

    def said(query: str = "") -> list[dict[str, Any]]:
        return list(seed.get(name, f"/logs?stream=stdout{query}").json()["items"])

    eventually(lambda: len(said()) == 5)
    assert [item["line"] for item in said("&limit=2")] == ["3", "4"], "the most recent ones"
    third = said()[2]["time"]
    assert [item["line"] for item in said(f"&since={third}")] == ["3", "4"], "after the time stamp"
    assert said("&since=2999-03-18T12:00:00Z") == []
    assert len(said("&since=2020-03-18T12:00:00Z&limit=10000")) == 5
    problem(seed.get(name, "/logs?limit=10001&since=yesterday"), 400, "limit", "since")


def test_analytics_count_what_was_asked(seed: Seed) -> None:
    name = seed.running()
    for _ in range(20):
        assert seed.ask(name).status == 200

    def requests() -> int:
        return int(seed.get(name, "/analytics").json()["totals"]["requests"])

    eventually(lambda: requests() == 20, 30)


# Create


def test_a_name_is_unique_and_of_allowed_characters(seed: Seed) -> None:
    assert seed.post({"name": "A-name_1", "repo": "acme/none", "gpu": "none"}).status == 201
    problem(seed.post({"name": "A-name_1", "repo": "acme/none", "gpu": "none"}), 409, "name")
    problem(seed.post({"name": "a.name", "repo": "acme/none", "gpu": "none"}), 400, "name")


def test_either_repo_or_image_is_required(seed: Seed) -> None:
    problem(seed.post({"name": "x", "gpu": "none"}), 422, "repo", "image")
    problem(seed.post({"name": "x", "gpu": "none", "repo": "acme/none", "image": "busybox"}), 422, "repo", "image")
    problem(seed.post({"name": "x", "gpu": "none", "repo": "none"}), 400, "repo")
    problem(seed.post({"name": "x", "gpu": "none", "image": "busybox"}), 422, "image")  # this driver runs none


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("gpu_count", [1, 2], [0, 3, 5, 16, "1"]),
        ("cpu", [2, 4, 8, 16, 32, 64], [0, 1, 3, 128, 2.0]),
        ("memory", [1, 1024], [0, 1025, "4"]),
        ("min_replicas", [0], [-1, 101, True]),
        ("max_replicas", [1, 100], [0, 101]),
        ("target_gpu_utilization", [10, 95], [9, 96]),
        ("port", [1, 65535], [0, 65536]),
        ("health_check_path", ["/"], ["healthz", ""]),
        ("env", [{}, {"A": "1"}], [{"1": "a"}, {"PORT": "1"}, ["A=1"]]),
        ("region", ["us-east-1"], ["mars-1"]),
        ("custom_domain", ["www.seed-domain.com"], ["localhost", "127.0.0.1", "*.acme.com"]),
    ],
)
def test_fields_and_their_bounds(seed: Seed, field: str, good: list[Any], bad: list[Any]) -> None:
    gpu = {"gpu": "T4"} if field == "gpu_count" else {"gpu": "none"}
    for value in good:
        answer = seed.post({"name": "bounds", "repo": "acme/none", **gpu, field: value})
        assert answer.status == 201, (value, answer)
        assert seed.write("DELETE", "bounds", more="?force=true").status == 204
    for value in bad:
        answer = seed.post({"name": "bounds", "repo": "acme/none", **gpu, field: value})
        assert answer.status == 400, (value, answer)
        assert answer.json()["errors"][0]["field"].split(".")[0] == field
    assert seed.get("bounds").status == 404


def test_a_gpu_is_required_and_one_that_is_there(seed: Seed) -> None:
    problem(seed.post({"name": "x", "repo": "acme/none"}), 400, "gpu")
    problem(seed.post({"name": "x", "repo": "acme/none", "gpu": "GTX"}), 400, "gpu")
    for gpu in ("A100-40GB", "A100-80GB", "H100-80GB", "L4"):
        problem(seed.post({"name": "x", "repo": "acme/none", "gpu": gpu}), 422, "gpu")  # no node has one
    problem(seed.post({"name": "x", "repo": "acme/none", "gpu": "T4", "gpu_count": 4}), 422, "gpu")
    problem(seed.post({"name": "x", "repo": "acme/none", "gpu": "none", "gpu_count": 1}), 422, "gpu_count")


def test_a_region_where_no_node_is(seed: Seed) -> None:
    for region in ("us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1"):
        problem(seed.post({"name": "x", "repo": "acme/none", "gpu": "none", "region": region}), 422, "region")


def test_min_replicas_of_zero_enable_scale_to_zero(seed: Seed) -> None:
    name = seed.create(min_replicas=0, scaling={"idle_timeout": 1})
    seed.until(name, "stopped")
    eventually(lambda: not seed.pids(name), what="no process is left")
    assert seed.ask(name).status == 200  # and a request wakes it


def test_max_replicas_bound_the_autoscaling(seed: Seed) -> None:
    name = seed.running(max_replicas=2, scaling={"target_concurrency": 1})
    most = 0
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(seed.ask, name, "/slow?6") for _ in range(8)]
        while not all(future.done() for future in asked):
            replicas = seed.get(name).json()["replicas"]
            most = max(most, replicas["desired"])
            time.sleep(0.1)  # a pace of looking, nothing is waited for by it
    assert [future.result().status for future in asked] == [200] * 8
    assert most == 2


def test_the_health_check_path_must_answer_200(seed: Seed) -> None:
    name = seed.create(health_check_path="/empty", scaling={"startup_timeout": 2})
    assert "204" in seed.until(name, "failed")["deployment"]["reason"]


def test_both_forms_of_the_key(seed: Seed) -> None:
    for scheme in ("Bearer", "API-Key"):
        answer = seed.node.api("GET", "/acme/services", key="", Authorization=f"{scheme} {seed.node.admin_key}")
        assert answer.status == 200


def test_a_create_answers_201_with_its_place(seed: Seed) -> None:
    name = next(_names)
    seed.commit(name, "one")
    answer = seed.post({"name": name, "repo": f"acme/{name}", "gpu": "none"})
    assert answer.status == 201
    assert answer.headers["Location"] == f"/acme/service/{name}"
    assert seed.get(name).headers["ETag"]
    assert answer.headers["ETag"]


# Update and redeploy


def test_new_environment_variables_replace_all_and_roll(seed: Seed) -> None:
    name = seed.running(env={"A": "1", "B": "2"})
    wrong: list[Answer] = []
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            answer = seed.ask(name)
            if answer.status != 200:
                wrong.append(answer)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(traffic)
        try:
            before = seed.ask(name).json()
            answer = seed.write("PUT", name, {"env": {"B": "3"}})
            assert answer.status == 200, answer
            assert answer.json()["env"] == {"B": "***"}
            eventually(lambda: seed.ask(name).json()["env"].get("B") == "3", 30)
        finally:
            stop.set()
    after = seed.ask(name).json()
    assert "A" not in after["env"]
    assert after["pid"] != before["pid"]
    assert wrong == [], "the old replica served until the new one was healthy"
    problem(seed.write("PUT", name, {"env": {"B": "***"}}), 400, "env.B")


def test_another_branch_is_deployed_at_once(seed: Seed) -> None:
    name = seed.running()
    seed.commit(name, "two", branch="next")
    assert seed.write("PUT", name, {"branch": "next"}).status == 200
    eventually(lambda: seed.ask(name).json()["version"] == "two", 30)


def test_scaling_changes_restart_nothing(seed: Seed) -> None:
    name = seed.running()
    before = seed.ask(name).json()["pid"]
    body = {"min_replicas": 0, "max_replicas": 3, "target_gpu_utilization": 50}
    answer = seed.write("PUT", name, body)
    assert answer.status == 200, answer
    assert {field: answer.json()[field] for field in body} == body
    assert answer.json()["rollout"] is None
    assert seed.ask(name).json()["pid"] == before
    problem(seed.write("PUT", name, {"min_replicas": 4}), 422, "min_replicas")
    problem(seed.write("PUT", name, {"region": "us-east-1", "gpu": "T4"}), 400, "region", "gpu")


def test_a_custom_domain_is_set_and_removed(seed: Seed) -> None:
    one, two = seed.create(), seed.create()
    assert seed.write("PUT", one, {"custom_domain": "shop.seed-two.com"}).json()["custom_domain"] == "shop.seed-two.com"
    problem(seed.write("PUT", two, {"custom_domain": "shop.seed-two.com"}), 409, "custom_domain")
    assert seed.write("PUT", one, {"custom_domain": None}).json()["custom_domain"] is None
    assert seed.write("PUT", two, {"custom_domain": "shop.seed-two.com"}).status == 200


def test_a_redeploy_takes_the_latest_commit_and_is_409_during_another(seed: Seed) -> None:
    name = seed.running()
    commit = seed.commit(name, "two")
    answer = seed.write("POST", name, more="/redeploy")
    assert answer.status == 200, answer
    assert answer.json()["rollout"]["state"] in ("pending", "building", "starting")
    problem(seed.write("POST", name, more="/redeploy"), 409)
    eventually(lambda: seed.ask(name).json()["version"] == "two", 30)
    deployment = eventually(lambda: (s := seed.get(name).json())["rollout"] is None and s["deployment"])
    assert deployment["commit"] == commit


# Delete


def test_a_delete_ends_all_replicas_and_answers_503_at_once(seed: Seed) -> None:
    name = seed.running(min_replicas=2, max_replicas=2)
    eventually(lambda: len(seed.pids(name)) == 2)
    pids = seed.pids(name)
    answer = seed.write("DELETE", name)
    assert (answer.status, answer.body) == (204, b"")
    refused = seed.ask(name)
    assert refused.status == 503
    assert "deleted" in refused.headers["Proxy-Status"]
    assert seed.get(name).status == 404
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="its replicas end")
    problem(seed.write("DELETE", name), 404)


def test_the_graceful_drain_and_how_to_skip_it(seed: Seed) -> None:
    gentle, forced = seed.running(), seed.running()
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(seed.ask, gentle, "/slow?3")
        is_cut = pool.submit(seed.ask, forced, "/slow?120", timeout=130)
        for name in (gentle, forced):
            eventually(lambda name=name: _in_flight(seed, name))  # type: ignore[misc] - bound at once
        assert seed.write("DELETE", gentle).status == 204
        assert seed.write("DELETE", forced, more="?force=true").status == 204
        assert waits.result().status == 200
        assert is_cut.result().status == 503, "cut, and nothing is left that it could be retried on"


def _in_flight(seed: Seed, name: str) -> bool:
    """Whether its replica has begun with a slow request."""
    items = seed.get(name, "/logs?stream=stdout").json()["items"]
    return any(item["line"] == "slow" for item in items)


# Errors


def test_401_403_and_404_tell_nothing(seed: Seed) -> None:
    name = seed.create()
    made = seed.node.api("POST", "/auth/v1/keys", {"name": "reader", "namespace": "acme", "scope": "read"})
    other = seed.node.api("POST", "/auth/v1/keys", {"name": "other", "namespace": "other", "scope": "write"})
    reader, stranger = made.json()["key"], other.json()["key"]
    for key in ("", "nobody$wrong", f"{reader}x"):
        answer = seed.node.api("GET", f"/acme/service/{name}", key=key)
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"]
    for target in (name, "no-such-service"):
        problem(seed.node.api("GET", f"/acme/service/{target}", key=stranger), 403)
        problem(seed.node.api("DELETE", f"/auth/v1/seed/acme/services/{target}", key=reader), 403)
    problem(seed.node.api("GET", "/acme/service/no-such-service", key=reader), 404)
