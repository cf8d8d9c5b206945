"""The places for builds of a node, shared between its namespaces.

Laws kept here: 7 (only so many at once) and 8 (one tenant's builds never keep another's from beginning, however long
they take): the last free place goes only to a namespace that builds nothing, and of those that wait the one that builds
least is next, then who came first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager


def admitted(building: Mapping[str, int], waiting: Sequence[str], total: int) -> int | None:
    """Which of the namespaces that wait, in order of arrival, gets a place now. `building`: the places each has."""
    free = total - sum(building.values())
    if free <= 0:
        return None
    reserved = free == 1 and total > 1
    fit = [n for n, namespace in enumerate(waiting) if not (reserved and building.get(namespace))]
    return min(fit, key=lambda n: (building.get(waiting[n], 0), n), default=None)


class Places:
    """`total` places; `one` is waited for, held and given back."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._building: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        waiting = [namespace for namespace, _ in self._waiting]
        return f"<Places {dict(self._building)} of {self._total}, waiting {waiting}>"

    def free(self, namespace: str) -> bool:
        """Whether one more build of the namespace would begin at once."""
        return admitted(self._building, (namespace,), self._total) is not None

    @asynccontextmanager
    async def one(self, namespace: str) -> AsyncIterator[None]:
        """A place, once it is the namespace's turn."""
        await self._wait(namespace)
        try:
            yield
        finally:
            self._give_back(namespace)

    async def _wait(self, namespace: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((namespace, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((namespace, turn))
            else:  # its turn came in the same moment
                self._give_back(namespace)
            raise

    def _give_back(self, namespace: str) -> None:
        self._building[namespace] -= 1
        self._building += Counter()  # nothing is kept of who builds nothing
        self._admit()

    def _admit(self) -> None:
        while (number := admitted(self._building, [name for name, _ in self._waiting], self._total)) is not None:
            namespace, turn = self._waiting.pop(number)
            self._building[namespace] += 1
            turn.set_result(None)
