"""When keys were last used: noted in passing by the request, kept by the store once a minute per key at most.

Laws kept here: no request waits for it; a key that was changed or revoked meanwhile is left as it is (law 6: the commit
names the version that was seen); a store that can't be reached makes the note forgotten, not late.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

from control.credentials.auth import key_id
from control.ports import Objects
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import ApiKey
from state.store import Change, Store, StoreError

EVERY: Final = 60 * 1_000_000  # microseconds


class KeyUse:
    """`note` each use; `await run()` keeps them, for ever."""

    def __init__(self, store: Store, objects: Objects) -> None:
        self._store = store
        self._objects = objects
        self._noted: dict[str, int] = {}  # key id -> when a use was last taken up, of the last minute
        self._due: dict[str, int] = {}
        self._arrived = asyncio.Event()

    def note(self, key: ApiKey) -> None:
        now, identity = now_us(), key_id(key.namespace, key.name)
        if not any(_fresh(at, now) for at in (key.used_at, self._noted.get(identity))):
            self._noted[identity] = self._due[identity] = now
            self._arrived.set()

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            due, self._due = self._due, {}
            for identity, at in due.items():
                with contextlib.suppress(StoreError):  # changed meanwhile, or no store: a later use tells
                    await self._keep(identity, at)
            self._noted = {identity: at for identity, at in self._noted.items() if _fresh(at, now_us())}

    async def _keep(self, identity: str, at: int) -> None:
        record = self._objects.get(Kind.KEY, identity)
        key = self._objects.decoded(Kind.KEY, identity, ApiKey)
        if record and key:
            await self._store.commit([Change(Kind.KEY, identity, encode(replace(key, used_at=at)), record.version)])


def _fresh(at: int | None, now: int) -> bool:
    """Within the last minute; a time in the future is a stepped clock's and counts for nothing."""
    return at is not None and 0 <= now - at < EVERY
