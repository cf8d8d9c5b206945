"""What clients of a sleeping service get to see while it wakes, on a real node: programs, browsers, and others."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable

import pytest
from e2e_node import Node, eventually
from scenes import deploy, host
from shared_nodes import HOLDING

pytestmark = [pytest.mark.e2e, HOLDING.group]

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def raw(node: Node, data: bytearray, *more: str, target: str = "/events") -> bytearray:
    """All that comes until the connection is idle after its response, in bytes; `data` has what there is so far."""
    with socket.create_connection(("127.0.0.1", node.http_port), 30) as sock:
        lines = [f"GET {target} HTTP/1.1", f"Host: {host('acme', 'slow')}", "Connection: close", *more, "", ""]
        sock.sendall("\r\n".join(lines).encode())
        while piece := sock.recv(65536):
            data += piece
        return data


def plain(node: Node) -> bytes:
    """By Python's `http.client`, which knows no interim response but 100."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/x", headers={"Host": host("acme", "slow")})
        response = connection.getresponse()
        return b"%d " % response.status + response.read()


def browse(node: Node, seen: list[int]) -> list[int]:
    """The statuses that a browser gets which does as the page says; `seen` has those so far."""
    while True:
        answer = node.request(host("acme", "slow"), "/page", headers=BROWSER)
        seen.append(answer.status)
        if answer.status == 200:
            return seen
        assert b"is starting" in answer.body
        time.sleep(float(answer.headers["Refresh"]))


def held(node: Node) -> float:
    """Requests, as the workers last told."""
    text = node.api("GET", "/metrics").body.decode()
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("wakegate_held "))


def test_each_gets_what_it_understands_and_then_the_answer(holding_node):
    node = holding_node
    notes = deploy(node, "acme", "slow", min_replicas=0, env={"START_GATE": "1"}, scaling={"hold_keepalive": True})
    gate = notes.path / "go"
    gate.touch()
    node.wait_status("acme", "slow", "running")
    assert node.api("POST", "/auth/v1/seed/acme/services/slow/sleep").status == 200
    node.wait_status("acme", "slow", "stopped")
    gate.unlink()
    events, text, interim, statuses = bytearray(), bytearray(), bytearray(), list[int]()
    asking: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(node),
        "events": lambda: raw(node, events, "Accept: text/event-stream"),
        "text": lambda: raw(node, text, "Accept: text/event-stream", target="/x"),
        "interim": lambda: raw(node, interim),
        "browser": lambda: browse(node, statuses),
    }
    got: dict[str, object] = {}
    threads = [threading.Thread(target=lambda name=name: got.update({name: asking[name]()})) for name in asking]
    for thread in threads:
        thread.start()
    eventually(lambda: events and text and interim and statuses, what="each has been told that it waits")
    eventually(lambda: held(node) >= 4, what="the plain one waits, too")
    gate.touch()
    for thread in threads:
        thread.join(60)
    assert got.keys() == asking.keys()
    assert bytes(got["plain"]).startswith(b"200 hello from ")
    assert events.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    assert b": waiting\n\n" in events
    assert events.endswith(b"d\r\ndata: hello\n\n\r\n0\r\n\r\n")
    assert b'"message":"the replica did not answer with server-sent events"' in text
    assert interim.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert set(statuses) == {200, 503}
    assert [line[3] for line in notes.lines("requests")].count("/page") == 1, "the application sees it once"
