"""What a leader does off the path of wakes: activity is stored, tombstones that are over and stray slots removed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from activator import tombstones
from activator.coldstarts import until_ready
from activator.forecast import noted
from activator.outlooks import Watch
from activator.settings import Settings
from activator.views import Catalog, View
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import History
from state.slots import Slots
from state.store import Change, Fence, Store, StoreError

log = logging.getLogger(__name__)

_BATCH: Final = 64  # services whose last activity one commit stores
_SWEEP_EVERY: Final = 3600.0  # seconds between looks for tombstones that are over


class Housekeeping:
    """`run` does once what is due, for services of which there is a watch."""

    def __init__(self, store: Store, catalog: Catalog, settings: Settings, watches: Mapping[str, Watch]) -> None:
        self.under_way = False
        self._store = store
        self._catalog = catalog
        self._settings = settings
        self._watches = watches
        self._swept_at = float("-inf")

    async def run(self, fence: Fence) -> None:
        """Must not be called while it is `under_way`."""
        self.under_way = True
        try:
            await self._store_activity(fence)
            if time.monotonic() - self._swept_at > _SWEEP_EVERY:
                self._swept_at = time.monotonic()
                await tombstones.sweep(self._store, self._settings.tombstone_ttl, now_us(), fence)
                await self._sweep_slots()
        except Exception:
            log.exception("what is only written for later is written later")
        finally:
            self.under_way = False

    async def _sweep_slots(self) -> None:
        """A worker that hears of a service's end late may write its document once more."""
        slots = Slots(self._store)
        try:
            known = await slots.services()
            await slots.forget(known - (await self._store.get_many(Kind.SERVICE, sorted(known))).keys())
        except StoreError as error:
            log.debug("slots of services that are no more stay until the next sweep: %s", error)

    async def _store_activity(self, fence: Fence) -> None:
        """Remember the last activity for a successor."""
        found = [change for service in list(self._watches) if (change := self._activity(service)) is not None]
        for start in range(0, len(found), _BATCH):
            try:
                await self._store.commit(found[start : start + _BATCH], fence=fence)
            except StoreError as error:
                log.debug("the last activity of some services is stored later: %s", error)

    def _activity(self, service: str) -> Change | None:
        now, watch, view = time.monotonic(), self._watches[service], self._catalog.view(service)
        due = now - watch.stored_at >= self._settings.activity_interval
        if view is None or not due or watch.memory.active_at < watch.stored_at:
            return None
        watch.stored_at = now
        active_at = now_us() - int((now - watch.memory.active_at) * 1e6)
        value = encode(replace(view.scale, active_at=active_at, history=_history(view, watch, now)))
        return Change(Kind.SCALE, service, value, view.version(Kind.SCALE, service))


def _history(view: View, watch: Watch, now: float) -> History | None:
    """Of requests alone: that a replica was reserved is no reason to reserve one."""
    if not view.service.scaling.warm_reserve:
        return None
    if watch.requested_at is None:
        return view.scale.history
    starts = [taken for r in view.of(view.serving) if r.ready_at is not None and (taken := until_ready(r.phases))]
    return noted(view.scale.history, now_us() - int((now - watch.requested_at) * 1e6), max(starts, default=None))
