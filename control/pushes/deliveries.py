"""Deliveries of webhooks that came before, so that nobody can play one again: in the store, for all nodes.

Law 7: the newest MOST marks of a service are kept, each for KEPT seconds; that is 100 KiB of store at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final

from state.store import Store

KEPT: Final = 86_400  # seconds
MOST: Final = 1000  # marks of one service; a delivery has two at most
_MARK: Final = 16  # bytes


class Deliveries:
    """By service and by what `signatures.Check.marks` says of a delivery."""

    def __init__(self, store: Store) -> None:
        self._run = store.script(resources.files("control.pushes").joinpath("deliveries.lua").read_text())

    async def take(self, service: str, marks: Sequence[str]) -> bool:
        """False: it came before. Of several at once, one is told that it is the first. Raises Unavailable."""
        return bool(await self._do("take", service, marks))

    async def drop(self, service: str, marks: Sequence[str]) -> None:
        """Nothing became of it: it may come again. Raises Unavailable."""
        await self._do("drop", service, marks)

    async def _do(self, action: str, service: str, marks: Sequence[str]) -> int:
        digests = [hashlib.blake2b(mark.encode("utf-8", "replace"), digest_size=_MARK).digest() for mark in marks]
        return int(await self._run([f"{{{service}}}:deliveries"], [action, KEPT, MOST, *digests]))
