"""Every command once against one real node, for people and as JSON: output, progress, exit statuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from e2e_node import ROOT, Node, eventually
from shared_nodes import PLAIN

from wakegate.cli import main

pytestmark = [pytest.mark.e2e, PLAIN.group]

APP = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ.get("HEALTH", "200")))
        self.end_headers()
        self.wfile.write(os.environ.get("WORD", "none").encode())
    def log_message(self, *args):
        if self.path != "/":  # where health is looked at
            print(self.path, flush=True)
print("listening", flush=True)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
FILES = {"Procfile": "build: echo built\nweb: exec python3 app.py\n", "app.py": APP}
HOST = "web-acme.apps.localhost"


@pytest.fixture
def node(plain_node: Node) -> Node:
    plain_node.commit("acme/web", FILES)
    return plain_node


@pytest.fixture
def web(node: Node) -> Iterator[Node]:
    """The node with a service `acme/web` that serves."""
    made = run(node, "services", "create", "acme/web", "--repo", "acme/web", "--min-replicas", "0", "--wait")
    assert made.exit_code == 0, made.output
    yield node
    assert run(node, "services", "delete", "acme/web", "-y", "--force").exit_code == 0


def environment(node: Node) -> dict[str, str | None]:
    none: dict[str, str | None] = {name: None for name in os.environ if name.startswith("WAKEGATE_")}
    return {**none, "WAKEGATE_DATA_DIR": str(node.data), "NO_COLOR": "1"}


def run(node: Node, *arguments: str, stdin: str | None = None, **env: str) -> Result:
    """A command as a script would give it, beside the data directory."""
    return CliRunner().invoke(main, arguments, env={**environment(node), **env}, input=stdin, prog_name="wakegate")


def said(node: Node, *arguments: str) -> str:
    """What a command that succeeds prints."""
    done = run(node, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def value(node: Node, *arguments: str) -> Any:
    return json.loads(said(node, *arguments, "--json"))


def kinds(result: Result) -> list[str]:
    """The events that progress told."""
    return [line.split()[1] for line in result.stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d{3}  ", line)]


def test_create_shows_progress_and_reads_show_the_service(node):
    made = run(node, "services", "create", "acme/first", "--repo", "acme/web", "--env", "WORD=one", "--wait")
    assert made.exit_code == 0, made.output
    assert kinds(made)[0] == "service.created"
    assert {"deployment.building", "replica.ready", "deployment.active"} <= set(kinds(made)), made.stderr
    assert "webhook secret" in made.stdout
    again = run(node, "services", "create", "acme/first", "--repo", "acme/web", "--json")
    assert (again.exit_code, json.loads(again.stdout)["status"]) == (1, 409)
    assert re.search(
        r"first +running +1/1 +acme/web@main +http://first-acme", said(node, "services", "list", "-n", "acme")
    )
    assert value(node, "services", "list", "-n", "acme", "--status", "running")["total"] == 1
    assert value(node, "services", "list", "-n", "acme", "--status", "failed", "--all")["items"] == []
    shown = value(node, "services", "get", "acme/first")
    assert (shown["status"], shown["env"]) == ("running", {"WORD": "***"})
    assert "active at " in said(node, "services", "get", "first", "--namespace", "acme")
    assert run(node, "services", "list", "--namespace", "acme", "--status", "odd").exit_code == 1
    assert said(node, "services", "delete", "acme/first") == "deleted acme/first\n"
    assert run(node, "services", "get", "acme/first").exit_code == 1


def test_changes_roll_out_and_back(web):
    changed = run(web, "services", "update", "acme/web", "--env", "WORD=two", "--max-replicas", "2", "--wait")
    assert changed.exit_code == 0, changed.output
    assert "deployment.active" in kinds(changed)
    assert "service.created" not in kinds(changed)
    assert web.request(HOST).body == b"two"
    merged = run(web, "services", "env", "set", "acme/web", "WORD=three", "MORE=1", "--wait", "--json")
    assert json.loads(merged.stdout)["env"] == {"MORE": "***", "WORD": "***"}
    assert web.request(HOST).body == b"three"
    unset = run(web, "services", "env", "unset", "acme/web", "WORD", "--wait")
    assert unset.exit_code == 0, unset.output
    assert web.request(HOST).body == b"none"
    assert said(web, "services", "env", "list", "acme/web") == "NAME\nMORE\n"
    back = run(web, "services", "rollback", "acme/web", "--wait")
    assert back.exit_code == 0, back.output
    assert web.request(HOST).body == b"three"
    states = [line.split()[1] for line in said(web, "services", "deployments", "acme/web").splitlines()[1:]]
    assert states == ["active", *["superseded"] * 4]
    causes = [item["cause"] for item in value(web, "services", "deployments", "acme/web")["items"]]
    assert causes == ["rollback", "update", "update", "update", "create"]


def test_a_deployment_that_fails_ends_its_command_with_the_reason(web):
    bad = run(web, "services", "update", "acme/web", "--branch", "missing", "--wait", "--json")
    assert bad.exit_code == 1
    assert "missing" in bad.stderr
    service = json.loads(bad.stdout)
    assert (service["status"], service["rollout"]["state"]) == ("running", "failed")
    assert run(web, "services", "update", "acme/web", "--branch", "main", "--wait").exit_code == 0
    assert run(web, "services", "env", "set", "acme/web", "HEALTH=500").exit_code == 0
    busy = run(web, "services", "redeploy", "acme/web")
    assert (busy.exit_code, "progress" in busy.stderr) == (1, True)
    assert "cancelled" not in said(web, "services", "cancel", "acme/web")
    assert value(web, "services", "deployments", "acme/web")["items"][0]["state"] == "cancelled"
    assert run(web, "services", "cancel", "acme/web").exit_code == 1


def test_sleep_wake_and_redeploy(web):
    assert value(web, "services", "sleep", "acme/web")["replicas"]["desired"] == 0
    web.wait_status("acme", "web", "stopped")
    woken = run(web, "services", "wake", "acme/web", "--wait")
    assert woken.exit_code == 0, woken.output
    assert re.search(r"status +running", woken.stdout)
    commit = web.commit("acme/web", FILES)
    assert run(web, "services", "redeploy", "acme/web", "--wait").exit_code == 0
    assert value(web, "services", "get", "acme/web")["deployment"]["commit"] == commit


def test_logs_and_events(web):
    def lines(*more: str) -> list[str]:
        return [line.split(maxsplit=3)[-1] for line in said(web, "services", "logs", "acme/web", *more).splitlines()]

    web.request(HOST, "/first")
    eventually(lambda: "/first" in lines("--stream", "stdout"), what="the line of the request")
    assert "built" in lines("--stream", "build", "--since", "1h")
    assert lines("-n", "1", "--stream", "stdout") != lines("-n", "2", "--stream", "stdout")
    (item,) = value(web, "services", "logs", "acme/web", "--limit", "1", "--stream", "stdout")["items"]
    assert (
        value(web, "services", "logs", "acme/web", "--since", item["time"], "--replica", item["replica"])["items"] == []
    )
    assert run(web, "services", "logs", "acme/web", "--since", "soon").exit_code == 1
    events = said(web, "services", "events", "acme/web", "-n", "3").splitlines()
    assert len(events) == 4
    assert value(web, "services", "events", "acme/web", "--limit", "1000")["items"][0]["kind"] == "service.created"
    ready = value(web, "services", "events", "acme/web", "--kind", "replica", "--replica", item["replica"])["items"]
    assert {event["kind"].partition(".")[0] for event in ready} == {"replica"}
    assert value(web, "services", "events", "acme/web", "--until", "1h")["items"] == []


def start(node: Node, *arguments: str) -> subprocess.Popen[str]:
    """A command that goes on."""
    env = {name: text for name, text in {**node.env, **environment(node)}.items() if text is not None}
    command = [sys.executable, "-m", "wakegate", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_following_shows_what_comes_also_after_control_died(web):
    logs = start(web, "services", "logs", "acme/web", "-f", "-n", "1", "--stream", "stdout")
    events = start(web, "services", "events", "acme/web", "-f", "-n", "1", "--json")
    assert logs.stdout is not None
    assert events.stdout is not None
    try:
        assert "listening" in logs.stdout.readline()
        assert json.loads(events.stdout.readline())["kind"]
        web.request(HOST, "/before")
        assert "/before" in logs.stdout.readline()
        web.replaced("control", web.kill("control"))
        web.request(HOST, "/after")
        assert "/after" in logs.stdout.readline()
        said(web, "services", "update", "acme/web", "--max-replicas", "5")
        assert any(json.loads(line)["kind"] == "service.updated" for line in events.stdout)
        logs.send_signal(signal.SIGINT)
        assert logs.wait(30) == 130
    finally:
        for process in (logs, events):
            process.kill()
            process.communicate()


def test_analytics_and_top(web):
    for _ in range(5):
        assert web.request(HOST).status == 200
    body = eventually(lambda: _counted(web), 30, "the requests are counted")
    assert body["totals"]["requests"] == 5
    table = said(web, "services", "analytics", "acme/web", "--from", "10m", "--step", "60").splitlines()
    assert table[0].split()[:3] == ["TIME", "REQUESTS", "ERRORS"]
    assert table[-1].split()[:2] == ["TOTAL", "5"]
    assert "5 requests, 0 errors" in said(web, "services", "analytics", "acme/web", "--sparkline")
    assert run(web, "services", "analytics", "acme/web", "--step", "1").exit_code == 1
    shown = said(web, "top", "--once")
    assert re.search(r"\d+ services, 1 replicas ready", shown)
    assert re.search(r"acme/web +running +1/1", shown)
    (service,) = value(web, "top", "--once", "-n", "acme")["services"]
    assert (service["name"], service["replicas"]["ready"]) == ("web", 1)
    assert service["rate"] is not None


def _counted(web: Node) -> Any:
    body = value(web, "services", "analytics", "acme/web", "--from", "10m", "--step", "10")
    return body if body["totals"]["requests"] >= 5 else None


def test_keys(web):
    made = run(web, "keys", "create", "ci", "--namespace", "acme", "--scope", "read", "--expires", "1h")
    assert made.exit_code == 0, made.output
    (key,) = shlex.split(made.stdout)
    assert re.search(r"acme +ci +read", said(web, "keys", "list"))
    assert any(item["name"] == "ci" and item["expires_at"] for item in value(web, "keys", "list")["items"])
    assert re.search(r"scope +read", said(web, "keys", "get", "ci", "-n", "acme"))
    assert value(web, "keys", "get", "ci")["namespace"] == "acme"
    assert json.loads(run(web, "keys", "own", "--json", WAKEGATE_API_KEY=key).stdout)["namespaces"] == ["acme"]
    assert re.search(r"sees +acme", run(web, "keys", "own", WAKEGATE_API_KEY=key).stdout)
    mine = run(web, "services", "list", WAKEGATE_API_KEY=key)
    assert (mine.exit_code, "acme/web@main" in mine.stdout) == (0, True)
    refused = run(web, "services", "sleep", "web", WAKEGATE_API_KEY=key)
    assert (refused.exit_code, refused.stderr.startswith("error: ")) == (1, True)
    assert said(web, "keys", "revoke", "ci") == "revoked ci\n"
    assert run(web, "services", "list", WAKEGATE_API_KEY=key).exit_code == 1
