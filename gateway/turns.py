"""Turns of the loop: of what comes by the thousand, some is done now, and the rest in the next turns, in order.

Law 7: nobody waits for all of it. Between two turns the loop looks at its sockets and timers. What waits is bounded by
its owners, each of which waits once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """`left`: how many steps may still be taken, of `limit`, before somebody has to wait for the next turn.

    That much is done in one turn at most. It may be spread over many: as long as nobody has to wait, nothing is
    scheduled, and the bound costs nothing.
    """

    __slots__ = ("_begun", "_limit", "_waiting", "left")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = False  # the next turn is on its way
        self.left = limit

    def take(self, wanted: int) -> int:
        """How many of `wanted` steps may be taken now. Who gets less asks for the rest `later`."""
        granted = max(0, min(wanted, self.left))
        self.left -= granted
        return granted

    def later(self, work: Callable[[], None]) -> None:
        """Called in a next turn, behind all who wait, once there are steps left."""
        self._waiting.append(work)
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._begun = False
        self.left = self._limit
        waiting = self._waiting
        for _ in range(len(waiting)):
            if self.left <= 0:
                break
            waiting.popleft()()
        if waiting:
            self.left = 0  # who comes now is behind them
            self._begin()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Turns {self.left}/{self._limit} left, {len(self._waiting)} waiting>"
