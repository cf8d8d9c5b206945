"""The API under `--api-host`: through the gateway of the real processes, for tenants and forges outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e_node import ROOT, Answer, Node, eventually
from scenes import deploy

pytestmark = pytest.mark.e2e
together = pytest.mark.xdist_group("api over https")
little = pytest.mark.xdist_group("api with limits")

KEY = {"WAKEGATE_SECRET_KEY": "A" * 43 + "="}
API = "api.example.test"  # not below the platform domain: its certificate has the name for this alone


class Outside:
    """A client elsewhere: knows the node's CA and the host's name; `source` is its address."""

    def __init__(self, node: Node, source: str = "127.0.0.1", ca: Node | None = None) -> None:
        self.node = node
        self.source = source
        self.trust = ssl.create_default_context(cafile=str((ca or node).data / "ca.pem"))

    @contextlib.contextmanager
    def connection(self, timeout: float = 60) -> Iterator[http.client.HTTPConnection]:
        raw = socket.create_connection(("127.0.0.1", self.node.https_port), timeout, (self.source, 0))
        with raw, self.trust.wrap_socket(raw, server_hostname=API) as secure:
            made = http.client.HTTPConnection(API, self.node.https_port)
            made.sock = secure
            yield made

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with self.connection() as connection:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())


# Limits that would be in the way of a service.
OPTIONS = ("--api-host", API, "--max-body", "100", "--response-timeout", "1")


@pytest.fixture(scope="module")
def node(make_shared_node: Callable[..., Node]) -> Node:
    """A node that serves its API under `API`."""
    return make_shared_node(options=OPTIONS, env=KEY).start()


@together
def test_the_life_of_a_service_from_outside(node: Node) -> None:
    url = f"https://{API}:{node.https_port}"
    assert f"api   {url}" in node.lines()
    assert "no effect" not in node.said
    outside, key = Outside(node), node.admin_key
    assert outside.ask("GET", "/healthz").json() == {"status": "ok"}
    node.commit("acme/web", {"Procfile": "web: exec python3 -m http.server $PORT\n"})
    body = {"name": "web", "repo": "acme/web", "gpu": "none", "env": {"LONG": "x" * 1000}}
    created = outside.ask("POST", "/auth/v1/seed/acme/services?wait=running&timeout=60", body, key=key)
    assert created.status == 201
    assert created.json()["status"] == "running"
    assert created.headers["Location"] == f"{url}/acme/service/web"
    assert created.json()["webhook"]["url"] == f"{url}/hooks/git/acme/web"
    assert outside.ask("GET", "/acme/service/web", key=key).json()["status"] == "running"
    with outside.connection() as connection:
        connection.request("GET", "/acme/service/web/events?follow=true", headers={"Authorization": f"Bearer {key}"})
        stream = connection.getresponse()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        told = iter(lambda: stream.readline().decode(), "")
        next(line for line in told if "replica.ready" in line)
        assert next(line for line in told if "still here" in line)  # 15 s, of an idle stream
        assert outside.ask("POST", "/auth/v1/seed/acme/services/web/redeploy", key=key).status == 200
        assert next(line for line in told if "deployment." in line)
    assert outside.ask("DELETE", "/auth/v1/seed/acme/services/web", key=key).status == 204


@together
def test_nobody_from_outside_is_a_local_caller(node: Node) -> None:
    assert node.api("GET", "/metrics", key="").status == 200
    counter = 'wakegate_requests_total{code="401",namespace="",service="api"} '

    def counted() -> float:
        lines = node.api("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.removeprefix(counter)) for line in lines if line.startswith(counter))

    before = counted()
    forged = {"Wakegate-Gateway": "forged", "X-Forwarded-For": "127.0.0.1"}
    for headers in ({}, forged):
        answer = Outside(node).ask("GET", "/metrics", headers=headers)
        assert answer.status == 401
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    metrics = Outside(node).ask("GET", "/metrics", key=node.admin_key)
    assert metrics.status == 200
    eventually(lambda: counted() == before + 2, what="requests to the API are counted")


@pytest.fixture(scope="module")
def limited_node(make_shared_node: Callable[..., Node]) -> Node:
    """One that a client may ask for little."""
    options = [*OPTIONS, "--drain-timeout", "2"]
    return make_shared_node(workers=1, options=options, env={"WAKEGATE_API_RATE": "20"})


@pytest.fixture
def limited(limited_node: Node) -> Node:
    return limited_node.start() if limited_node.process is None or limited_node.exited else limited_node


@little
def test_failures_are_their_clients_own(limited: Node) -> None:
    node = limited
    bad, other = Outside(node, "127.0.0.2"), Outside(node, "127.0.0.3")

    def status(who: Outside) -> int:
        return who.ask("GET", "/acme/services", key="admin$wrong").status

    eventually(lambda: status(bad) == 429, what="he has failed too often")
    assert status(other) == 401
    assert node.api("GET", "/acme/services", key="admin$wrong").status == 401
    assert bad.ask("GET", "/acme/services", key=node.admin_key).status == 200


@together
def test_clear_text_is_sent_away(node: Node) -> None:
    moved = node.request(API, "/acme/services?limit=1")
    assert moved.status == 308
    assert moved.headers["Location"] == f"https://{API}:{node.https_port}/acme/services?limit=1"
    answer = node.request(API, "/auth/v1/keys", method="POST", body=b"{}", headers={"Authorization": "Bearer a$b"})
    assert answer.status == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "changed now" in answer.json()["detail"]
    assert answer.headers["Proxy-Status"].startswith("wakegate; error=http_request_denied")


@together
def test_it_outlives_control_and_a_reload(node: Node) -> None:
    outside = Outside(node)
    killed = node.kill("control")
    assert outside.ask("GET", "/healthz").status == 200  # by the next one: its socket is the supervisor's
    node.replaced("control", killed)
    eventually(lambda: outside.ask("GET", "/metrics").status == 401, what="it has read the store")
    node.kill("worker 1")
    assert outside.ask("GET", "/metrics").status == 401
    node.send(1)
    eventually(lambda: "reloaded" in node.lines(), 60)
    assert outside.ask("GET", "/metrics").status == 401
    assert outside.ask("GET", "/acme/services", key=node.admin_key).status == 200


@little
def test_429_and_the_gateway_is_never_limited(limited: Node) -> None:
    node, made = limited, limited.api("POST", "/auth/v1/keys", {"name": "often", "namespace": "acme", "scope": "read"})
    answers = [node.api("GET", "/acme/services", key=made.json()["key"]) for _ in range(25)]
    assert {answer.status for answer in answers[:20]} == {200}
    assert "RateLimit" in answers[0].headers
    assert "RateLimit-Policy" in answers[0].headers
    refused = next(answer for answer in answers if answer.status != 200)
    assert refused.status == 429
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3
    assert {node.request("nobody.example.com").status for _ in range(50)} == {404}


@little
def test_a_stream_does_not_keep_the_node_from_ending(limited: Node) -> None:
    node = limited
    deploy(node, "acme", "web")
    with Outside(node).connection() as connection:
        headers = {"Authorization": f"Bearer {node.admin_key}"}
        connection.request("GET", "/acme/service/web/events?follow=true", headers=headers)
        stream = connection.getresponse()
        assert stream.status == 200
        assert node.stop() == 0


@together
def test_a_node_without_control_says_so(node: Node, make_node: Callable[..., Node]) -> None:
    shared = ["--redis", f"unix://{node.data}/store.sock", "--api-host", API, "--role", "gateway"]
    edge = make_node(workers=1, options=shared, env=KEY).start()
    assert not [line for line in edge.lines() if line.startswith("api ")]
    answer = Outside(edge, ca=node).ask("GET", "/acme/services", key=node.admin_key)
    assert answer.status == 503
    assert "--role gateway" in answer.json()["detail"]
    assert Outside(node).ask("GET", "/acme/services", key=node.admin_key).status == 200


def test_without_https_it_is_refused() -> None:
    command = [sys.executable, "-m", "wakegate", "serve", "--check", "--api-host", API, "--https", "off"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--api-host: is served over https only" in done.stderr
    done = subprocess.run([*command, "--public-https", "443"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
