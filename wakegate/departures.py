"""Ends the registrations of this node's workers that are gone, where there is no control to do it (`--role gateway`).

Law 3: control waits for every registered worker. One that was killed can't end its registration itself, so the
supervisor does once it has reaped it; and for those that an earlier supervisor of the node left. Control may register
one again that it only just heard of, so this looks again every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

from state.registrations import ended
from state.store import Store, StoreError

_LOOK_EVERY: Final = 2.0  # seconds
_LAST_LOOK: Final = 2.0  # seconds that an ending node waits for the store


class Departures:
    """`gone` whenever a worker was reaped, `run` for ever, `close` at the end."""

    def __init__(self, store_url: str, *, node: str, supervisor: str) -> None:
        self._store = Store(store_url)
        self._node = node
        self._supervisor = supervisor
        self._gone: frozenset[str] = frozenset()
        self._more = asyncio.Event()

    def gone(self, incarnations: Collection[str]) -> None:
        """These have ended: all of this supervisor's life, as far as it remembers."""
        self._gone = frozenset(incarnations)
        self._more.set()

    async def run(self) -> None:
        """A store that is gone is waited for."""
        while True:
            self._more.clear()
            with contextlib.suppress(StoreError):
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._more.wait()

    async def close(self) -> None:
        """One more look, for those that were killed on the way out."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LAST_LOOK):
                await self._look()
        await self._store.close()

    async def _look(self) -> None:
        """Raises StoreError."""
        registered = await self._store.registered()
        own = {"node": self._node, "supervisor": self._supervisor}
        await self._store.unregister([worker for worker in registered if ended(worker, gone=self._gone, **own)])
