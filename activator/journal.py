"""Events of services on their way to the store, off the path of what they tell about.

Laws kept here: 7 (bounded; what is dropped while the store is gone is counted) and 8 (what a tenant's code said is for
its owner: none of it is in the operator's log).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Final

from activator.planning import Note
from state.ids import now_us
from state.models import Event, Reason
from state.store import Store, StoreError

log = logging.getLogger(__name__)

_BOUND: Final = 10_000
_RETRY: Final = 0.5  # seconds


class Journal:
    """`tell` at any time; `run` writes, in order."""

    def __init__(self, store: Store) -> None:
        self.dropped = 0
        self._store = store
        self._waiting: deque[tuple[str, Event]] = deque()
        self._more = asyncio.Event()

    def tell(self, service: str, notes: Iterable[Note]) -> None:
        for note in notes:
            reason = note.reason
            log.info("service %s: %s: %s", service, note.kind, reason.public if isinstance(reason, Reason) else reason)
            told = Event(now_us(), note.kind, str(reason), note.deployment, note.replica, note.phases, note.phase)
            self.keep(service, told)

    def keep(self, service: str, event: Event) -> None:
        """Write it as soon as that can be done; the store keeps an event once, however often it is tried."""
        if len(self._waiting) >= _BOUND:
            self._waiting.popleft()
            if self.dropped == 0:
                log.warning("%d events wait for the store: the oldest of them are lost", _BOUND)
            self.dropped += 1
        self._waiting.append((service, event))
        self._more.set()

    async def run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                entry = self._waiting[0]
                try:
                    await self._store.append_event(*entry)
                except StoreError:
                    await asyncio.sleep(_RETRY)  # the pace of trying again
                else:
                    if self._waiting and self._waiting[0] is entry:
                        self._waiting.popleft()
