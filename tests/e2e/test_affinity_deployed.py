"""Affinity through a deployed service, over all workers: from the API's field to the cookie, and to prompts."""

from __future__ import annotations

import json

import pytest
from e2e_node import Answer, Node, eventually
from scenes import deploy, host
from shared_nodes import PLAIN

pytestmark = [pytest.mark.e2e, PLAIN.group]


def test_a_client_comes_back_to_its_replica_over_all_workers(plain_node: Node) -> None:
    node = plain_node
    deploy(node, "acme", "shop", min_replicas=2, max_replicas=2, scaling={"affinity": "cookie"})
    eventually(lambda: node.service("acme", "shop")["replicas"]["ready"] == 2, 60)
    assert node.service("acme", "shop")["scaling"]["affinity"] == "cookie"

    def ask(cookie: str | None = None) -> Answer:
        return node.request(host("acme", "shop"), headers={"Cookie": cookie} if cookie else {})

    first = ask()
    cookie = first.headers["Set-Cookie"].partition(";")[0]
    for _ in range(30):  # each over a connection of its own, to either worker
        again = ask(cookie)
        assert again.body == first.body
        assert "Set-Cookie" not in again.headers
    assert len({ask().body for _ in range(40)}) == 2, "without a cookie to any"
    assert node.api("PUT", "/auth/v1/seed/acme/services/shop", {"scaling": {"affinity": "prefix"}}).status == 200
    eventually(lambda: not any("Set-Cookie" in ask().headers for _ in range(20)), 10, "both workers know")
    prompts_come_back(node)


def prompts_come_back(node: Node) -> None:
    """Each conversation to one replica, in all of its turns, by either worker."""

    def turn(name: int, number: int) -> bytes:
        messages = [{"role": "user", "content": f"{name}"}, *[{"role": "assistant", "content": "x"}] * number]
        body = json.dumps({"model": "m", "messages": messages}).encode()
        headers = {"Content-Type": "application/json"}
        return node.request(
            host("acme", "shop"), "/v1/chat/completions", method="POST", body=body, headers=headers
        ).body

    used = [{turn(name, number) for number in range(4)} for name in range(24)]
    assert all(len(replicas) == 1 for replicas in used), used
    assert len(set.union(*used)) == 2, "all together to both"
