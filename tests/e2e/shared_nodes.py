"""Nodes that many tests have in common, of several modules: a start costs more than most tests.

Tests that share a node are in the xdist group of its kind, so that one process runs them. Each finds it serving: a dead
or deaf one is replaced, and what it said is shown; what the tests before left is deleted. The node ends with the last
test of its group.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from e2e_node import Node, eventually


@dataclass(frozen=True)
class Kind:
    """What tests need of a node; `group` marks those that share one."""

    name: str
    workers: int
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Node], None] = lambda node: None  # before its first start
    stopped: bool = False  # tests stop it, and whoever needs it running starts it again

    @property
    def group(self) -> pytest.MarkDecorator:
        return pytest.mark.xdist_group(self.name)


LOGS = ("--log-size", "16MiB", "--api-rate", "0")  # segments of 2 MiB, read as fast as can be
# Only what a test asks for is deployed.
PLAIN = Kind("plain node", 2, ("--git-poll", "0", "--gpus", "T4=2"), {"SECRET_OF_THE_NODE": "x"})
WIDE = Kind("wide node", 4, ("--git-poll", "0"))
HOLDING = Kind(
    "holding node", 1, ("--hold-limit", "30", "--hold-keepalive-every", "1", "--waiting-page-after", "0.5", *LOGS)
)


def in_a_long_directory(node: Node) -> None:
    """Too long for the path of a socket."""
    node.data = node.root / ("long-" * 30) / "data"
    node.options += ["--data-dir", str(node.data)]


def with_a_file(node: Node) -> None:
    file = node.root / "wakegate.toml"
    file.write_text(FILE)
    node.options += ["--config", str(file)]


FILE = 'domain = "apps.localhost"\n'  # of options
SECRET_KEY = base64.b64encode(os.urandom(32)).decode()
SHAKEN = Kind("shaken node", 2, env={"WAKEGATE_SECRET_KEY": SECRET_KEY})  # its processes are killed, stopped, reloaded
# The same, for tests of what replaces them: no service that was deleted before is still being removed meanwhile.
SUPERVISED = Kind("supervised node", 2, prepare=with_a_file)
RESTARTED = Kind("restarted node", 1, prepare=in_a_long_directory, stopped=True)


def serves(node: Node) -> bool:
    """Both doors answer, and what they answer comes from the store."""
    try:
        return node.api("GET", "/acme/services").status == 200 and node.request("nobody.example.com").status == 404
    except (OSError, StopIteration):
        return False


def whole(node: Node, kind: Kind) -> bool:
    """Each of its processes is there, and those that they replaced have ended."""
    roles = {"control", "valkey-server", *(f"worker {number + 1}" for number in range(kind.workers))}
    pids = node.pids()
    return pids.keys() == roles and all(len(found) == 1 for found in pids.values())


def clear(node: Node) -> None:
    """Delete all services, of whichever namespace."""
    for namespace in node.api("GET", "/auth/v1/key").json()["namespaces"]:
        while items := node.api("GET", f"/{namespace}/services?limit=100").json()["items"]:
            for item in items:
                gone = node.api("DELETE", f"/auth/v1/seed/{namespace}/services/{item['name']}?force=true")
                assert gone.status in (204, 404), gone


class SharedNodes:
    """One of each kind, from the first test that asks for it on."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def empty(self, kind: Kind) -> Node:
        """A node that serves, without services."""
        return self._ready(kind, clear)

    def get(self, kind: Kind) -> Node:
        """A node that serves, with what the tests before left."""
        return self._ready(kind, lambda node: None)

    def _ready(self, kind: Kind, then: Callable[[Node], None]) -> Node:
        node = self._nodes.get(kind.name)
        if node is None:
            return self._start(kind)
        try:
            if kind.stopped and node.exited:
                node.start()
            eventually(lambda: node.exited or (whole(node, kind) and serves(node)), what=f"the {kind.name} serves")
            assert not node.exited, "it has ended"
            then(node)
        except (AssertionError, OSError) as error:
            print(f"the {kind.name} is replaced: {error}\n{node.said[-4000:]}", file=sys.stderr)
            self._nodes.pop(kind.name).close()
            node = self._start(kind)
        return node

    def _start(self, kind: Kind) -> Node:
        node = Node(workers=kind.workers, options=kind.options, env=kind.env)
        self._nodes[kind.name] = node
        kind.prepare(node)
        return node.start()

    def close(self) -> None:
        while self._nodes:
            self._nodes.popitem()[1].close()
