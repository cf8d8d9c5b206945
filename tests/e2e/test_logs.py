"""Logs and events of real processes: followed through wakes, rotations and a kill of control; floods; why it sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Node, eventually
from scenes import Notes, Reply, ask, host
from shared_nodes import HOLDING, RESTARTED
from test_cold_starts import FAILURES, STARTS, counted

pytestmark = pytest.mark.e2e

CHATTY = (Path(__file__).parent / "chatty_replica.py").read_text()


def deploy(node: Node, name: str, *, env: dict[str, str] | None = None, **fields: Any) -> Notes:
    if not (node.git / "acme" / "chatty").exists():
        node.commit("acme/chatty", {"Procfile": "web: exec python3 server.py\n", "server.py": CHATTY})
    notes = Notes(node, name)
    fields = {"min_replicas": 0, "scaling": {"idle_timeout": 1}, **fields}
    node.create("acme", name, repo="acme/chatty", env={"OUT": str(notes.path), **(env or {})}, **fields)
    return notes


@dataclass
class Follower:
    """A client of a stream that comes back with the id of what it saw last, until the stream says that it is over."""

    node: Node
    path: str
    messages: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    connections: int = 0
    given_up: bool = False

    def run(self) -> None:
        while "end" not in self.kinds and not self.given_up:
            connection = http.client.HTTPConnection("127.0.0.1", self.node.api_port, timeout=5)
            with contextlib.suppress(OSError, http.client.HTTPException):  # control is being replaced, or all is quiet
                self._read(connection)
            connection.close()

    def _read(self, connection: http.client.HTTPConnection) -> None:
        headers = {"Authorization": f"Bearer {self.node.admin_key}"}
        if self.ids:
            headers["Last-Event-ID"] = str(self.ids[-1])
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            assert answer.status == 503, answer.read()
            return
        self.connections += 1
        place, kind = 0, "message"
        while line := answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                place = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                self.kinds.append(kind)
                if kind == "message":
                    self.ids.append(place)
                    self.messages.append(json.loads(value))


@contextlib.contextmanager
def following(node: Node, path: str) -> Iterator[Follower]:
    follower = Follower(node, path)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield follower
    except BaseException:
        follower.given_up = True
        thread.join()
        raise
    thread.join(30)
    assert not thread.is_alive(), "the stream does not end with its service"


async def request(node: Node, name: str, target: str = "/") -> int:
    reply = await ask(node.http_port, host("acme", name), target)
    assert isinstance(reply, Reply), reply
    return reply.status


@HOLDING.group
async def test_followed_through_wakes_rotations_and_a_kill_of_control_nothing_is_lost_or_doubled(holding_node):
    node = holding_node
    notes = deploy(node, "web")
    eventually(lambda: node.asleep("acme", "web"), 60, "it sleeps")
    logs, events = "/acme/service/web/logs?follow=true&stream=stdout&cursor=0", "/acme/service/web/events?follow=true"
    with following(node, logs) as lines, following(node, events) as told:
        assert await request(node, "web", "/burst") == 200
        eventually(lambda: len(lines.messages) > 500, what="lines of the replica that woke")
        old = node.kill("control")
        assert await request(node, "web", "/burst") == 200  # warm, without control
        node.replaced("control", old)
        eventually(lambda: lines.connections > 1 and told.connections > 1, 60, "both came back")
        eventually(lambda: node.asleep("acme", "web"), 60, "it sleeps again")
        assert await request(node, "web", "/burst") == 200
        eventually(lambda: told.messages[-1]["kind"] == "replica.ready", what="the last wake is told")
        segments = [*(node.data / "logs" / node.service("acme", "web")["id"]).glob("*.log")]
        assert len(segments) > 4
        listed = node.api("GET", "/acme/service/web/events?limit=1000").json()["items"]
        assert node.api("DELETE", "/auth/v1/seed/acme/services/web").status == 204
    for follower in (lines, told):
        assert follower.ids == sorted(set(follower.ids))
        assert "gap" not in follower.kinds
    seen = defaultdict(list)
    for message in lines.messages:
        pid, number, _ = message["line"].split(" ")
        seen[pid].append(int(number))
    written = {file.name: int(file.read_text()) for file in notes.path.iterdir() if file.name.isdigit()}
    assert len(written) == 3
    assert seen == {pid: list(range(count)) for pid, count in written.items()}
    assert told.messages[: len(listed)] == listed
    kinds = [event["kind"] for event in told.messages]
    story = [
        "service.slept",
        "replica.draining",
        "service.woke",
        "replica.started",
        "replica.ready",
        "replica.draining",
    ]
    assert [kind for kind in kinds if kind in story][-len(story) :] == story, kinds
    assert kinds[-1] == "service.removed"


@HOLDING.group
async def test_why_it_is_not_waking(holding_node):
    node = holding_node
    notes = deploy(node, "broken")
    eventually(lambda: node.asleep("acme", "broken"), 60, "it sleeps")
    (notes.path / "broken").touch()
    assert await request(node, "broken") == 503

    def reasons() -> dict[str, str]:
        events = node.api("GET", "/acme/service/broken/events").json()["items"]
        return {event["kind"]: event["reason"] for event in events}

    eventually(lambda: "service.wake_failed" in reasons(), what="the end of the wake")
    told = reasons()
    assert told["service.woke"] == "a request is waiting"
    exited, then = "exited with code 3 while starting", r"the next request after \d+ s tries again"
    assert re.fullmatch(f"{exited}; {then}; last line of its log: no database", told["replica.failed"])
    assert told["service.wake_failed"] == f"{exited}; the next request tries again"


@HOLDING.group
async def test_a_replica_that_floods_is_bounded_and_what_is_dropped_is_told(holding_node):
    node = holding_node
    deploy(node, "flood", env={"FLOOD": str(400_000_000)}, min_replicas=1)
    deploy(node, "quiet", min_replicas=1)

    def dropped() -> int:
        text = node.api("GET", "/metrics").body.decode()
        return int(float(re.search(r"^wakegate_log_dropped_bytes_total (\S+)$", text, re.MULTILINE)[1]))

    eventually(dropped, 60, "some of it is dropped")
    first = node.api("GET", "/acme/service/quiet/logs?limit=1").json()["next"]
    eventually(
        lambda: node.api("GET", f"/acme/service/quiet/logs?cursor={first}").json()["items"], what="others' lines"
    )

    service = node.service("acme", "flood")["id"]
    kept_in = node.data / "logs" / service

    def notes() -> list[str]:
        """Found in the files, since 64 MiB of lines may come after the last one, and read by the API at its time."""
        for file in kept_in.iterdir():
            with contextlib.suppress(FileNotFoundError):  # rotated away
                if found := re.search(rb"^(\d{16}) .* wakegate: \d+ bytes of output", file.read_bytes(), re.MULTILINE):
                    time = datetime.fromtimestamp(int(found[1]) / 1e6, UTC)
                    since, until = (f"{time + timedelta(microseconds=n):%Y-%m-%dT%H:%M:%S.%fZ}" for n in (-1000, 1000))
                    path = f"/acme/service/flood/logs?limit=10000&stream=stdout&since={since}&until={until}"
                    lines = [item["line"] for item in node.api("GET", path).json()["items"]]
                    return [line for line in lines if line.startswith("wakegate: ")]
        return []

    told = eventually(notes, 60, "a line that tells of it")
    assert re.fullmatch(r"wakegate: \d+ bytes of output were dropped here, written faster than .*", told[-1])
    kept = sum(file.stat().st_size for file in kept_in.iterdir())
    assert kept <= 16 << 20

    def raw() -> int:
        return sum(file.stat().st_blocks * 512 for file in (node.data / "replicas").rglob("stdout"))

    # a stream is freed by the MiB, and 64 KiB of it stay
    eventually(lambda: raw() < 2 << 20, 60, "what was taken in, or dropped, is freed")


def kinds(node: Node, name: str) -> list[str]:
    return [event["kind"] for event in node.api("GET", f"/acme/service/{name}/events?limit=1000").json()["items"]]


async def story(node: Node) -> None:
    """The service `told` wakes once, once it can't, and then it runs."""
    notes = deploy(node, "told")
    for broken, status in ((False, 200), (True, 503)):
        await asyncio.to_thread(eventually, lambda: node.asleep("acme", "told"), 60, "it sleeps")
        if broken:
            (notes.path / "broken").touch()
        assert await request(node, "told") == status
    await asyncio.to_thread(
        eventually, lambda: "service.wake_failed" in kinds(node, "told"), what="the end of the wake"
    )
    (notes.path / "broken").unlink()
    assert node.api("PUT", "/auth/v1/seed/acme/services/told", {"min_replicas": 1}).status == 200
    await asyncio.to_thread(eventually, lambda: node.service("acme", "told")["replicas"]["ready"] == 1, 60, "it runs")


@RESTARTED.group
async def test_a_restart_of_the_node_keeps_what_was_told_and_counted(restarted_node):
    """And the key of its administrator."""
    node, key = restarted_node, restarted_node.admin_key
    await story(node)
    path = "/acme/service/told/events?limit=1000"

    def told() -> Any:
        found = node.api("GET", path).json()
        return found if found["items"][-1]["kind"] == "replica.ready" else None

    before = await asyncio.to_thread(eventually, told)  # events are told after what they tell of
    first = node.api("GET", "/acme/service/told/logs?limit=10").json()["items"]
    starts, failures = counted(node, STARTS)["ready"], counted(node, FAILURES)["ready"]
    assert min(starts, failures) > 0
    assert node.stop() == 0
    node.start()
    assert (node.admin_key, key in node.said) == (key, False)
    assert counted(node, STARTS)["ready"] >= starts
    assert counted(node, FAILURES)["ready"] >= failures
    after = node.api("GET", path).json()["items"]
    assert after[: len(before["items"])] == before["items"]
    resumed = eventually(lambda: node.api("GET", f"{path}&cursor={before['next']}").json()["items"], what="what came")
    assert resumed[0]["kind"] == "replica.lost"
    since, until = first[0]["time"], first[-1]["time"]
    again = node.api("GET", f"/acme/service/told/logs?since={since}&until={until}&limit=10").json()["items"]
    assert again == first[1:]
