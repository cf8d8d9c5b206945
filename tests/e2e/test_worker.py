"""The real worker process under a small supervisor of our own, with a real store, real sockets and a real replica."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from typing import Any

import pytest
from nursery import HOST, ReplicaServer, Reports, ask, publish, until
from redis import asyncio as aioredis

from state.certificates import Challenge, ChallengeAnswer
from state.codec import encode
from state.kinds import Kind
from state.models import Endpoint, Route
from state.store import WORKERS_KEY, Change, Store
from tests.conftest import Valkey

pytestmark = pytest.mark.e2e


async def test_it_registers_acknowledges_serves_and_follows(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    assert await store.registered() == {worker.registration}
    assert await nursery.get() == (200, b"r1")
    assert (await nursery.get("unknown.example"))[0] == 404

    async with ReplicaServer("r2").serving() as other:
        revision = await publish(store, other.endpoint(), service="s2", host="www.acme.com")
        await reports.acknowledged(worker, revision)
        assert await nursery.get("www.acme.com") == (200, b"r2")

    deleted = encode(Route("s1", "acme", "api", deleted_at=1))
    revision = await store.commit([Change(Kind.ROUTE, HOST, deleted), Change(Kind.BACKEND, "s1", None)])
    await reports.acknowledged(worker, revision)
    assert (await nursery.get())[0] == 503


async def test_a_held_request_is_reported_and_leaves_when_a_replica_is_ready(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store)
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    asking = asyncio.ensure_future(nursery.get())
    await until(lambda: reports.of(worker)["services"].get("s1", {}).get("held") == 1, "held is reported")
    await publish(store, replica.endpoint())
    assert await asking == (200, b"r1")
    await until(lambda: "s1" not in reports.of(worker)["services"], "nothing is in flight any more")


async def test_the_end_of_what_a_leaving_replica_has_in_flight_is_reported_at_once(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    asking = asyncio.ensure_future(nursery.get(path="/slow"))
    await until(lambda: replica.slow, "the request is at the replica")
    leaving = Endpoint("r1", "127.0.0.1", replica.port, ready=False)
    await reports.acknowledged(worker, await publish(store, leaving))
    assert reports.of(worker)["services"]["s1"]["replicas"] == {"r1": 1}
    replica.gate.set()
    assert await asking == (200, b"r1")
    await until(lambda: "s1" not in reports.of(worker)["services"], "drained is reported")


async def test_challenges_are_acknowledged_and_answered_with_the_store_gone(
    make_nursery: Any, valkey: Valkey, store: Store, reports: Reports
) -> None:
    """Those that were there when it began, and those that came by the feed."""
    path = "/.well-known/acme-challenge/"

    def challenge(host: str, *tokens: str) -> Change:
        answers = tuple(ChallengeAnswer("http-01", token, f"{token}.key") for token in tokens)
        return Change(Kind.CHALLENGE, host, encode(Challenge(answers, 0)))

    await store.commit([challenge("one.example", "a")])
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    assert await nursery.get("one.example", path + "a") == (200, b"a.key")
    await reports.acknowledged(worker, await store.commit([challenge("two.example", "b", "c")]))
    assert await nursery.get("two.example", path + "c") == (200, b"c.key")
    await reports.acknowledged(worker, await store.commit([Change(Kind.CHALLENGE, "one.example", None)]))
    assert (await nursery.get("one.example", path + "a"))[0] == 404
    valkey.kill()
    assert await nursery.get("two.example", path + "b") == (200, b"b.key")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
async def test_no_pending_connection_of_a_neighbour_is_lost(
    make_nursery: Any, store: Store, replica: ReplicaServer, number: int
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery(2)
    one = await (await nursery.spawn(1)).ready()
    two = await (await nursery.spawn(2)).ready()
    os.kill(two.process.pid, number)
    pending = [asyncio.ensure_future(nursery.get()) for _ in range(60)]
    await asyncio.wait(pending, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    done, waiting = await asyncio.wait(pending, timeout=0.5)
    assert done
    assert waiting  # those whom the kernel queued at number 2
    one.tell({"adopt": [2]})
    assert await asyncio.gather(*pending) == [(200, b"r1")] * 60

    two.process.kill()
    await (await nursery.spawn(2)).ready()
    one.tell({"adopt": []})
    assert await asyncio.gather(*(nursery.get() for _ in range(60))) == [(200, b"r1")] * 60


async def test_without_the_store_warm_traffic_goes_on_and_held_requests_stay(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    await publish(store, service="s2", host="asleep.example")
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", nursery.port)
    assert await ask(reader, writer, HOST) == (200, b"r1")
    held = asyncio.ensure_future(nursery.get("asleep.example"))
    await until(lambda: reports.of(worker)["services"].get("s2", {}).get("held") == 1, "held is reported")

    valkey.kill()
    for _ in range(50):
        assert await ask(reader, writer, HOST) == (200, b"r1")
    assert await nursery.get() == (200, b"r1")
    assert not held.done()

    seen = reports.of(worker)["seq"]
    valkey.start()
    await until(lambda: reports.of(worker)["seq"] > seen, "reports resume")
    assert reports.of(worker)["services"]["s2"]["held"] == 1
    await publish(store, replica.endpoint(), service="s2", host="asleep.example")
    assert await held == (200, b"r1")
    await until(
        lambda: reports.of(worker).get("counters", {}).get("services", {}).get("s1", {}).get("requests") == {"200": 52},
        "what was counted meanwhile is reported",
    )
    assert await store.registered() == {worker.registration}
    writer.close()


async def test_a_stopped_store_stops_nobody(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    assert valkey.process is not None
    os.kill(valkey.process.pid, signal.SIGSTOP)
    try:
        assert await asyncio.gather(*(nursery.get() for _ in range(50))) == [(200, b"r1")] * 50
        worker.tell({"ping": 1})
        await until(lambda: {"pong": 1} in worker.heard, "the worker answers its supervisor", 1)
    finally:
        os.kill(valkey.process.pid, signal.SIGCONT)
    await reports.acknowledged(worker, await publish(store))


async def test_it_starts_from_its_cache_and_catches_up(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    first = await (await nursery.spawn()).ready()
    await until((nursery.data / "cache" / "routes").exists, "the cache is written")
    first.drain()
    assert await first.exited() == 0
    assert await store.registered() == set()

    valkey.kill()
    second = await (await nursery.spawn()).ready()
    assert "serving 1 routes from the cache" in second.said
    assert await nursery.get() == (200, b"r1")
    status, text = await nursery.get("later-acme.apps.localhost")
    assert status == 503, "it may have been created since"
    assert b"the store is away" in text

    valkey.start()
    await until(lambda: reports.of(second)["revision"] >= 1, "it reports once the store is back")
    assert (await nursery.get("later-acme.apps.localhost"))[0] == 404
    assert await store.registered() == {second.registration}
    async with ReplicaServer("r2").serving() as other:
        await reports.acknowledged(second, await publish(store, other.endpoint()))
        assert await nursery.get() == (200, b"r2")


async def test_a_damaged_cache_is_told_and_the_store_waited_for(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    (nursery.data / "cache").mkdir()
    (nursery.data / "cache" / "routes").write_bytes(b"wakegate-cache 1\nnonsense")
    valkey.kill()
    worker = await nursery.spawn()
    await until(lambda: "waiting for it" in worker.said, "it says that it waits")
    assert "the cache of routes is ignored" in worker.said
    pending = asyncio.ensure_future(nursery.get())  # queued by the kernel
    valkey.start()
    assert await pending == (200, b"r1")


async def test_draining_finishes_what_is_in_flight_and_reports_it(
    make_nursery: Any, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    asking = asyncio.ensure_future(nursery.get(path="/slow"))
    await until(lambda: replica.slow, "the request is at the replica")
    nursery.release_sockets()
    worker.drain()
    await until(lambda: refused(nursery.port), "no new connection is accepted")
    assert worker.process.poll() is None
    assert await store.registered() == {worker.registration}
    replica.gate.set()
    assert await asking == (200, b"r1")
    assert await worker.exited() == 0
    assert await store.registered() == set()
    assert reports.of(worker)["counters"]["services"]["s1"]["requests"] == {"200": 1}
    assert reports.of(worker)["services"] == {}
    line = json.loads((nursery.data / "access.log").read_text())
    assert (line["path"], line["status"]) == ("/slow", 200)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_draining_serves_what_is_queued(make_nursery: Any, store: Store, replica: ReplicaServer) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    os.kill(worker.process.pid, signal.SIGSTOP)
    connections = [await asyncio.open_connection("127.0.0.1", nursery.port) for _ in range(100)]
    asking = [asyncio.ensure_future(ask(*connection, HOST)) for connection in connections]
    await asyncio.sleep(0)
    nursery.release_sockets()
    worker.drain()
    os.kill(worker.process.pid, signal.SIGCONT)
    assert await asyncio.gather(*asking) == [(200, b"r1")] * 100
    assert await worker.exited() == 0
    for _, writer in connections:
        writer.close()


async def test_a_drain_that_takes_too_long_is_cut(make_nursery: Any, store: Store, replica: ReplicaServer) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    asking = asyncio.ensure_future(nursery.get(path="/slow"))
    await until(lambda: replica.slow, "the request is at the replica")
    worker.drain(timeout=0.1)
    assert await worker.exited() == 0
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asking
    replica.gate.set()


async def test_who_is_held_until_the_drain_is_cut_has_an_answer(
    make_nursery: Any, store: Store, reports: Reports
) -> None:
    await publish(store)
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    asking = [asyncio.ensure_future(nursery.get()) for _ in range(100)]
    await until(lambda: held(reports.of(worker)) == 100, "they are held")
    worker.drain(timeout=0.1)
    for status, text in await asyncio.gather(*asking):
        assert status == 503
        assert b"no replica was ready before the gateway stopped" in text
    assert await worker.exited() == 0
    assert reports.of(worker)["counters"]["services"]["s1"]["requests"] == {"503": 100}


def held(report: dict[str, Any]) -> int:
    service: dict[str, int] = report.get("services", {}).get("s1", {})
    return service.get("held", 0)


async def test_it_drains_on_sigterm_and_before_it_was_ready(make_nursery: Any, valkey: Valkey, store: Store) -> None:
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    os.kill(worker.process.pid, signal.SIGTERM)
    assert await worker.exited() == 0
    assert await store.registered() == set()
    valkey.kill()
    (nursery.data / "cache" / "routes").unlink(missing_ok=True)
    worker = await nursery.spawn()
    await until(lambda: "waiting for it" in worker.said, "it says that it waits")
    worker.drain()
    assert await worker.exited() == 0


async def test_without_its_supervisor_it_ends_at_once(make_nursery: Any, store: Store) -> None:
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    assert worker.channel is not None
    worker.channel.close()
    assert await worker.exited() == 1


async def test_cut_off_from_a_shared_store_it_serves_for_the_stale_limit_only(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer, reports: Reports
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery(redis=[valkey.url], stale_limit=["2"])
    worker = await (await nursery.spawn()).ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", nursery.port)
    assert await ask(reader, writer, HOST) == (200, b"r1")
    asking = asyncio.ensure_future(nursery.get(path="/slow"))
    await until(lambda: replica.slow, "the request is at the replica")

    began = time.monotonic()
    valkey.kill()
    assert await ask(reader, writer, HOST) == (200, b"r1")
    while (answer := await ask(reader, writer, HOST)) == (200, b"r1"):
        await asyncio.sleep(0.02)
    assert time.monotonic() - began >= 0.5
    for host in (HOST, "unknown.example"):
        status, body = await nursery.get(host)
        assert status == answer[0] == 503
        assert (json.loads(body)["error"], json.loads(body)["detail"]) == ("destination_unavailable", "stale")
    assert "cut off from the store for 2 s" in worker.said
    replica.gate.set()
    assert await asking == (200, b"r1")

    valkey.start()
    while (answer := await ask(reader, writer, HOST)) != (200, b"r1"):
        assert answer[0] == 503
        await asyncio.sleep(0.02)
    writer.close()
    await reports.acknowledged(worker, await publish(store, replica.endpoint()))


async def test_a_private_store_may_be_silent_for_any_time(
    make_nursery: Any, valkey: Valkey, store: Store, replica: ReplicaServer
) -> None:
    await publish(store, replica.endpoint())
    nursery = make_nursery(stale_limit=["1"])
    worker = await (await nursery.spawn()).ready()
    valkey.kill()
    began = time.monotonic()
    while time.monotonic() - began < 2.5:
        assert await nursery.get() == (200, b"r1")
        await asyncio.sleep(0.05)
    assert "cut off" not in worker.said


async def test_back_at_the_store_it_looks_at_once_whether_it_is_still_registered(
    make_nursery: Any, valkey: Valkey, store: Store
) -> None:
    """The same server, out of reach for a while, in which others gave the worker up."""
    nursery = make_nursery()
    worker = await (await nursery.spawn()).ready()
    away = valkey.socket.with_suffix(".away")
    valkey.socket.rename(away)
    began = time.monotonic()
    async with aioredis.Redis(unix_socket_path=str(away)) as direct:
        await direct.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await direct.hdel(WORKERS_KEY, worker.registration)
        assert await direct.hlen(WORKERS_KEY) == 0
        away.rename(valkey.socket)
        while not await direct.hlen(WORKERS_KEY):
            await asyncio.sleep(0.02)
    assert time.monotonic() - began < 4.5, "not when it would have looked anyway"
    assert await store.registered() == {worker.registration}
