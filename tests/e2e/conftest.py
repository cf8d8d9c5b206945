"""A real node for end-to-end tests: `wakegate serve` with ports of its own, a short data directory, git repositories.

def test_something(node):             # one node with 2 workers, started and ready
def test_other(make_node):            # make_node(workers=4, options=["--idle-timeout", "1"]).start()
    node.commit("acme/web", {"Procfile": "web: ./run\\n", ...})
    node.api("POST", "/auth/v1/seed/acme/services", {"name": "web", "repo": "acme/web", "gpu": "none"})
    assert node.request("web-acme.apps.localhost", "/").status == 200
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e_node import Node


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """A factory of nodes that are not started yet: `make_node(workers=4, options=[...], env={...}).start()`."""
    made: list[Node] = []

    def make(**settings: Any) -> Node:
        made.append(Node(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """A ready node with 2 workers."""
    return make_node().start()
