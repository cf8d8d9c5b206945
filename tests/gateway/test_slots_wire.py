"""A data plane whose `concurrency` is the store's to give: what it sends, and when, by what it owns."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from wire import PATIENCE, Conversation, fields, get, ok, until

from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.slots import FENCE, WorkerSlots
from state.ids import now_us
from state.models import StartPhases
from state.slots import CHANNEL, CLAIMS_KEY, DOCUMENTS_KEY, Answer, Message, Slots
from state.store import Store
from tests.conftest import Valkey

WORKER, OTHER = "n/s/1/a", "n/s/2/b"
SERVICE = "service-app.test"


class Registration:
    """A worker that is registered."""

    def __init__(self) -> None:
        self.joined = asyncio.Event()
        self.joined.set()
        self.doubted = 0

    def doubt(self) -> None:
        self.doubted += 1


class Plane(Conversation):
    """With slots of a real store, in which another worker is registered too."""

    def __init__(self, store: Store, fence: float = FENCE) -> None:
        self.store = store
        self.registration = Registration()
        self.version = 1
        self._seq = 0
        self.slots = WorkerSlots(Slots(store), WORKER, self.registration, lambda _: self.version, 0.1, fence)
        super().__init__(GatewaySettings(), slots=self.slots)
        self.slots.serve(self.edge.release)

    async def other(self, want: int = 0, waited: int = 0, **holds: int) -> dict[str, int]:
        """What the other worker owns, once it has said this."""
        self._seq += 1
        ready = tuple(endpoint.id for endpoint in self.backends[SERVICE].endpoints)
        limit = self.backends[SERVICE].concurrency
        message = Message(self._seq, holds, want, waited, self.version, limit, ready)
        answer = await Slots(self.store).sync(SERVICE, OTHER, message)
        assert answer is not None
        return dict(answer.own)

    async def other_gets(self, waited: int = 0) -> None:
        """The other worker asks for one slot, for as long as that takes."""
        async with asyncio.timeout(PATIENCE):
            while not await self.other(want=1, waited=waited):
                await asyncio.sleep(0.01)

    async def known(self) -> None:
        """The store has heard of the worker."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.store.client.hget(DOCUMENTS_KEY, SERVICE)
                if found is not None and WORKER in json.loads(found)["workers"]:
                    return
                await asyncio.sleep(0.01)

    @property
    def owned(self) -> int:
        return self.edge.counters()["slots"]


async def listened(store: Store) -> None:
    """Hints are heard."""
    async with asyncio.timeout(10):
        while not (await store.client.pubsub_numsub(CHANNEL + WORKER))[0][1]:
            await asyncio.sleep(0.01)


@pytest.fixture
async def plane(store: Store) -> AsyncIterator[Plane]:
    """The store has been up for long, and all have claimed."""
    for worker in (WORKER, OTHER):
        await store.register(worker)
    slots = Slots(store)
    run, _ = await slots.claimed(WORKER)
    for worker in (WORKER, OTHER):
        await slots.claim(worker, run)
    await store.client.hset(CLAIMS_KEY, "@", f"{run} 0")
    talk = Plane(store)
    await talk.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(talk.slots.run())
        await listened(store)
        yield talk
        await talk.stop()
        running.cancel()
    if talk.store is not store:
        await talk.store.close()


async def test_one_is_sent_by_a_slot_and_the_next_waits_for_it(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    first, second = await plane.client(), await plane.client()
    await first.send(get("/first"))
    replica = await origin.peer()
    assert (await replica.head()).startswith(b"GET /first ")
    await second.send(get("/second"))
    await until(lambda: plane.held == 1)
    assert plane.in_flight == 1
    await replica.send(ok())
    await first.head()
    assert (await replica.head()).startswith(b"GET /second ")
    await replica.send(ok())
    await second.head()
    assert plane.owned == 1, "nobody else wants it"


async def test_what_another_worker_owns_is_waited_for(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    assert await plane.other(want=1) == {"r1": 1}
    client = await plane.client()
    await client.send(get())
    await until(lambda: plane.held == 1)
    assert origin.connections == 0
    assert await plane.other() == {}, "it gives it back"
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()


async def test_an_idle_slot_goes_to_who_waits_elsewhere(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    assert await plane.other(want=1) == {}
    await replica.send(ok())
    await client.head()
    await plane.other_gets()
    assert (plane.owned, plane.edge.counters()["slots_recalled"]) == (0, 1)


async def test_a_slot_goes_to_whoever_has_waited_longest(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    first, second, third = [await plane.client() for _ in range(3)]
    await first.send(get("/first"))
    replica = await origin.peer()
    await replica.head()
    assert await plane.other(want=1, waited=60_000) == {}
    await second.send(get("/second"))
    await third.send(get("/third"))
    await until(lambda: plane.held == 2)
    await replica.send(ok())
    await first.head()
    await plane.other_gets(60_000)
    assert (plane.owned, plane.in_flight) == (0, 0)
    assert await plane.other(want=1) == {}, "it is the turn of those here"
    for path in (b"/second", b"/third"):
        assert (await replica.head()).split()[1] == path
        await replica.send(ok())


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_aborted_request_keeps_its_slot_until_the_replica_closes(plane: Plane, way: str) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get("/aborted"))
    replica = await origin.peer()
    await replica.head()
    getattr(client, way)()
    assert await replica.rest() == b"", "the replica sees the end, and may still be at work"
    second = await plane.client()
    await second.send(get("/second"))
    await until(lambda: plane.held == 1)
    assert plane.in_flight == 1
    await replica.send(ok(b"too late"))
    replica.close()
    other = await origin.peer()
    assert (await other.head()).startswith(b"GET /second ")
    await other.send(ok(b"its own"))
    await second.head()
    await second.expect(b"its own")


async def test_an_aborted_request_keeps_its_slot_for_five_seconds(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get("/aborted"))
    replica = await origin.peer()
    await replica.head()
    client.close()
    second = await plane.client()
    await second.send(get("/second"))
    began = asyncio.get_running_loop().time()
    other = await origin.peer()
    assert asyncio.get_running_loop().time() - began >= 4.5
    await other.head()
    await other.send(ok())
    await second.head()


async def test_a_response_that_cannot_be_read_keeps_its_slot_too(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(b"nonsense\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert plane.in_flight == 1
    replica.close()
    await until(lambda: plane.in_flight == 0)


async def test_a_limit_that_is_raised_and_lowered_and_taken_away(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    clients = [await plane.client() for _ in range(3)]
    for client in clients:
        await client.send(get())
    await until(lambda: plane.held == 2)
    plane.version = 2
    plane.serve(origin.endpoint(), concurrency=2)
    await until(lambda: plane.in_flight == 2)
    plane.version = 3
    plane.serve(origin.endpoint(), concurrency=1)
    one, two = await origin.peer(), await origin.peer()
    for replica in (one, two):
        await replica.head()
    await one.send(ok())
    await until(lambda: plane.owned == 1)
    assert (plane.in_flight, plane.held) == (1, 1)
    plane.version = 4
    plane.serve(origin.endpoint())
    await until(lambda: plane.held == 0)
    await until(lambda: plane.owned == 0)
    await two.send(ok())
    await one.head()
    await one.send(ok())
    for client in clients:
        await client.head()


async def test_a_limit_that_is_set_while_more_are_in_flight(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint())
    clients = [await plane.client() for _ in range(3)]
    for client in clients[:2]:
        await client.send(get())
    peers = [await origin.peer() for _ in range(2)]
    for peer in peers:
        await peer.head()
    plane.version = 2
    plane.serve(origin.endpoint(), concurrency=1)
    await until(lambda: plane.owned == 2)
    await clients[2].send(get())
    await until(lambda: plane.held == 1)
    await plane.known()
    assert await plane.other(want=1) == {}
    await peers[0].send(ok())
    await clients[0].head()
    await until(lambda: plane.owned == 1)
    assert plane.held == 1, "one is still in flight"
    await peers[1].send(ok())
    await clients[1].head()
    await until(lambda: plane.held == 0, "it has waited longer")
    await peers[1].head()  # the connection that was used last
    await peers[1].send(ok())
    await clients[2].head()


async def test_with_the_store_gone_it_uses_what_it_owns(plane: Plane, valkey: Valkey) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()
    valkey.kill()
    for _ in range(3):
        await client.send(get())
        await replica.head()
        await replica.send(ok())
        await client.head()
    valkey.start()
    second = await plane.client()
    await client.send(get())
    await second.send(get())
    for _ in range(2):
        await replica.head()
        await replica.send(ok())


async def test_after_a_restart_of_the_store_it_claims_what_it_owns(plane: Plane, valkey: Valkey) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    valkey.kill()
    for file in valkey.directory.glob("**/*.aof*"):
        file.unlink()  # and all is lost
    valkey.start()
    plane.store = Store(valkey.url)  # its connections are alive
    await plane.store.register(WORKER)
    await plane.store.register(OTHER)
    ledger = Slots(plane.store)
    async with asyncio.timeout(20):
        while not (await ledger.claimed(WORKER))[1]:
            await asyncio.sleep(0.02)
    assert await ledger.services() == {SERVICE}, "it has said what it owns before it said that it did"
    run, _ = await ledger.claimed(OTHER)
    await ledger.claim(OTHER, run)
    await plane.store.client.hset(CLAIMS_KEY, "@", f"{run} 0")
    await listened(plane.store)
    assert await plane.other(want=1) == {}
    await replica.send(ok())
    await client.head()
    await plane.other_gets()


async def test_who_ends_gives_back_all_that_is_not_in_use(plane: Plane) -> None:
    origins = [await plane.origin(name) for name in ("r1", "r2")]
    plane.serve(*(origin.endpoint() for origin in origins), concurrency=1)
    clients = [await plane.client() for _ in range(2)]
    for client in clients:
        await client.send(get())
    peers = [await origin.peer() for origin in origins]
    for peer in peers:
        await peer.head()
    await peers[0].send(ok())
    await until(lambda: plane.in_flight == 1)
    assert await plane.slots.leave()
    assert await plane.other(want=2) == {"r1": 1}, "the other one is at work"
    await peers[1].send(ok())
    await clients[1].head()
    await until(lambda: plane.owned == 0)


async def test_cut_off_for_too_long_it_sends_nothing_new(plane: Plane) -> None:
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=2)
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    plane.slots.forfeit()
    assert plane.owned == 1, "that in flight"
    await replica.send(ok())
    await client.head()


async def test_a_worker_that_the_store_does_not_know_looks_at_its_registration(plane: Plane) -> None:
    await plane.store.unregister([WORKER])
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    client = await plane.client()
    await client.send(get())
    await until(lambda: plane.registration.doubted > 0)
    assert plane.held == 1
    await plane.store.register(WORKER)
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()


async def test_a_hint_that_cannot_be_read_is_counted(plane: Plane) -> None:
    async def heard(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await plane.store.publish(CHANNEL + WORKER, b"{")
                await asyncio.sleep(0.01)

    await heard(lambda: plane.slots.unreadable > 0)


async def test_who_waits_for_the_first_slot_of_a_warm_replica_is_told_of_no_start(plane: Plane) -> None:
    """The worker has never been asked for the service: what it hears of it now is old."""
    origin = await plane.origin("r1")
    started = replace(origin.endpoint(), ready_at=now_us() - 5_000_000, phases=StartPhases(ready=404_000))
    plane.serve(started, concurrency=1)
    assert await plane.other(want=1) == {"r1": 1}
    client = await plane.client()
    await client.send(get())
    await until(lambda: plane.held == 1)
    assert await plane.other() == {}
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    (timing,) = fields(await client.head())[b"server-timing"]
    assert re.fullmatch(rb"wake;dur=\d+", timing)
    assert plane.answers == []


@pytest.fixture
async def fencing(plane: Plane, store: Store) -> AsyncIterator[Plane]:
    """Another data plane of the same worker, soon cut off when the store is silent."""
    talk = Plane(store, fence=1.0)
    await talk.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(talk.slots.run())
        yield talk
        await talk.stop()
        running.cancel()


async def test_who_is_cut_off_for_long_sends_to_no_other_node(fencing: Plane, valkey: Valkey) -> None:
    here, there = await fencing.origin("r1"), await fencing.origin("r2")
    at_home, away = replace(here.endpoint(), node="n"), replace(there.endpoint(), node="m")
    fencing.serve(at_home, away, concurrency=1)
    first, second = await fencing.client(), await fencing.client()
    for client in (first, second):
        await client.send(get())
    for origin in (here, there):
        replica = await origin.peer()
        await replica.head()
        await replica.send(ok())
    for client in (first, second):
        await client.head()
    await until(lambda: fencing.owned == 2)
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        await until(lambda: fencing.owned == 1)
        for client in (first, second):
            await client.send(get())
        await until(lambda: fencing.held == 1)
        assert (here.connections, there.connections) == (1, 1)
        assert fencing.in_flight == 1
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    await until(lambda: fencing.held == 0)


async def test_what_a_late_turn_of_the_loop_does_is_not_of_the_past(plane: Plane) -> None:
    """The loop's own time is that of the beginning of its turn, which may be long ago."""
    origin = await plane.origin("r1")
    plane.serve(origin.endpoint(), concurrency=1)
    times: list[tuple[float, float]] = []
    release = plane.slots._release

    def note(service: Service, now: float) -> None:
        times.append((now, time.monotonic()))
        release(service, now)

    plane.slots._release = note
    sync = plane.slots._ledger.sync

    async def slow(service: str, worker: str, message: Message) -> Answer | None:
        answer = await sync(service, worker, message)
        time.sleep(0.05)
        return answer

    plane.slots._ledger.sync = slow  # type: ignore[method-assign]
    client = await plane.client()
    await client.send(get())
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok())
    await client.head()
    assert times
    assert all(now - given < 0.04 for given, now in times)
