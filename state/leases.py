"""Leases with fencing tokens.

Law 6: who holds a lease proves it by its token in every commit. No clock is shared: a taker watches the beat with its
own monotonic clock and takes over after seeing none for the time to live, so that a stepped wall clock does nothing.
A holder of the same owner (a restarted control under the same supervisor) takes over at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from state.store import Fence, Store, Unavailable

_BEATS: Final = 4  # per time to live


class Lease:
    """One name that one holder has at a time.

    `ttl` seconds without a beat and another may take it. `holder` and `owner` must not contain spaces.
    """

    def __init__(self, store: Store, name: str, *, holder: str, owner: str, ttl: float = 5.0) -> None:
        self.name = name
        self._store = store
        self._holder = holder
        self._owner = owner
        self._ttl = ttl
        self._token: int | None = None
        self._stepping = asyncio.Lock()
        self._released = False
        self._seen = (0, 0)
        self._seen_at = time.monotonic()

    @property
    def fence(self) -> Fence | None:
        """Goes with every commit of the holder; `None` for who does not hold it."""
        return None if self._token is None else Fence(self.name, self._token)

    async def run(self, on_gain: Callable[[Fence], None], on_loss: Callable[[], None]) -> None:
        """Try for ever to take and keep it. Neither callback may block.

        A store that does not answer does not end the tenure: nobody else can take over without it either, and every
        commit is fenced.
        """
        while True:
            try:
                await self.step(on_gain, on_loss)
            except Unavailable:
                # silence of the store is not silence of the holder: the beat is watched anew when it is back
                self._seen_at = time.monotonic()
            await asyncio.sleep(self._ttl / _BEATS)

    async def step(self, on_gain: Callable[[Fence], None], on_loss: Callable[[], None]) -> None:
        """One beat, or one attempt; nothing any more once it was released. Raises Unavailable."""
        async with self._stepping:
            if not self._released:
                await self._step(on_gain, on_loss)

    async def release(self) -> None:
        """For a clean exit: give it back, for good, so that another control takes it with its next attempt.

        Nothing is decided under it from here on; no callback is called. Without it (or if it raises Unavailable) the
        others wait for the time to live.
        """
        async with self._stepping:
            self._released = True
            held, self._token = self._token, None
            if held is not None:
                await self._store.release_lease(self.name, self._holder)

    async def _step(self, on_gain: Callable[[Fence], None], on_loss: Callable[[], None]) -> None:
        now = time.monotonic()
        stale = now - self._seen_at >= self._ttl
        held, token, beat = await self._store.try_lease(self.name, self._holder, self._owner, self._seen, stale)
        if (token, beat) != self._seen:
            self._seen, self._seen_at = (token, beat), now
        before, self._token = self._token, token if held else None
        if before is not None and before != self._token:
            on_loss()
        if self._token is not None and before != self._token:
            on_gain(Fence(self.name, self._token))
