"""Brings a worker's windows of counts to where they are kept.

Laws kept here: 1 (with the store gone the windows wait, bounded, and the traffic doesn't notice), 2 (each second the
open windows are published as they are: a level, that makes answers fresh and is a killed worker's last word), 7 (one
message per window, one delivery at a time). A closed window is delivered into the store, where it counts once however
often that is tried; at the end of the worker all are, before it unregisters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from gateway.windows import Book, Windows
from state.store import WINDOWS, StoreError

EVERY: Final = 1.0  # seconds of the wall clock between looks, so that one comes just after each slot's end
_LAST_WORD: Final = 3.0  # seconds that an ending worker waits for the store
_RETRY: Final = 1.0  # seconds until the next attempt after one that failed
_AFTER: Final = 0.002  # seconds after the boundary: a timer may be early


class Publisher(Protocol):
    """`state.store.Store`. Raises StoreError."""

    async def publish(self, channel: str, data: bytes) -> None: ...


class Inbox(Protocol):
    """`state.rollups.Rollups`. Raises StoreError; False: no room."""

    async def deliver(self, worker: str, number: int, window: bytes) -> bool: ...


class Courier:
    """`await run()` in a task as long as anything is served; `await last()` when nothing is any more."""

    def __init__(
        self,
        publisher: Publisher,
        inbox: Inbox,
        worker: str,
        books: Callable[[], Collection[Book]],
        every: float = EVERY,
    ) -> None:
        self.windows = Windows(worker)
        self._publisher = publisher
        self._inbox = inbox
        self._worker = worker
        self._books = books
        self._every = every
        self._looked = asyncio.Event()
        self._more = asyncio.Event()
        self._delivering = asyncio.Lock()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_looks(), name="looks")
            tasks.create_task(self._run_words(), name="words")
            tasks.create_task(self._run_deliveries(), name="deliveries")

    async def last(self) -> bool:
        """The last look, and all that waits is delivered. False: the store did not take it within 3 s."""
        await self.windows.close(self._books(), time.time(), time.monotonic())
        try:
            async with asyncio.timeout(_LAST_WORD):
                return await self._deliver()
        except TimeoutError:
            return False

    async def look(self) -> None:
        """Take in what was counted since the last look."""
        await self.windows.sample(self._books(), time.time(), time.monotonic())
        self._looked.set()
        if self.windows.waiting:
            self._more.set()

    async def _run_looks(self) -> None:
        """On time, whatever the store does: what is counted between two looks goes into one slot."""
        while True:
            await asyncio.sleep(self._every - time.time() % self._every + _AFTER)
            await self.look()

    async def _run_words(self) -> None:
        while True:
            await self._looked.wait()
            self._looked.clear()
            for window in self.windows.open():
                try:
                    await self._publisher.publish(WINDOWS, window)
                except StoreError:
                    break  # the next look says it again

    async def _run_deliveries(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            if not await self._deliver():
                await asyncio.sleep(_RETRY)
                self._more.set()

    async def _deliver(self) -> bool:
        """All that waits, in order. False: the store did not take it."""
        async with self._delivering:
            while (window := self.windows.oldest()) is not None:
                number, data = window
                try:
                    if not await self._inbox.deliver(self._worker, number, data):
                        return False
                except StoreError:
                    return False
                self.windows.delivered(number)
        return True
