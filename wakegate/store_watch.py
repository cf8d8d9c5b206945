"""The health of the embedded store: asked regularly, what it complains of told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wakegate.children import Process
from wakegate.slots import Slot
from wakegate.store_process import EmbeddedStore

_STARTING = 0.02  # s between looks while it starts
_RUNNING = 1.0  # s
_PATIENCE = 5.0  # s for one answer


class StoreWatch:
    """Marks the process of `slot` as answering and ready; `say` gets a line when its complaint changes."""

    def __init__(
        self, store: EmbeddedStore, slot: Slot[Process], say: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._slot = slot
        self._say = say
        self._changed = changed
        self._complaint = ""

    async def run(self, now: Callable[[], float]) -> None:
        while True:
            process = self._slot.process
            if process is not None:
                await self._ask(process, now)
            await asyncio.sleep(_RUNNING if process is not None and process.ready else _STARTING)

    async def _ask(self, process: Process, now: Callable[[], float]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._store.ping()
        except (OSError, EOFError, TimeoutError):
            return
        if process is not self._slot.process:
            return
        process.answer(now())
        if not answer.startswith("-LOADING") and not process.ready:
            process.ready = self._slot.ever_ready = True
            self._changed()
        complaint = answer[1:] if answer.startswith("-MISCONF") else ""
        if complaint != self._complaint:
            self._say(f"the store can't write: {complaint}" if complaint else "the store writes again")
            self._complaint = complaint
