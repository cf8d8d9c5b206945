"""Which workers' acknowledgements are waited for: ending the registrations of those that are surely gone (law 3).

A registration ends by a clean exit (the worker's own doing, told by its last report), by the word of the supervisor
that it is gone, or by the stale limit; never by a time to live alone, and never because the store forgot it
(`activator.census`). What a supervisor's word proves is in `state.registrations`. The stale limit is for nodes out of
reach: it counts only while we ourselves can hear, by this process' monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Final

from activator.acks import Acknowledgements
from activator.demand import Demand
from activator.racing import within
from state.mirror import Mirror
from state.registrations import ended
from state.store import Store, StoreError

log = logging.getLogger(__name__)

_LOOK_EVERY: Final = 2.0  # seconds


class Registrations:
    """`gone` whenever the supervisor says who ended; `run` for ever."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        demand: Demand,
        acks: Acknowledgements,
        *,
        node: str,
        supervisor: str,
        stale_limit: float,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._demand = demand
        self._acks = acks
        self._node = node
        self._supervisor = supervisor
        self._stale_limit = stale_limit
        self._gone: frozenset[str] = frozenset()
        self._more = asyncio.Event()
        self._silent_since: dict[str, float] = {}
        self._run_id = ""

    def gone(self, incarnations: Iterable[str]) -> None:
        """The supervisor has seen these end (all of its life)."""
        self._gone = frozenset(incarnations)
        self._more.set()

    async def run(self) -> None:
        while True:
            self._more.clear()
            try:
                await self._look()
            except StoreError as error:
                log.debug("registrations are looked at later: %s", error)
            await within(self._more, _LOOK_EVERY)

    async def _look(self) -> None:
        registered = (await self._acks.roster()).workers
        now = time.monotonic()
        own = {"node": self._node, "supervisor": self._supervisor}
        over = {worker for worker in registered if ended(worker, gone=self._gone, **own)} | self._stale(registered, now)
        if over:
            log.info("no longer registered: %s", ", ".join(sorted(over)))
            await self._store.unregister(over)
            self._acks.look()
        self._demand.keep(registered - over)

    def _stale(self, registered: Iterable[str], now: float) -> set[str]:
        """Workers of other nodes that were silent for the whole stale limit while we could hear."""
        if not self._mirror.connected or self._mirror.run_id != self._run_id:
            self._run_id = self._mirror.run_id
            self._silent_since.clear()
        remote = {worker for worker in registered if worker.partition("/")[0] != self._node}
        heard = {worker: self._demand.heard(worker) for worker in remote}
        self._silent_since = {w: max(self._silent_since.get(w, now), heard[w] or 0.0) for w in remote}
        return {worker for worker, since in self._silent_since.items() if now - since >= self._stale_limit}
