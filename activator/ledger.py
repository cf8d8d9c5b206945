"""Changing what is stored of a service from what is known of it: look, decide, compare-and-set, look again.

Laws kept here: 6 (a change is made to exactly what was looked at) and 4 (a step may be repeated: it says what should be
true). A store that is gone is waited for; nothing else is done meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from activator.views import Catalog, View, changes
from state.kinds import Kind
from state.mirror import Mirror
from state.store import Conflict, Fence, Store, StoreError

_PATIENCE: Final = 1.0  # seconds that the feed may take to bring what is known to be there
_RETRY: Final = 0.2  # seconds between attempts to reach a store that is gone


class Ledger:
    """Reads from the mirror, writes to the store."""

    def __init__(self, store: Store, mirror: Mirror, catalog: Catalog) -> None:
        self._store = store
        self._mirror = mirror
        self._catalog = catalog

    async def change(self, service: str, step: Callable[[View], View], *, ordered: bool = True) -> View | None:
        """Make `step` true; returns the view that is stored then, None if there is no such service (any more).

        `step` is called until its view could be committed; what it returns unchanged is not written.
        """
        while True:
            view = self._catalog.view(service)
            if view is None:
                if self._catalog.service(service) is None:
                    return None
                await self._wait_for(self._mirror.revision + 1)
                continue
            after = step(view)
            if after is view:
                return view
            if await self._commit(view, after, ordered):
                return after

    async def _commit(self, view: View, after: View, ordered: bool) -> bool:
        try:
            revision = await self.commit(view, after, None, ordered=ordered)
        except Conflict as conflict:
            await self.catch_up(conflict)
            return False
        except StoreError:
            await asyncio.sleep(_RETRY)  # the pace of trying again
            return False
        # a store that lost its last second never brings it: then the step is taken again
        return await self._wait_for(revision)

    async def stands(self, kind: Kind, object_id: str) -> bool:
        """Whether the store has at this moment, in the same run, what the mirror has of it. Raises Unavailable."""
        run_id, record = await self._store.look(kind, object_id)
        known = self._mirror.get(kind, object_id)
        version = None if known is None else known.version
        return run_id == self._mirror.run_id and version == (None if record is None else record.version)

    async def commit(self, view: View, after: View | None, fence: Fence | None, *, ordered: bool = True) -> int:
        """Returns the revision, 0 if nothing is different. Raises Conflict, Fenced, Unavailable."""
        found = changes(view, after, ordered=ordered)
        return await self._store.commit(found, fence=fence) if found else 0

    async def catch_up(self, conflict: Conflict) -> None:
        """Returns once the mirror has (probably) what stood in the way."""
        revision = conflict.version
        try:
            if revision <= self._mirror.revision:
                revision = await self._store.revision()
        except StoreError:
            await asyncio.sleep(_RETRY)  # the pace of trying again
            return
        await self._wait_for(revision)

    async def _wait_for(self, revision: int) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._mirror.reached(revision)
        except TimeoutError:
            return False
        return True
