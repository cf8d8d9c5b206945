"""Windows on their way to a real store: early words, deliveries, an outage, the end of a worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from gateway.courier import Courier
from state.counts import decode_window
from state.rollups import Rollups
from state.store import WINDOWS, Store
from tests.conftest import Valkey

WORKER = "node/supervisor/1/a"


@dataclass
class Book:
    id: str
    requests: dict[int, int] = field(default_factory=dict)
    duration: dict[int, int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    in_flight: int = 0
    room: tuple[object, ...] = ()

    def end(self) -> None:
        self.requests[200] = self.requests.get(200, 0) + 1


class Clock:
    """Of the wall: only tests move it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000.0
        monkeypatch.setattr("gateway.courier.time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(courier: Courier) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(courier.run())
        yield
        task.cancel()


async def told(rollups: Rollups) -> int:
    """Requests in the inbox."""
    windows = (decode_window(data) for data in (await rollups.inbox()).values())
    return sum(counts.requests for window in windows for counts in window.rows.values())


async def test_windows_are_told_while_they_are_open_and_delivered_when_they_are_over(
    store: Store, clock: Clock
) -> None:
    book, rollups, heard = Book("s"), Rollups(store), list[bytes]()
    courier = Courier(store, rollups, WORKER, lambda: [book], every=0.02)

    async def listen() -> None:
        async for _, data in store.subscribe(WINDOWS):
            heard.append(data)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen())
        async with running(courier):
            book.end()
            await until(lambda: bool(heard))
            assert decode_window(heard[-1]).rows["s"].requests == 1
            assert await rollups.inbox() == {}
            clock.now += 10
            await until(lambda: courier.windows.stored == 1)
            assert await told(rollups) == 1
            book.end()
            await until(lambda: decode_window(heard[-1]).header.number == 2)
            assert decode_window(heard[-1]).header.delivered == 1
        listening.cancel()


async def test_with_the_store_gone_windows_wait_and_nothing_is_lost(valkey: Valkey, store: Store, clock: Clock) -> None:
    book, rollups = Book("s"), Rollups(store)
    courier = Courier(store, rollups, WORKER, lambda: [book], every=0.02)
    async with running(courier):
        valkey.kill()
        for _ in range(5):
            book.end()
            await courier.look()
            clock.now += 10
        await courier.look()
        assert courier.windows.waiting
        valkey.start()
        await until(lambda: not courier.windows.waiting)
        assert await told(rollups) == 5


async def test_the_last_word_is_everything(store: Store, clock: Clock) -> None:
    book, rollups = Book("s"), Rollups(store)
    courier = Courier(store, rollups, WORKER, lambda: [book])
    for _ in range(3):
        book.end()
        await courier.look()
        clock.now += 10
    book.end()
    assert await courier.last()
    assert await told(rollups) == 4


async def test_a_store_that_is_gone_does_not_keep_a_worker_from_ending(
    valkey: Valkey, store: Store, clock: Clock
) -> None:
    book = Book("s")
    book.end()
    valkey.kill()
    assert not await Courier(store, Rollups(store), WORKER, lambda: [book]).last()
