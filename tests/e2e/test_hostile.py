"""Hostile and slow clients against real worker processes: normal traffic flows on, and what they cost is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_node import Node, eventually
from scenes import Reply, ask, deploy, host, traffic

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("hostile")]

REPLICA = (Path(__file__).parent / "hostile_replica.py").read_text()
NAME = host("acme", "web")
MIB = 1 << 20
MANY = 5000


@pytest.fixture
def files() -> Iterator[int]:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def node(make_shared_node: Callable[..., Node]) -> Node:
    """A node of one worker that serves acme/web and acme/slow, and gives up after 8 s on who doesn't move."""
    node = make_shared_node(workers=1, options=["--response-timeout", "8"]).start()
    node.commit("acme/web", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    node.create("acme", "web", min_replicas=1)
    deploy(node, "acme", "slow", min_replicas=1)
    for name in ("web", "slow"):
        node.wait_status("acme", name, "running")
    return node


@pytest.fixture
def web(node: Node) -> Node:
    """With a worker that may have all the files that there are."""
    there_are = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)[1]
    if resource.prlimit(node.child("worker 1"), resource.RLIMIT_NOFILE)[0] != there_are:
        with_files(node, there_are)
    return node


@pytest.fixture
def fresh(web: Node) -> Node:
    """With a worker that nobody has used yet: what it takes of memory is new."""
    web.replaced("worker 1", web.kill("worker 1"))
    eventually(lambda: answers(web), 30, "the new worker serves")
    return web


def metric(node: Node, name: str) -> float:
    text = node.api("GET", "/metrics").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


Connect = Callable[..., socket.socket]


@pytest.fixture
def connected() -> Iterator[Connect]:
    """`connected(node, data, source)`: one from that address that has sent `data` and doesn't wait for anything."""
    with contextlib.ExitStack() as stack:

        def connect(node: Node, data: bytes, source: str = "127.0.0.1") -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.http_port), 30, (source, 0)))
            sock.sendall(data)
            sock.setblocking(False)
            return sock

        yield connect


def alive(sock: socket.socket) -> bool:
    """Neither answered nor closed."""
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False


async def test_normal_traffic_flows_beside_5000_slow_connections(web: Node, files: int, connected: Connect) -> None:
    """Half of them dribble a head, half say nothing at all."""
    count = min(MANY, files - 1000)
    assert count >= 500, f"only {files} open files are allowed"
    worker = web.child("worker 1")
    slow: list[socket.socket] = []
    async with traffic(web.http_port, NAME, rate=50, connections=8) as seen:
        for number in range(count):
            slow.append(connected(web, b"GET / HTTP/1.1\r\nHost: app" if number % 2 else b""))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.to_thread(eventually, lambda: metric(web, "wakegate_connections ") >= count, 60, "accepted")
        for _ in range(5):
            for sock in slow[1::2]:
                sock.send(b"x")
            goal = seen.answered + 10
            async with asyncio.timeout(30):
                while seen.answered < goal:
                    await asyncio.sleep(0.01)
            fresh = [await ask(web.http_port, NAME) for _ in range(5)]
            assert [reply.status for reply in fresh if isinstance(reply, Reply)] == [200] * 5, fresh
    assert (seen.wrong, seen.cut) == ([], [])
    assert seen.answered == seen.sent
    assert sum(alive(sock) for sock in slow) == count, "slow is not yet too slow"
    assert web.child("worker 1") == worker


def memory(pid: int) -> int:
    """Bytes of a process's own memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def unread(sock: socket.socket) -> int:
    """Bytes that wait in our kernel, because the test reads none."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))[0]


def settled(value: Callable[[], int], times: int = 20) -> int:
    """`value` once it has been the same for a fifth of a second."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(value())
        return len(seen) > times and len(set(seen[-times:])) == 1 and seen[-1] > 0

    eventually(same, 30, "it settles")
    return seen[-1]


@pytest.mark.parametrize("target", ["/big", "/chunks"])
def test_a_client_that_stops_reading_1_gib_costs_1_mib_and_is_cut(fresh: Node, target: str, connected: Connect) -> None:
    worker = fresh.child("worker 1")
    assert fresh.request(NAME).status == 200
    before = memory(worker)
    clients = [connected(fresh, f"GET {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()) for _ in range(16)]
    settled(lambda: sum(unread(sock) for sock in clients))
    assert memory(worker) - before <= len(clients) * MIB
    assert fresh.request(NAME).status == 200
    eventually(lambda: metric(fresh, "wakegate_in_flight ") >= len(clients), 30, "they are in flight")
    eventually(lambda: metric(fresh, "wakegate_in_flight ") == 0, 30, "they are cut")
    for sock in clients:
        sock.settimeout(10)
        assert taken(sock) < 1 << 28
    assert memory(worker) - before <= len(clients) * MIB
    assert fresh.child("worker 1") == worker


def taken(sock: socket.socket) -> int:
    """How much comes until the end, whatever end that is."""
    size = 0
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(MIB):
            size += len(piece)
    return size


def test_a_replica_that_stops_reading_1_gib_costs_1_mib_and_gives_504(fresh: Node, connected: Connect) -> None:
    worker = fresh.child("worker 1")
    assert fresh.request(NAME).status == 200
    before = memory(worker)
    head = f"POST /sink HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
    clients = [connected(fresh, head) for _ in range(16)]
    sent = 0

    def pour() -> int:
        nonlocal sent
        for sock in clients:
            try:
                while True:
                    sent += sock.send(b"x" * 65536)
            except BlockingIOError:
                pass
            except ConnectionError:
                pytest.fail(f"cut after {sent}: {sock.recv(4096)!r} {(fresh.data / 'access.log').read_text()[-700:]}")
        return sent

    settled(pour)
    assert memory(worker) - before <= len(clients) * MIB
    assert fresh.request(NAME).status == 200
    for sock in clients:
        sock.settimeout(30)
        assert sock.recv(65536).startswith(b"HTTP/1.1 504 ")
    eventually(lambda: metric(fresh, "wakegate_in_flight ") == 0, 30, "nothing is left")


async def test_a_worker_out_of_files_closes_the_idle_and_serves_who_comes(web: Node, connected: Connect) -> None:
    """Accepting goes on after EMFILE, and so does connecting: by the same worker."""
    worker, said = web.child("worker 1"), len(web.said)
    used = max(int(name) for name in os.listdir(f"/proc/{worker}/fd")) + 1
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    idle = [connected(web, b"") for _ in range(100)]
    replies = [await ask(web.http_port, NAME) for _ in range(20)]
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [200] * 20, replies
    assert "accepting pauses: Too many open files" in web.said[said:]
    assert 0 < sum(alive(sock) for sock in idle) < 100
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    assert web.child("worker 1") == worker
    for sock in idle:
        sock.close()
    await asyncio.to_thread(eventually, lambda: metric(web, "wakegate_connections ") == 0, 60, "all are closed")


async def test_without_files_to_connect_with_requests_wait_and_no_replica_is_blamed(
    node: Node, connected: Connect
) -> None:
    """What the clients leave is too little for a connection each."""
    counter = 'wakegate_upstream_errors_total{error="connection_limit_reached"'
    worker, before = await asyncio.to_thread(with_files, node, 400), metric(node, counter)
    # the request comes with the connection: who is silent for a second makes room
    clients = [connected(node, SLOW, f"127.0.0.{2 + n % 2}") for n in range(220)]
    replies = await asyncio.gather(*(asyncio.to_thread(answer, sock) for sock in clients))
    assert [reply for reply in replies if not reply.startswith(b"HTTP/1.1 200 ")] == []
    eventually(lambda: metric(node, counter) > before)
    assert node.child("worker 1") == worker


SLOW = f"GET /slow?s=1 HTTP/1.1\r\nHost: {host('acme', 'slow')}\r\n\r\n".encode()


def answer(sock: socket.socket) -> bytes:
    """The beginning of what comes within a minute."""
    sock.settimeout(60)
    return sock.recv(65536)


STREAM = f"GET /stream HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


async def test_streams_of_one_address_leave_files_for_others(node: Node, connected: Connect) -> None:
    said, worker = len(node.said), await asyncio.to_thread(with_files, node, 400)
    streams = [connected(node, STREAM, "127.0.0.2") for _ in range(220)]
    await asyncio.to_thread(eventually, lambda: metric(node, "wakegate_in_flight ") >= 151, 60, "they stream")
    replies = [await ask(node.http_port, NAME, timeout=8) for _ in range(20)]
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [200] * 20, replies
    assert sum(flows(sock) for sock in streams) == 151, "two files each, of nine tenths of 400 less 64"
    assert "accepting pauses" not in node.said[said:]
    assert node.child("worker 1") == worker


async def test_who_is_idle_makes_room_beside_streams(node: Node, connected: Connect) -> None:
    said, worker = len(node.said), await asyncio.to_thread(with_files, node, 400)
    streams = [connected(node, STREAM, f"127.0.0.{2 + n % 2}") for n in range(160)]
    await asyncio.to_thread(eventually, lambda: metric(node, "wakegate_in_flight ") == 160, 60, "they stream")
    idle = [connected(node, b"", "127.0.0.4") for _ in range(100)]
    replies = [await ask(node.http_port, NAME, timeout=8) for _ in range(20)]
    assert [reply.status for reply in replies if isinstance(reply, Reply)] == [200] * 20, replies
    assert "accepting pauses: Too many open files" in node.said[said:]
    assert sum(alive(sock) for sock in idle) < 100
    assert sum(flows(sock) for sock in streams) == 160
    assert node.child("worker 1") == worker


async def test_streams_of_many_leave_files_to_answer_with(node: Node, connected: Connect) -> None:
    """Nobody is idle, and there is nothing to connect with: who comes is told."""
    worker = await asyncio.to_thread(with_files, node, 400)
    streams = [connected(node, STREAM, f"127.0.0.{2 + n % 2}") for n in range(182)]
    await asyncio.to_thread(eventually, lambda: metric(node, "wakegate_in_flight ") == 182, 60, "all came in")
    reply = await ask(node.http_port, host("acme", "nobody"), timeout=8)
    assert isinstance(reply, Reply)
    assert reply.status == 404
    reply = await ask(node.http_port, NAME, timeout=8)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.fields["retry-after"]) == (503, "1")
    assert "connection_limit_reached" in reply.fields["proxy-status"]
    assert sum(flows(sock) for sock in streams) >= 150
    assert node.child("worker 1") == worker


def with_files(node: Node, files: int) -> int:
    """Replace the worker by one that may have so many open; returns its pid."""
    # the dead worker's would be counted until it is known to be gone
    eventually(lambda: metric(node, "wakegate_in_flight ") == 0, 30, "the earlier clients are gone")
    limits = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (files, limits[1]))
    worker = node.replaced("worker 1", node.kill("worker 1"))
    eventually(lambda: answers(node), 30, "the new worker serves")
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE)[0] == files
    return worker


def flows(sock: socket.socket) -> bool:
    """A response has begun well, and not ended."""
    try:
        return sock.recv(65536).startswith(b"HTTP/1.1 200 ") and alive(sock)
    except OSError:
        return False


def answers(node: Node) -> bool:
    try:
        return node.request(NAME).status == 200
    except OSError:
        return False
