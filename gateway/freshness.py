"""Whether what this worker knows is still fit to serve by.

With a shared store a node that is cut off serves what it knows for the stale limit; then control may take its workers
for lost and stop the replicas that they know (`activator/registrations.py`), so they answer 503 until they are in sync
again. The clock runs from the last report that the store took: control has heard it at that time or later, so that the
worker stops first, whichever way the connection failed and however late that was noticed. A private store has no limit:
it is down with its own node only, and its silence never stops a worker (law 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

# Shorter than the mirror's pause before it tries again (0.2 s), so that no cut is missed.
_EVERY: Final = 0.1  # seconds


class Followed(Protocol):
    """`state.mirror.Mirror`: False from a failure until it is in sync again."""

    @property
    def connected(self) -> bool: ...


class Told(Protocol):
    """`gateway.reporter.Reporter`. Seconds of the loop's clock."""

    @property
    def told_at(self) -> float: ...


class Freshness:
    """`await watch()` in a task. `turned(stale)` at each change, `reconnected()` each time the store is back.

    `limit`: seconds, None for a private store.
    """

    def __init__(
        self,
        followed: Followed,
        told: Told,
        limit: float | None,
        turned: Callable[[bool], None],
        reconnected: Callable[[], None],
    ) -> None:
        self._followed = followed
        self._told = told
        self._limit = limit
        self._turned = turned
        self._reconnected = reconnected
        self._connected = False
        self._stale = False

    async def watch(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._look(loop.time())
            await asyncio.sleep(_EVERY)

    def _look(self, now: float) -> None:
        connected = self._followed.connected
        if connected and not self._connected:
            self._reconnected()
        self._connected = connected
        stale = not connected and self._limit is not None and now - self._told.told_at >= self._limit
        if stale != self._stale:
            self._stale = stale
            self._turned(stale)
