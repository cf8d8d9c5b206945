"""kill -9 of control at any moment of a service's life: no half-made service, no stray replica, the name is usable."""

from __future__ import annotations

import random
import signal
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from e2e_node import Answer, Node, eventually
from scenes import REPLICA, Notes, host

from activator.drivers.process.procfs import read_stat

pytestmark = [pytest.mark.e2e]

SERVICES = "/auth/v1/seed/acme/services"
LONGEST = 1.5  # seconds from a call to the kill: about what it takes until the replica is ready


def killed_within(node: Node, method: str, path: str, body: Any = None) -> Answer | None:
    """Control dies at a random moment after the call has begun; None: the connection broke. Another control reads."""
    old = node.child("control")
    with ThreadPoolExecutor(1) as pool:
        calling: Future[Answer] = pool.submit(node.api, method, path, body)
        wait([calling], random.uniform(0, LONGEST))
        node.kill("control", signal.SIGKILL)
        wait([calling])
    node.replaced("control", old)
    eventually(lambda: status(node, "GET", "/acme/services") == 200, 60, "the API reads again")
    return None if calling.exception() else calling.result()


def status(node: Node, method: str, path: str, body: Any = None) -> int | None:
    try:
        return node.api(method, path, body, timeout=30).status
    except OSError:
        return None


def alive(notes: Notes) -> int:
    stats = [read_stat(int(line[0])) for line in notes.lines("starts")]
    return sum(stat is not None and stat.alive for stat in stats)


def test_control_killed_at_any_moment_of_a_create_and_of_a_delete(make_node):
    node: Node = make_node(workers=2).start()
    node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    notes = Notes(node, "web")
    domain = "www.acme.com"
    body = {"name": "web", "repo": "acme/web", "gpu": "none", "custom_domain": domain, "env": {"OUT": str(notes.path)}}
    for _ in range(2):  # a control that dies young again and again is restarted later each time
        heard = killed_within(node, "POST", f"{SERVICES}?wait=running&timeout=60", body)
        again = node.api("POST", SERVICES, body)
        assert again.status == (201 if node_had_none(heard, again) else 409), (heard, again)
        shown = node.wait_status("acme", "web", "running", 60)
        assert (shown["custom_domain"], shown["replicas"]["ready"]) == (domain, 1)
        assert node.request(host("acme", "web")).status == 200
        assert alive(notes) == 1
        heard = killed_within(node, "DELETE", f"{SERVICES}/web")
        assert heard is None or heard.status == 204
        assert status(node, "DELETE", f"{SERVICES}/web") in (204, 404)
        assert node.request(host("acme", "web")).status == 503
        eventually(lambda: alive(notes) == 0, 60, "no replica is left")
        assert node.api("GET", "/acme/services").json()["total"] == 0


def node_had_none(heard: Answer | None, again: Answer) -> bool:
    """Whoever heard 201 has the service; whoever heard nothing may have it."""
    return again.status == 201 if heard is None else heard.status != 201
