"""Session affinity through a deployed service: from the API's field to the cookie, over all workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_node import Answer, Node, eventually
from scenes import deploy, host

pytestmark = pytest.mark.e2e


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(workers=2)
    try:
        yield node.start()
    finally:
        node.close()


def test_a_client_comes_back_to_its_replica_over_all_workers(node: Node) -> None:
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
