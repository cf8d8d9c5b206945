"""A worker's registration: while it lasts, control stops no replica without this worker's acknowledgement (law 3).

It is made before the snapshot is read, and made again whenever the store is found without it (a store that was
restarted from older files, or that gave the worker up for lost). It ends by a clean exit, or by others after proof of
death.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from state.store import StoreError

_RETRY: Final = 0.2  # seconds between attempts to reach a store that is gone
_CHECK: Final = 5.0  # seconds between looks whether the store still knows
_PATIENCE: Final = 1.0  # seconds for the copy to have what the store has
_LAST_WORD: Final = 1.0  # seconds that an ending worker waits for the store


class Registry(Protocol):
    """`state.store.Store`. All raise StoreError."""

    async def register(self, worker: str) -> None: ...
    async def unregister(self, workers: Iterable[str]) -> None: ...
    async def registered(self) -> set[str]: ...
    async def census(self) -> tuple[str, set[str]]: ...
    async def revision(self) -> int: ...


class Followed(Protocol):
    """The worker's copy of the store: `state.mirror.Mirror`."""

    @property
    def run_id(self) -> str: ...
    async def reached(self, revision: int) -> None: ...


class Membership:
    """Construct, `await join()`, then `keep()` in a task; `leave()` after the last report."""

    def __init__(self, registry: Registry, worker: str, check: float = _CHECK) -> None:
        self.joined = asyncio.Event()
        self._registry = registry
        self._worker = worker
        self._check = check
        self._doubt = asyncio.Event()

    async def join(self) -> None:
        """Returns once registered; a store that is gone is waited for."""
        while True:
            try:
                await self._registry.register(self._worker)
            except StoreError:
                await asyncio.sleep(_RETRY)
            else:
                self.joined.set()
                return

    async def introduce(self, followed: Followed, report: Callable[[], Awaitable[object]]) -> None:
        """Between the first snapshot and the first request: acknowledge what the store had after it knew us.

        It may have been restarted from older files since we joined, without our registration, and control may have done
        without us since what our copy is of. `keep` must be running. A store that doesn't answer keeps nobody waiting.
        """
        while True:
            await report()
            try:
                run_id, registered = await self._registry.census()
                revision = await self._registry.revision()
            except StoreError:
                return
            known = run_id == followed.run_id and self._worker in registered
            if known and await _reached(followed, revision) and run_id == followed.run_id:
                break
            self.doubt()
            await asyncio.sleep(_RETRY)
        await report()

    def doubt(self) -> None:
        """The store may have forgotten us (it was restarted): look now."""
        self._doubt.set()

    async def keep(self) -> None:
        """For ever: look every few seconds, and when in doubt, and register again if needed."""
        while True:
            try:
                async with asyncio.timeout(self._check):
                    await self._doubt.wait()
            except TimeoutError:
                pass
            self._doubt.clear()
            try:
                known = self._worker in await self._registry.registered()
            except StoreError:
                continue
            if not known:
                await self.join()

    async def leave(self) -> bool:
        """End the registration. False: the store did not answer within a second; the supervisor will see to it."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._registry.unregister([self._worker])
        except (StoreError, TimeoutError):
            return False
        return True


async def _reached(followed: Followed, revision: int) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            await followed.reached(revision)
    except TimeoutError:
        return False
    return True
