"""SIGHUP under load and with open tunnels: nothing is lost, tunnels live on, old workers never pile up."""

from __future__ import annotations

import asyncio
import signal

import pytest
from e2e_node import Node, eventually
from scenes import Reply, ask, deploy, host, traffic
from tunnels import Stream, Tunnel, deploy_echo

from wakegate.supervision import GENERATIONS

pytestmark = pytest.mark.e2e


def reload(node: Node) -> None:
    """SIGHUP, until it is done."""
    times = node.lines().count("reloaded")
    node.send(signal.SIGHUP)
    eventually(lambda: node.lines().count("reloaded") > times, 60, "reloaded")


def workers(node: Node) -> int:
    return sum(len(pids) for role, pids in node.pids().items() if role.startswith("worker"))


async def test_neither_a_connection_nor_a_request_is_lost_over_reloads_under_load(make_node):
    """Keep-alive clients find no connection closed under their next request, new ones are accepted all the time."""
    node = make_node().start()
    deploy(node, "acme", "web", min_replicas=1)
    await asyncio.to_thread(node.wait_status, "acme", "web", "running")
    name = host("acme", "web")
    fresh: list[Reply | Exception] = []
    done = asyncio.Event()

    async def newcomers() -> None:
        while not done.is_set():
            fresh.append(await ask(node.http_port, name, timeout=30))

    before = node.pids()
    async with asyncio.TaskGroup() as group, traffic(node.http_port, name, rate=100, connections=32) as seen:
        asking = [group.create_task(newcomers()) for _ in range(2)]
        for _ in range(2):
            goal = seen.answered + 50
            await asyncio.to_thread(reload, node)
            async with asyncio.timeout(30):
                while seen.answered < goal:
                    await asyncio.sleep(0.01)
        done.set()
        await asyncio.wait(asking)
    assert (seen.wrong, seen.cut) == ([], [])
    assert seen.answered == seen.sent > 100
    assert len(fresh) > 100
    assert [reply for reply in fresh if not (isinstance(reply, Reply) and reply.status == 200)] == []
    await asyncio.to_thread(eventually, lambda: workers(node) == 2, 60, "the old workers end once nobody is left")
    after = node.pids()
    assert all(after[role] != before[role] for role in ("worker 1", "worker 2", "control"))


def test_tunnels_outlive_reloads_and_old_workers_never_pile_up(make_node):
    """Five in a row. The service doesn't sleep while a tunnel of an old worker is open, and does when all are gone."""
    node = make_node(workers=1, options=["--drain-timeout", "2", "--idle-timeout", "1"]).start()
    notes = deploy_echo(node, min_replicas=0)
    tunnels: list[Tunnel] = []
    for number in range(5):
        tunnels.append(Tunnel(node))
        reload(node)
        assert workers(node) <= 1 + GENERATIONS
        alive = tunnels[-GENERATIONS:]
        assert all(tunnel.echoes(b"after reload %d" % number) for tunnel in alive)
    assert workers(node) == 1 + GENERATIONS
    assert all(tunnel.is_cut() for tunnel in tunnels[:-GENERATIONS])
    assert notes.lines("tunnels").count(["open"]) == 5
    assert "cut in 0 s" in node.said
    assert "killed" not in node.said

    deploy_echo(node, "other", min_replicas=0)
    assert node.api("DELETE", "/auth/v1/seed/acme/services/other").status == 204, "all of them acknowledge"
    assert node.request(host("acme", "other")).status == 503
    assert node.service("acme", "echo")["status"] == "running"
    eventually(lambda: in_flight(node) == GENERATIONS, 10, "the tunnels of old workers count as in flight")
    for tunnel in tunnels:
        tunnel.close()
    node.wait_status("acme", "echo", "stopped")
    eventually(lambda: workers(node) == 1, 20, "the old workers end with their last tunnel")
    assert in_flight(node) == 0
    assert node.request(host("acme", "echo")).status == 200


def in_flight(node: Node) -> float:
    """As `/metrics` adds it up over all workers."""
    text = node.api("GET", "/metrics").body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("wakegate_in_flight ")))


def test_a_stop_ends_the_tunnels_of_old_workers_after_the_drain_timeout(make_node):
    node = make_node(workers=1, options=["--drain-timeout", "2"]).start()
    deploy_echo(node, min_replicas=1)
    old = Tunnel(node)
    reload(node)
    new = Tunnel(node)
    assert old.echoes(b"x")
    assert node.stop() == 0
    assert old.is_cut()
    assert new.is_cut()
    assert "killed" not in node.said
    assert node.strays() == []


def test_deleting_a_service_gives_its_tunnels_the_drain_timeout_and_cuts_them(make_node):
    """They go on meanwhile, and nobody waits for ever."""
    node = make_node(workers=1, options=["--drain-timeout", "3"]).start()
    notes = deploy_echo(node, min_replicas=1)
    tunnel = Tunnel(node)
    assert tunnel.echoes(b"x")
    assert node.api("DELETE", "/auth/v1/seed/acme/services/echo").status == 204
    assert node.request(host("acme", "echo")).status == 503
    assert tunnel.echoes(b"still")
    assert tunnel.is_cut()
    eventually(lambda: node.strays() == [node.child("valkey-server")], 20, "the replica is stopped")
    assert notes.lines("tunnels")[0] == ["open"]


def test_a_service_with_an_open_tunnel_or_stream_does_not_sleep(make_node):
    node = make_node(workers=1, options=["--idle-timeout", "2"]).start()
    deploy_echo(node, min_replicas=0)
    deploy_echo(node, "events", min_replicas=0)
    deploy_echo(node, "idle", min_replicas=0)
    tunnel, events = Tunnel(node), Stream(node, "events")
    node.wait_status("acme", "idle", "stopped")  # long enough for the others to have gone, too
    for name in ("echo", "events"):
        assert node.service("acme", name)["status"] == "running"
    assert tunnel.echoes(b"x")
    tunnel.close()
    events.close()
    for name in ("echo", "events"):
        node.wait_status("acme", name, "stopped")
