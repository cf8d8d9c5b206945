"""Routes of deleted services, which answer 503 for `--tombstone-ttl` and are then forgotten.

Days are counted by the wall clock: nothing else is shared by the years and machines that they may span.
"""

from __future__ import annotations

import logging
from typing import Final

from state.codec import DecodeError, decode
from state.kinds import Kind
from state.models import Route
from state.store import Change, Fence, Store, StoreError

log = logging.getLogger(__name__)

_DAY: Final = 86_400_000_000  # microseconds
_MARK: Final = b'"deleted_at"'  # fields at their default are not stored: cheaper than decoding every route


async def sweep(store: Store, days: float, now: int, fence: Fence) -> int:
    """Remove the routes deleted longer ago than `days`; returns how many. What fails is found by the next sweep."""
    removed = 0
    try:
        async for host, record in store.scan(Kind.ROUTE):
            if _MARK in record.value and _over(record.value, days, now):
                await store.commit([Change(Kind.ROUTE, host, None, record.version)], fence=fence)
                removed += 1
    except StoreError as error:
        log.warning("looking for tombstones that are over: %s", error)
    return removed


def _over(value: bytes, days: float, now: int) -> bool:
    try:
        route = decode(Route, value)
    except DecodeError:
        return False
    return route.deleted_at is not None and now - route.deleted_at > days * _DAY
