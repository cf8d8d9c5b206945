"""Waiting until every registered worker has applied a change (law 3).

The order is the law: commit first, read who is registered afterwards, then wait for their reports. A worker that
registers later reads a snapshot that has the change already. Whoever is missing is told to the supervisor, which ends
a local worker that is silent. Revisions mean something only within one run of the store: what is waited for, who is
registered and what was reported must be of the same one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Final

from activator.census import Census
from activator.demand import Demand, Report
from activator.racing import within
from state.mirror import Mirror
from state.store import Store, StoreError

log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 0.2  # seconds: a worker that died leaves the registered without reporting


@dataclass(frozen=True, slots=True)
class Roster:
    """Who must acknowledge, read after everything up to `as_of` had been committed in the run `run_id` of the store."""

    workers: frozenset[str]
    as_of: int
    run_id: str

    def covers(self, revision: int, run_id: str) -> bool:
        """Whether it was read after `revision` of that run."""
        return self.run_id == run_id and self.as_of >= revision


NOBODY_READ: Final = Roster(frozenset(), -1, "")


class Acknowledgements:
    """`unacknowledged` is a level: the incarnations that some committed change waits for; `on_unacknowledged` is called
    with the sorted list whenever it changes."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        demand: Demand,
        on_unacknowledged: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._demand = demand
        self._census = Census()
        self._tell = on_unacknowledged
        self._missing: dict[Hashable, frozenset[str]] = {}
        self._told: list[str] = []
        self._changed: set[asyncio.Event] = set()

    @property
    def unacknowledged(self) -> list[str]:
        return self._told

    async def roster(self) -> Roster:
        """Read who must acknowledge, and register again whom the store has lost. Raises Unavailable."""
        as_of, of_run, known = self._mirror.revision, self._mirror.run_id, self._census.known()
        run_id, registered = await self._store.census()
        count = self._census.read(known, run_id, registered)
        if count.over:
            await self._store.unregister(count.over)
        if count.lost:
            log.warning("the store has lost the registrations of %s", ", ".join(sorted(count.lost)))
            await self._store.restore(count.lost)
            self._census.restored(count.lost, run_id)
        return Roster(count.workers, as_of if of_run == run_id else -1, run_id)

    async def wait(self, revision: int, timeout: float | None) -> bool:
        """Whether every registered worker acknowledged the committed `revision` within `timeout` seconds.

        A store that is gone acknowledges nothing: it is waited for.
        """
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            async with asyncio.timeout(timeout):
                while not await self._all_have(revision, changed):
                    changed.clear()
                    await within(changed, _LOOK_AGAIN)
            return True
        except TimeoutError:
            return False
        finally:
            self._changed.discard(changed)
            self.note(changed, ())

    def heard(self, report: Report) -> None:
        """It came in."""
        self._census.heard(report.worker, last=report.last)
        self.look()

    def look(self) -> None:
        """Somebody may not be waited for any more."""
        for event in self._changed:
            event.set()

    def note(self, key: Hashable, missing: Collection[str]) -> None:
        """Somebody (`key`) waits for these workers now; empty = for none any more."""
        if missing:
            self._missing[key] = frozenset(missing)
        elif self._missing.pop(key, None) is None:
            return
        told = sorted({worker.rpartition("/")[2] for workers in self._missing.values() for worker in workers})
        if told != self._told:
            self._told = told
            self._tell(told)

    async def _all_have(self, revision: int, key: Hashable) -> bool:
        try:
            roster = await self.roster()
        except StoreError:
            return False
        missing = self._demand.missing(revision, roster.workers, roster.run_id)
        self.note(key, missing)
        return not missing and self._mirror.connected and self._mirror.run_id == roster.run_id
