"""Two gateway nodes with two workers each on one store: a replica has one request at a time, and is not idle while any
waits, whichever worker has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nursery import Nursery, publish, until

from state.models import Endpoint
from state.store import Store
from tests.conftest import Valkey

pytestmark = pytest.mark.e2e

REQUESTS, REPLICAS = 100, 10


class Gated:
    """A replica that answers a request each time it is told to; `log`: +1 for each that came, -1 for each answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[int] = []
        self.gates: deque[asyncio.Event] = deque()
        self.writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                gate = asyncio.Event()
                self.log.append(1)
                self.gates.append(gate)
                await gate.wait()
                self.log.append(-1)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    @property
    def busy(self) -> int:
        return len(self.gates)

    def answer(self) -> None:
        self.gates.popleft().set()

    def never_two(self) -> bool:
        return all(-1 <= event <= 1 for event in self.log) and all(
            one != other for one, other in zip(self.log, self.log[1:], strict=False)
        )


@pytest.fixture
async def replicas() -> AsyncIterator[list[Gated]]:
    made = [Gated(f"r{number}") for number in range(REPLICAS)]
    async with contextlib.AsyncExitStack() as stack:
        for one in made:
            server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            one.port = server.sockets[0].getsockname()[1]
        yield made
        for one in made:
            for writer in one.writers:
                writer.close()


WORKERS = 2


@pytest.fixture
async def nodes(request: pytest.FixtureRequest, tmp_path: Path, store_url: str) -> AsyncIterator[list[Nursery]]:
    """Two with `WORKERS` each, or as many as the test says."""
    workers = getattr(request, "param", WORKERS)
    made = []
    for name in ("n", "m"):
        data = tmp_path / name
        data.mkdir()
        made.append(Nursery(data, store_url, workers, {}, name))
    for node in made:
        for number in range(workers):
            await (await node.spawn(number + 1)).ready()
    yield made
    for node in made:
        await node.close()


async def test_a_replica_has_one_at_a_time_and_is_not_idle_while_any_waits(
    nodes: list[Nursery], store: Store, replicas: list[Gated]
) -> None:
    await publish(store, *(Endpoint(one.name, "127.0.0.1", one.port) for one in replicas), concurrency=1)
    asking = [asyncio.ensure_future(nodes[number % 2].get(path=f"/{number}")) for number in range(REQUESTS)]
    dice = random.Random(4)
    for waiting in range(REQUESTS, 0, -1):
        at_work = min(waiting, REPLICAS)
        await until(
            lambda at_work=at_work: sum(one.busy for one in replicas) == at_work, "as many as can be are at work"
        )
        assert all(one.busy <= 1 for one in replicas)
        dice.choice([one for one in replicas if one.busy]).answer()
    assert [status for status, _ in await asyncio.gather(*asking)] == [200] * REQUESTS
    for one in replicas:
        assert one.never_two(), one.log
    assert sum(len(one.log) for one in replicas) == 2 * REQUESTS


@pytest.mark.parametrize("nodes", [1], indirect=True)
async def test_what_a_killed_worker_had_is_free_after_its_end_is_known(
    nodes: list[Nursery], store: Store, replicas: list[Gated]
) -> None:
    """Its requests may be at the replicas for another moment."""
    one = replicas[0]
    await publish(store, Endpoint(one.name, "127.0.0.1", one.port), concurrency=1)
    asking = asyncio.ensure_future(nodes[0].get())
    await until(lambda: one.busy, "it is at the replica")
    for worker in nodes[0].workers:
        worker.process.kill()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asking
    other = asyncio.ensure_future(nodes[1].get())
    await store.unregister([worker.registration for worker in nodes[0].workers])
    began = asyncio.get_running_loop().time()
    one.answer()
    await until(lambda: one.busy, "the other node's request is there")
    assert asyncio.get_running_loop().time() - began >= 4.5
    one.answer()
    assert await other == (200, b"ok")


async def test_a_store_that_is_killed_and_comes_back_changes_nothing(
    nodes: list[Nursery], store: Store, valkey: Valkey, replicas: list[Gated]
) -> None:
    """Meanwhile each worker uses what it owns; afterwards all say so, before anybody gets more."""
    some = replicas[:4]
    await publish(store, *(Endpoint(one.name, "127.0.0.1", one.port) for one in some), concurrency=1)
    asking = [asyncio.ensure_future(nodes[number % 2].get(path=f"/{number}")) for number in range(40)]
    killed = False
    while not all(one.done() for one in asking):
        await until(lambda: any(one.busy for one in some) or all(one.done() for one in asking), "somebody is at work")
        assert all(one.busy <= 1 for one in some)
        for one in some:
            if one.busy:
                one.answer()
        await asyncio.sleep(0)
        if not killed and sum(one.done() for one in asking) >= 10:
            killed = True
            valkey.kill()
            await asyncio.to_thread(valkey.start)
    assert killed
    assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 40
    for one in some:
        assert one.never_two(), one.log
