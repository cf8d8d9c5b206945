"""Connections to the store, handed out in the order in which they were asked for.

Law 7: only so many at once; whoever waits too long is told so. The client library's own pool lets whoever asks next
overtake those that wait, for as long as somebody asks: with a hundred callers the last ones waited until all others had
finished, or for the whole time-out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection


class FairPool(BlockingConnectionPool):
    """Its settings are those of the library's blocking pool; `timeout` (seconds) is for the turn as well."""

    def __init__(self, max_connections: int, timeout: float, **settings: Any) -> None:
        super().__init__(max_connections=max_connections, timeout=timeout, **settings)
        self._turns = asyncio.Semaphore(max_connections)  # first come, first served
        self._patience = timeout
        self._lent: set[AbstractConnection] = set()

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Raises NoConnection."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError:
            raise NoConnection("No connection available.") from None
        try:
            connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._turns.release()
            raise
        self._lent.add(connection)
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Also called for one that could not be handed out."""
        try:
            await super().release(connection)
        finally:
            if connection in self._lent:
                self._lent.discard(connection)
                self._turns.release()
