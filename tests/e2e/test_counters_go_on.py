"""`/metrics` of a real node whose workers and control are killed, and that is stopped and started: nothing falls."""

from __future__ import annotations

import signal

import pytest
from e2e_node import Node, eventually
from scenes import deploy

pytestmark = pytest.mark.e2e

HOST = "web-acme.apps.localhost"
COUNTERS = ("wakegate_requests_total", "wakegate_request_duration_seconds", "wakegate_bytes_total")


def scraped(node: Node) -> dict[str, float]:
    """Each counter of traffic by its whole name, of the product's own API left out."""
    answer = node.api("GET", "/metrics", key="")
    assert answer.status == 200
    lines = (line.rpartition(" ") for line in answer.body.decode().splitlines() if line.startswith(COUNTERS))
    return {name: float(value) for name, _, value in lines}


def served(found: dict[str, float]) -> float:
    return found.get('wakegate_requests_total{code="200",namespace="acme",service="web"}', 0.0)


def test_nothing_falls_whoever_is_killed(make_node) -> None:
    node = make_node(workers=2).start()
    deploy(node, "acme", "web", min_replicas=1)
    node.wait_status("acme", "web", "running")
    sent, shown = 0, dict[str, float]()

    def ask_and_scrape() -> None:
        nonlocal sent, shown
        for _ in range(20):
            assert node.request(HOST).status == 200
        sent += 20

        def all_counted() -> bool:
            nonlocal shown
            found = scraped(node)
            assert {name: value for name, value in shown.items() if found.get(name, 0.0) < value} == {}
            shown = found
            return served(found) == sent

        eventually(all_counted, 30, f"{sent} requests are counted")

    ask_and_scrape()
    for role in ("worker 1", "control", "worker 2", "control"):
        old = node.kill(role)
        node.replaced(role, old)
        eventually(lambda: node.api("GET", "/readyz", key="").status == 200, 60, "it is ready again")
        ask_and_scrape()
    for stop in (signal.SIGTERM, signal.SIGUSR2):
        assert node.stop(stop) == 0
        node.start()
        node.wait_status("acme", "web", "running")
        ask_and_scrape()
