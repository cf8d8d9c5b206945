"""The access log of a node: all workers in one file, moved away while they write, also across a reload."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_node import Node, eventually
from shared_nodes import SUPERVISED

pytestmark = pytest.mark.e2e

HOST = "rotated.apps.localhost"


def paths(*files: Path) -> list[str]:
    """Of requests for `HOST`, which nobody else asks for."""
    lines = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return [line["path"] for line in lines if line["host"] == HOST]


@SUPERVISED.group
def test_rotation_loses_no_line_and_needs_no_signal(supervised_node: Node) -> None:
    node, reloads = supervised_node, supervised_node.lines().count("reloaded")
    log, first, second = (node.data / name for name in ("access.log", "access.log.1", "access.log.2"))
    asked: list[str] = []

    def ask(count: int) -> None:
        for _ in range(count):
            asked.append(f"/{len(asked)}")
            assert node.request(HOST, asked[-1]).status == 404

    ask(20)
    eventually(lambda: len(paths(log)) == 20, what="20 lines")
    log.rename(first)
    ask(20)
    eventually(lambda: len(paths(log)) == 20, what="20 lines in a new file")
    assert len(paths(first)) == 20
    node.send(signal.SIGHUP)
    log.rename(second)
    log.touch(0o600)
    ask(20)
    eventually(lambda: node.lines().count("reloaded") > reloads, what="reloaded")
    ask(20)
    eventually(lambda: len(paths(first, second, log)) == 80, what="a line for each request")
    assert Counter(paths(first, second, log)) == Counter(asked)
    assert len(paths(log)) == 40


def test_standard_output(make_node: Callable[..., Node], store_url: str) -> None:
    node = make_node(workers=2, options=["--access-log", "-", "--role", "gateway", "--redis", store_url]).start()
    for number in range(20):
        assert node.request(HOST, f"/{number}").status == 404
    eventually(lambda: len([line for line in node.lines() if line.startswith('{"time"')]) == 20, what="20 lines")
    told = [json.loads(line) for line in node.lines() if line.startswith("{")]
    assert {line["path"] for line in told} == {f"/{number}" for number in range(20)}
    assert not (node.data / "access.log").exists()
