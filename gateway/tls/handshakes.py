"""What the TLS connections of a worker share: contexts, the tasks that wait for one to be built, and the counts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.tls.contexts import Certificates, Contexts, Material
from gateway.tls.proofs import LIMIT, Proof, Proofs

MEMORY: Final = 64 * 1024 * 1024  # bytes of all handshakes under way: 800 that OpenSSL has, or 4,000 whole hellos


class Waiting(Protocol):
    """A connection whose handshake is under way."""

    def loaded(self, context: ssl.SSLContext | None) -> None:
        """None: there is none for that name."""

    def crowded_out(self) -> None:
        """There are too many: end at once."""


class Handshakes:
    """Owns the tasks. `failed` counts handshakes that came to nothing, by reason (docs/operations.md has them all).

    What handshakes hold is bounded in all. Beyond it those that began first end: a client needs a round trip or two,
    so that whoever is oldest in a crowd is the least likely to go on.

    `digest`: what certificate authorities are to be shown of a name that they look at; None: nothing.
    """

    def __init__(
        self,
        certificates: Certificates,
        say: Callable[[str], None],
        routed: Callable[[str], bool],
        digest: Callable[[str], bytes | None],
    ) -> None:
        self.contexts: Contexts[Material] = Contexts(certificates, say, routed)
        self.proofs: Contexts[Proof] = Contexts(Proofs(digest), say, routed, LIMIT, self.contexts.thread)
        self.completed = 0
        self.resumed = 0  # of these, with a ticket or the id of a session
        self.proved = 0  # handshakes of certificate authorities that saw what they looked for
        self.failed: dict[str, int] = {}
        self.limit = MEMORY
        self.held = 0  # bytes
        self._under_way: dict[Waiting, int] = {}  # the bytes of each; the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, connection: Waiting, name: str, proving: bool) -> asyncio.Task[None]:
        """Ends in `connection.loaded`, unless it is cancelled."""
        task = asyncio.get_running_loop().create_task(self._load(connection, name, proving))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, connection: Waiting, name: str, proving: bool) -> None:
        connection.loaded(await (self.proofs if proving else self.contexts).load(name))

    def hold(self, connection: Waiting, size: int) -> None:
        """Its handshake keeps `size` bytes from now on. May end others by `crowded_out`, or itself."""
        self.held += size - self._under_way.get(connection, 0)
        self._under_way[connection] = size
        while self.held > self.limit:
            oldest = next(iter(self._under_way))
            self.release(oldest)
            oldest.crowded_out()

    def release(self, connection: Waiting) -> None:
        """Its handshake is over. May be called again."""
        self.held -= self._under_way.pop(connection, 0)

    def opened(self, resumed: bool) -> None:
        self.completed += 1
        self.resumed += resumed

    def fail(self, reason: str) -> None:
        self.failed[reason] = self.failed.get(reason, 0) + 1

    def counters(self) -> dict[str, Any]:
        """Cumulative, for reports."""
        counted = {"handshakes": self.completed, "resumed": self.resumed, "proved": self.proved}
        return {**counted, "failed": dict(self.failed)}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.contexts.close()
