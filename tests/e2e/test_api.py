"""The Services API on a real node: what a create, a delete, a failure and a restart mean for clients."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_node import ROOT, Node, eventually
from shared_nodes import RESTARTED, SHAKEN, WIDE

pytestmark = pytest.mark.e2e

APP = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            open(os.environ["MARK"], "w").close()
            time.sleep(float(os.environ.get("SLOW", "2")))
        body = " ".join(sorted(f"{k}={v}" for k, v in os.environ.items())).encode()
        self.send_response(int(os.environ.get("HEALTH", "200")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
print("listening", flush=True)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
FILES = {"Procfile": "web: python3 app.py\n", "app.py": APP}
HOST = "web-acme.apps.localhost"


@pytest.fixture
def web(wide_node: Node) -> Node:
    """A node with a repository that answers."""
    wide_node.commit("acme/web", FILES)
    return wide_node


@pytest.fixture
def shaken_web(shaken_node: Node) -> Node:
    """The same with one whose processes are killed and stopped."""
    shaken_node.commit("acme/web", FILES)
    return shaken_node


def wakegate(node: Node, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A client command that finds the API and the key by the data directory."""
    return subprocess.run(
        [sys.executable, "-m", "wakegate", *arguments],
        cwd=ROOT,
        env=node.env | {"WAKEGATE_DATA_DIR": str(node.data)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@WIDE.group
def test_the_request_after_a_create_is_held_by_any_worker_and_answered(web):
    web.create("acme", "web", env={"GREETING": "hello there"})
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: web.request(HOST), range(24)))
    assert collections.Counter(a.status for a in answers) == {200: 24}
    environment = answers[0].body.decode()
    assert "GREETING=hello there" in environment
    assert "WAKEGATE" not in environment
    service = web.wait_status("acme", "web", "running")
    assert service["deployment"]["state"] == "active"
    assert len(service["deployment"]["commit"]) == 40
    assert service["replicas"]["ready"] == 1


@WIDE.group
def test_the_request_after_a_delete_is_503_on_any_worker_and_one_in_flight_completes(web):
    mark = web.root / "slow"
    web.root.chmod(0o777)
    web.create("acme", "web", env={"MARK": str(mark)})
    web.wait_status("acme", "web", "running")
    with ThreadPoolExecutor(25) as pool:
        slow = pool.submit(web.request, HOST, "/slow")
        eventually(mark.exists, what="the slow request is in flight")
        assert web.api("DELETE", "/auth/v1/seed/acme/services/web").status == 204
        answers = list(pool.map(lambda _: web.request(HOST), range(24)))
        assert {a.status for a in answers} == {503}
        assert 'details="deleted"' in answers[0].headers["Proxy-Status"]
        assert slow.result().status == 200
    assert web.api("GET", "/acme/service/web").status == 404
    web.create("acme", "web")
    assert web.request(HOST).status == 200


@WIDE.group
def test_a_delete_by_force_cuts_what_is_in_flight(web):
    mark = web.root / "cut"
    web.root.chmod(0o777)
    web.create("acme", "web", env={"MARK": str(mark), "SLOW": "50"})
    web.wait_status("acme", "web", "running")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(web.request, HOST, "/slow")
        eventually(mark.exists, what="the slow request is in flight")
        assert web.api("DELETE", "/auth/v1/seed/acme/services/web?force=true").status == 204
        # a GET is tried again elsewhere, and there is nobody
        assert slow.result(timeout=30).status == 503


@SHAKEN.group
def test_a_delete_does_not_wait_for_a_stopped_worker_for_long(shaken_web):
    shaken_web.create("acme", "web")
    shaken_web.wait_status("acme", "web", "running")
    old = shaken_web.kill("worker 1", signal.SIGSTOP)
    assert shaken_web.api("DELETE", "/auth/v1/seed/acme/services/web").status == 204
    shaken_web.replaced("worker 1", old)
    with ThreadPoolExecutor(12) as pool:
        assert {a.status for a in pool.map(lambda _: shaken_web.request(HOST), range(12))} == {503}


@WIDE.group
def test_twenty_creates_at_once_are_one_service_and_one_replica(web):
    body = {"name": "web", "repo": "acme/web", "gpu": "none"}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: web.api("POST", "/auth/v1/seed/acme/services", body), range(20)))
    assert collections.Counter(a.status for a in answers) == {201: 1, 409: 19}
    assert web.wait_status("acme", "web", "running")["replicas"]["ready"] == 1


@WIDE.group
def test_a_create_that_waits_tells_why_it_failed(web):
    """All the ways to fail: test_failing.py."""
    options = ("--namespace", "acme", "--repo", "acme/web", "--branch", "missing", "--wait")
    waited = wakegate(web, "services", "create", "web", *options)
    assert waited.returncode == 1
    assert "missing" in waited.stderr


@WIDE.group
def test_the_commands_beside_a_data_directory(web):
    made = wakegate(web, "services", "create", "web", "--namespace", "acme", "--repo", "acme/web", "--wait")
    assert made.returncode == 0, made.stderr
    assert "deployment.active" in made.stderr
    assert "http://web-acme.apps.localhost" in made.stdout
    listed = wakegate(web, "services", "list", "--namespace", "acme", "--json")
    assert json.loads(listed.stdout)["items"][0]["status"] == "running"
    lines = eventually(
        lambda: [
            item["line"]
            for item in json.loads(wakegate(web, "services", "logs", "acme/web", "--json").stdout)["items"]
            if item["stream"] == "stdout"
        ],
        what="the replica's line is in the log",
    )
    assert lines == ["listening"]
    assert wakegate(web, "services", "delete", "acme/web").returncode == 0
    assert wakegate(web, "services", "get", "acme/web").returncode == 1


@WIDE.group
def test_the_list_of_the_readme_shows_its_service(web):
    """As the README has it: the admin's key, a service in `acme`."""
    web.create("acme", "web")
    assert "web" in wakegate(web, "services", "list", "--namespace", "acme").stdout
    assert "web" in wakegate(web, "services", "list", WAKEGATE_NAMESPACE="acme").stdout
    told = wakegate(web, "services", "list")
    assert told.stderr == "this is namespace default; --namespace shows those of: acme\n"


@WIDE.group
def test_a_reason_that_a_tenant_wrote_does_nothing_to_terminals(wide_node):
    node = wide_node
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    node.commit("acme/evil", {"Procfile": "web: python3 say.py\n", "say.py": f"import sys; sys.exit({evil!r})\n"})
    waited = wakegate(node, "services", "create", "evil", "--namespace", "acme", "--repo", "acme/evil", "--wait")
    assert waited.returncode == 1
    logged = wakegate(node, "services", "logs", "acme/evil")
    shown = [waited.stderr, logged.stdout, wakegate(node, "services", "get", "acme/evil").stdout, node.said]
    assert not any(set(text) & set(evil) - set("]0;owned2J") for text in shown)
    assert r"\x1b]0;owned\x07\x9b2J\u202e" in logged.stdout


@WIDE.group
def test_the_last_use_of_a_key_is_kept(wide_node):
    node = wide_node
    made = node.api("POST", "/auth/v1/keys", {"name": "used", "namespace": "acme", "scope": "read"}).json()

    def told() -> dict[str, str]:
        key: dict[str, str] = next(k for k in node.api("GET", "/auth/v1/keys").json()["items"] if k["name"] == "used")
        return key

    assert told()["used_at"] is None
    assert node.api("GET", "/acme/services", key=made["key"]).status == 200
    assert told()["created_at"] < eventually(lambda: told()["used_at"], what="the use is kept")


@WIDE.group
def test_status_follows_sleep_and_wake(web):
    web.create("acme", "web", min_replicas=0, scaling={"idle_timeout": 1})
    web.wait_status("acme", "web", "stopped")
    assert web.request(HOST).status == 200
    listed = web.api("GET", "/acme/services?status=running").json()
    assert [item["name"] for item in listed["items"]] == ["web"]
    kinds = [e["kind"] for e in web.api("GET", "/acme/service/web/events").json()["items"]]
    assert {"service.created", "deployment.building", "deployment.active", "service.slept", "service.woke"} <= set(
        kinds
    )


@RESTARTED.group
def test_the_admin_key_is_made_once_and_for_the_owner_alone(restarted_node):
    """A restart keeps it: test_logs.py."""
    node = restarted_node
    file = node.data / "admin.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = node.admin_key
    assert f"'{token}'" in node.output.read_text()
    assert node.api("GET", "/auth/v1/keys").status == 200
    assert node.stop() == 0
    file.unlink()
    node.start()
    assert not file.exists()
    assert node.api("GET", "/auth/v1/keys", key=token).status == 200
    assert node.output.read_text().count(token) == 1
    file.write_text(f"{token}\n")
    file.chmod(0o600)


@WIDE.group
def test_another_secret_key_is_refused_with_the_fix(wide_node, make_node):
    node = wide_node
    other = make_node(workers=1)
    other.data.mkdir(mode=0o700)
    shutil.copytree(node.data / "appendonlydir", other.data / "appendonlydir")  # the rest changes as the node runs
    shutil.copy2(node.data / "store.version", other.data)
    other.start(wait=False)
    eventually(lambda: other.exited, 30, "the mismatch ends it")
    assert other.process.returncode not in (0, None)
    assert "another secret key" in other.said
    assert "WAKEGATE_SECRET_KEY" in other.said


@SHAKEN.group
def test_control_killed_comes_back_with_everything(shaken_web):
    shaken_web.create("acme", "web", env={"A": "b"})
    before = shaken_web.wait_status("acme", "web", "running")
    old = shaken_web.kill("control")
    shaken_web.replaced("control", old)

    def answers() -> bool:
        try:
            return shaken_web.api("GET", "/acme/service/web").status == 200
        except OSError:
            return False

    eventually(answers, what="the API answers again")
    after = shaken_web.wait_status("acme", "web", "running")
    assert (after["id"], after["deployment"]) == (before["id"], before["deployment"])
    assert shaken_web.request(HOST).status == 200
    shaken_web.create("acme", "second", repo="acme/web")
    shaken_web.wait_status("acme", "second", "running")


@SHAKEN.group
def test_a_stopped_store_leaves_reads_and_refuses_writes_until_it_is_back(shaken_web):
    shaken_web.create("acme", "web")
    shaken_web.wait_status("acme", "web", "running")
    pid = shaken_web.child("valkey-server")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert shaken_web.api("GET", "/acme/service/web", timeout=5).status == 200
        assert shaken_web.request(HOST, timeout=5).status == 200
        refused = shaken_web.api("DELETE", "/auth/v1/seed/acme/services/web", timeout=30)
        assert refused.status in (204, 503)
        if refused.status == 503:
            assert refused.headers["Retry-After"]
    finally:
        with contextlib.suppress(ProcessLookupError):  # the supervisor may have replaced it
            os.kill(pid, signal.SIGCONT)

    def deleted() -> bool:
        return shaken_web.api("DELETE", "/auth/v1/seed/acme/services/web").status in (204, 404)

    eventually(deleted, 30, "the delete is taken")
    assert shaken_web.request(HOST).status == 503


@WIDE.group
def test_metrics_add_up_over_workers_without_a_key(web):
    web.create("acme", "counted", repo="acme/web")
    web.wait_status("acme", "counted", "running")
    with ThreadPoolExecutor(8) as pool:
        assert {a.status for a in pool.map(lambda _: web.request("counted-acme.apps.localhost"), range(40))} == {200}
    counted = 'wakegate_requests_total{code="200",namespace="acme",service="counted"} 40.0'

    def scraped() -> bool:
        answer = web.api("GET", "/metrics", key="")
        assert answer.status == 200
        text = answer.body.decode()
        return (
            counted in text and 'wakegate_replicas{state="ready"} 1.0' in text and "wakegate_cold_starts_total" in text
        )

    eventually(scraped, what="all forty are counted")
    assert web.api("DELETE", "/auth/v1/seed/acme/services/counted?force=true").status == 204
