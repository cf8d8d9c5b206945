"""What is left of deleted services: their logs, readable under the old id for a day (SPEC section 2, Delete).

A note in the store says to whom they belong. Every node sweeps its own logs; the note goes when its day is over, and a
log without service and note goes once nobody has written to it for a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.ports import Objects
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.store import Change, Store, StoreError

KEPT: Final = 86_400 * 1_000_000  # microseconds
_EVERY: Final = 3600.0  # seconds between sweeps
_PREFIX: Final = "gone/"

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class Gone:
    """A deleted service (kind `meta`, id = `gone/<service id>`)."""

    namespace: str
    name: str
    deleted_at: int


def note(service_id: str, gone: Gone) -> Change:
    """Goes with the commit of the deletion."""
    return Change(Kind.META, _PREFIX + service_id, encode(gone))


def find(objects: Objects, service_id: str) -> Gone | None:
    return objects.decoded(Kind.META, _PREFIX + service_id, Gone)


class Sweeper:
    """`await run()` for ever; `remove` drops the log of a service of this node."""

    def __init__(self, store: Store, objects: Objects, logs: Path, remove: Callable[[str], Awaitable[None]]) -> None:
        self._store = store
        self._objects = objects
        self._logs = logs
        self._remove = remove

    async def run(self) -> None:
        while True:
            try:
                await self.sweep(now_us())
            except (StoreError, OSError) as error:
                _log.warning("logs of deleted services are looked at again in an hour: %s", error)
            await asyncio.sleep(_EVERY)

    async def sweep(self, now: int) -> None:
        """Once. Raises StoreError, OSError."""
        for object_id in list(self._objects.records(Kind.META)):
            gone = self._objects.decoded(Kind.META, object_id, Gone) if object_id.startswith(_PREFIX) else None
            if gone and now - gone.deleted_at > KEPT:
                await self._remove(object_id.removeprefix(_PREFIX))
                await self._store.commit([Change(Kind.META, object_id, None)])
        for service_id in await asyncio.to_thread(_untouched, self._logs, now - KEPT):
            if self._objects.get(Kind.SERVICE, service_id) is None and find(self._objects, service_id) is None:
                await self._remove(service_id)


def _untouched(logs: Path, since: int) -> list[str]:
    """The services whose log was not written to since then (microseconds)."""
    found = []
    for directory in logs.iterdir() if logs.exists() else ():
        written = max((file.stat().st_mtime_ns for file in (directory, *directory.iterdir())), default=0)
        if written // 1000 < since:
            found.append(directory.name)
    return found
