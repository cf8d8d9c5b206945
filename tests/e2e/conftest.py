"""A real node for end-to-end tests: `wakegate serve` with ports of its own, a short data directory, git repositories.

def test_something(node):             # one node with 2 workers, started and ready
def test_other(make_node):            # make_node(workers=4, options=["--idle-timeout", "1"]).start()
    node.commit("acme/web", {"Procfile": "web: ./run\\n", ...})
    node.api("POST", "/auth/v1/seed/acme/services", {"name": "web", "repo": "acme/web", "gpu": "none"})
    assert node.request("web-acme.apps.localhost", "/").status == 200
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Node
from nursery import Nursery, ReplicaServer, Reports
from shared_nodes import HOLDING, PLAIN, RESTARTED, SHAKEN, SUPERVISED, WIDE, SharedNodes

from state.store import Store

SHARED = pytest.StashKey[SharedNodes]()


@pytest.fixture(autouse=True)
async def quick_clients() -> None:
    """What is tested runs in processes of its own; asyncio's debug mode would only double what the clients cost."""
    asyncio.get_running_loop().set_debug(False)


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """A factory of nodes that are not started yet: `make_node(workers=4, options=[...], env={...}).start()`."""
    yield from _factory()


def _factory() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(**settings: Any) -> Node:
        made.append(Node(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def make_shared_node() -> Iterator[Callable[..., Node]]:
    """As `make_node`, for the fixture of a node that serves a module's tests, which are in one xdist group and have
    services of their own."""
    yield from _factory()


@pytest.fixture(scope="session")
def shared_nodes(request: pytest.FixtureRequest) -> Iterator[SharedNodes]:
    """Nodes that several modules share; see shared_nodes.py."""
    request.session.stash[SHARED] = nodes = SharedNodes()
    yield nodes
    nodes.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The shared nodes of a group of tests end with it."""
    nodes = item.session.stash.get(SHARED, None)
    if nodes is not None and nextitem is not None and _group(item) != _group(nextitem):
        nodes.close()


def _group(item: pytest.Item) -> object:
    mark = item.get_closest_marker("xdist_group")
    return mark and mark.args


@pytest.fixture
def plain_node(shared_nodes: SharedNodes) -> Node:
    """One of 2 workers without services, for tests in `PLAIN.group`."""
    return shared_nodes.empty(PLAIN)


@pytest.fixture
def wide_node(shared_nodes: SharedNodes) -> Node:
    """One of 4 workers without services, for tests in `WIDE.group`."""
    return shared_nodes.empty(WIDE)


@pytest.fixture
def holding_node(shared_nodes: SharedNodes) -> Node:
    """One of a worker that holds 30 requests, without services, for tests in `HOLDING.group`."""
    return shared_nodes.empty(HOLDING)


@pytest.fixture
def shaken_node(shared_nodes: SharedNodes) -> Node:
    """One of 2 workers without services whose processes die, for tests in `SHAKEN.group`."""
    return shared_nodes.empty(SHAKEN)


@pytest.fixture
def supervised_node(shared_nodes: SharedNodes) -> Node:
    """One of 2 workers with a file of options whose processes die, for tests in `SUPERVISED.group`."""
    return shared_nodes.empty(SUPERVISED)


@pytest.fixture
def restarted_node(shared_nodes: SharedNodes) -> Node:
    """One of a worker without services that may be stopped, for tests in `RESTARTED.group`."""
    return shared_nodes.empty(RESTARTED)


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """A ready node with 2 workers."""
    return make_node().start()


@pytest.fixture
def fleet(make_node: Callable[..., Node], store_url: str) -> Callable[..., Node]:
    """A factory of started nodes with one store, one secret key and the first one's repositories. One test at a time
    (`xdist_group`): all fleets have the same uids."""
    key = base64.b64encode(os.urandom(32)).decode()
    made: list[Node] = []

    def make(*options: str) -> Node:
        number = len(made)
        uids = f"{61000 + 100 * number}-{61099 + 100 * number}"
        node = make_node(
            workers=1,
            options=["--redis", store_url, "--process-uids", uids, *options],
            env={"WAKEGATE_SECRET_KEY": key},
        )
        made.append(node)
        node.options += ["--git-url", f"file://{made[0].git}/{{repo}}"]
        return node.start()

    return make


@pytest.fixture
async def replica() -> AsyncIterator[ReplicaServer]:
    async with ReplicaServer("r1").serving() as server:
        yield server


@pytest.fixture
async def make_nursery(tmp_path: Path, store_url: str) -> AsyncIterator[Callable[..., Nursery]]:
    """Workers without a control: `make_nursery(2)`, then `await (await nursery.spawn()).ready()`."""
    made: list[Nursery] = []

    def make(workers: int = 1, **given: list[str]) -> Nursery:
        made.append(Nursery(tmp_path, store_url, workers, given))
        return made[-1]

    yield make
    for nursery in made:
        await nursery.close()


@pytest.fixture
async def reports(store: Store) -> AsyncIterator[Reports]:
    reports = Reports()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reports.listen(store))
        yield reports
        task.cancel()
