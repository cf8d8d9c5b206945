"""A stop that comes while `serve` starts, and what its API says until it has started. Real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from e2e_node import ROOT, Node, eventually
from test_nodes_together import kill_whole

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stopping at start")]

HELLO = {name: (ROOT / "examples" / "hello" / name).read_text() for name in ("Procfile", "server.py")}
HOST = "hello-acme.apps.localhost"
STARTS = [("private", "valkey-server"), ("private", "control"), ("shared", "control")]


@pytest.fixture
def make(make_node: Callable[..., Node], store_url: str) -> Callable[..., Node]:
    """A node of a private or a shared store."""

    def node(store: str, *options: str) -> Node:
        shared = ("--redis", store_url) if store == "shared" else ()
        return make_node(workers=1, options=["--drain-timeout", "3", *shared, *options])

    return node


def outlived(node: Node) -> int:
    """A replica whose `serve` was killed with all its children: its pid."""
    node.start()
    node.commit("acme/hello", HELLO)
    node.create("acme", "hello", min_replicas=1)
    node.wait_status("acme", "hello", "running")
    pid = int(node.request(HOST).body.decode().split()[3].rstrip(","))
    kill_whole(node)
    assert runs(pid)
    return pid


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(("store", "role"), STARTS)
def test_what_an_earlier_serve_left_is_stopped(make: Callable[..., Node], store: str, role: str) -> None:
    node = make(store)
    replica = outlived(node)
    node.start(wait=False)
    node.child(role)
    assert node.stop() == 0, node.said
    assert not runs(replica)
    assert "Traceback" not in node.said
    assert node.strays() == []


@pytest.mark.parametrize(("store", "role"), STARTS)
def test_a_node_that_has_nothing_ends_without_a_fault(make: Callable[..., Node], store: str, role: str) -> None:
    node = make(store).start(wait=False)
    node.child(role)
    assert node.stop() == 0, node.said
    assert "Error" not in node.said
    assert node.strays() == []


def test_sigusr2_at_the_start_leaves_what_runs(make: Callable[..., Node]) -> None:
    node = make("private")
    replica = outlived(node)
    node.start(wait=False)
    node.child("valkey-server")
    assert node.stop(signal.SIGUSR2) == 0, node.said
    assert runs(replica)
    assert "left running" not in node.said


def test_what_is_left_running_is_told_and_the_next_serve_ends_it(make: Callable[..., Node]) -> None:
    node = make("private")
    replica = outlived(node)
    node.start(wait=False)
    control = node.child("control")
    os.kill(control, signal.SIGSTOP)
    node.send(signal.SIGTERM)
    eventually(lambda: "worker 1" not in node.pids(), what="the stop has begun")
    assert node.stop(signal.SIGTERM) == 1
    assert runs(replica)
    assert "wakegate: left running: replica " in node.said
    assert f"Start `wakegate serve` on {node.data} again" in node.said
    node.start()
    assert int(node.request(HOST).body.decode().split()[3].rstrip(",")) == replica, "it is adopted"
    assert node.stop() == 0
    assert not runs(replica)


def test_what_cannot_be_found_is_left_alone_and_told(make: Callable[..., Node]) -> None:
    node = make("private")
    replica = outlived(node)
    (record,) = node.data.glob("replicas/*/replica.json")
    whole = record.read_text()
    record.write_text("{")
    node.start(wait=False)
    node.child("valkey-server")
    assert node.stop() == 1
    assert f"left running: what is on record in {node.data} (it can't be read: " in node.said
    assert runs(replica)
    record.write_text(whole)
    node.start()
    assert node.stop() == 0
    assert not runs(replica)


@pytest.mark.parametrize("store", ["private", "shared"])
def test_the_api_says_that_it_is_ready_once_serve_has(make: Callable[..., Node], store: str) -> None:
    pid = os.getpid()
    api = f"127.{100 + pid % 100}.{pid >> 8 & 255}.{pid & 255}:8081"  # nobody else's, known before it is said
    node = make(store, "--api", api).start(wait=False)
    reasons: set[str] = set()

    def ready() -> bool:
        assert not node.exited, node.said
        try:
            with urlopen(f"http://{api}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except HTTPError as error:
            reasons.update(json.load(error)["reasons"])
        except OSError:
            pass  # nobody answers yet
        return False

    eventually(ready, 60, "the API says ready")
    assert "ready" in node.lines()
    assert node.admin_key
    assert reasons <= {"the node starts", "the store can't be reached"}
    assert node.stop() == 0
