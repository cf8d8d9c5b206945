"""What the TLS connections of a worker share: contexts, the tasks that wait for one to be built, and the counts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from gateway.tls.contexts import Certificates, Contexts


class Waiting(Protocol):
    """A connection that has asked for a context."""

    def loaded(self, context: ssl.SSLContext | None) -> None:
        """None: there is none for that name."""


class Handshakes:
    """Owns the tasks. `failed` counts handshakes that came to nothing, by reason (docs/operations.md has them all)."""

    def __init__(self, certificates: Certificates, say: Callable[[str], None], routed: Callable[[str], bool]) -> None:
        self.contexts = Contexts(certificates, say, routed)
        self.completed = 0
        self.resumed = 0  # of these, with a ticket or the id of a session
        self.failed: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, connection: Waiting, name: str) -> asyncio.Task[None]:
        """Ends in `connection.loaded`, unless it is cancelled."""
        task = asyncio.get_running_loop().create_task(self._load(connection, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, connection: Waiting, name: str) -> None:
        connection.loaded(await self.contexts.load(name))

    def opened(self, resumed: bool) -> None:
        self.completed += 1
        self.resumed += resumed

    def fail(self, reason: str) -> None:
        self.failed[reason] = self.failed.get(reason, 0) + 1

    def counters(self) -> dict[str, Any]:
        """Cumulative, for reports."""
        return {"handshakes": self.completed, "resumed": self.resumed, "failed": dict(self.failed)}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.contexts.close()
