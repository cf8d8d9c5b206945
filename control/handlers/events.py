"""What happened to a service, and why: lists of it, and a stream of what comes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from control.contract import query, shapes
from control.contract.answers import answer
from control.contract.operations import operation
from control.contract.problem import FieldError, unprocessable
from control.contract.views import event_view
from control.credentials.access import Access
from control.services.catalogue import Catalogue
from control.streaming import following
from control.streaming.following import Entry, Page
from control.streaming.streams import Streams, Wanted, last_event_id
from state.models import Event
from state.store import EVENTS_KEPT, Store, Told

_READ: Final[Mapping[str, query.Reader]] = {
    "limit": query.whole(1, EVENTS_KEPT),
    "since": query.timestamp,
    "until": query.timestamp,
    "kind": query.text,
    "replica": query.text,
    "deployment": query.text,
    "cursor": query.whole(0),
    "follow": query.flag,
}


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events: `since` strictly after, `until` up to and including, by when it happened; `kind` may be its first
    part alone (`replica` for `replica.ready` and all of that sort)."""

    since: int | None = None
    until: int | None = None
    kind: str | None = None
    replica: str | None = None
    deployment: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Filters:
        return cls(*(given.get(name) for name in ("since", "until", "kind", "replica", "deployment")))

    def passes(self, event: Event) -> bool:
        return (
            (self.since is None or event.time > self.since)
            and (self.until is None or event.time <= self.until)
            and (self.kind is None or event.kind == self.kind or event.kind.startswith(f"{self.kind}."))
            and self.replica in (None, event.replica)
            and self.deployment in (None, event.deployment)
        )


@dataclass(frozen=True, slots=True)
class EventHandlers:
    access: Access
    catalogue: Catalogue
    store: Store
    streams: Streams

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/events", self.read)]

    @operation(
        "List events",
        needs="read",
        query=_READ,
        answers={200: shapes.EventList},
        streams=shapes.EventView,
        fails=(422,),
        asks_store=True,
    )
    async def read(self, request: web.Request) -> web.StreamResponse:
        """Every change of the service's state with its reason: the newest `limit` that match, oldest first.

        The last 1,000 are kept. `since` is strictly after, `until` up to and including. `kind` is that of an event
        (`replica.ready`) or its first part (`replica`). With `cursor`, the `next` of a list before, come the events
        that follow it.

        With `follow=true` the answer is a stream of server-sent events: these events, then each new one as it is
        told. `Last-Event-ID` resumes it without a gap or a double.
        """
        service_id = self.access.service_id(request)
        given = query.parameters(request, _READ)
        filters = Filters.of(given)
        last_id = last_event_id(request)
        if given.get("follow"):
            return await self._follow(request, service_id, last_id, filters, given)
        cursor, limit = given.get("cursor"), given.get("limit", 100)
        known = await self._known(service_id, cursor, filters, limit)
        found = [told for told in known if filters.passes(told.event)]
        shown = found[-limit:] if cursor is None else found[:limit]
        reached = shown[-1].place if cursor is not None and len(found) > limit else _end(known, cursor)
        items = [event_view(told.event) for told in shown]
        truncated = cursor is None and len(found) > limit
        return answer({"items": items, "next": str(reached), "truncated": truncated})

    async def _known(self, service_id: str, cursor: int | None, filters: Filters, limit: int) -> list[Told]:
        """Those among which the answer is, and one more, if there is one. Raises StoreError."""
        if cursor is not None:
            return await self.store.events_after(service_id, cursor)
        return await self.store.events(service_id, limit + 1 if filters == Filters() else EVENTS_KEPT)

    async def _follow(
        self, request: web.Request, service_id: str, last_id: int | None, filters: Filters, given: Mapping[str, Any]
    ) -> web.StreamResponse:
        if filters.until is not None:
            raise unprocessable([FieldError("until", "a stream has no end: not with follow")])
        place = given.get("cursor") if last_id is None else last_id
        if place is None:
            place = await self._before(service_id, filters, given.get("limit", 100))
        follow = Wanted(
            key=("events", service_id),
            kept=_KeptEvents(self.store, service_id),
            filters=filters,
            place=place,
            allowed=lambda: self.access.valid(request),
            gone=lambda: None if self.catalogue.service_by_id(service_id) else "the service was deleted",
        )
        return await self.streams.serve(request, self.access.caller(request), follow)

    async def _before(self, service_id: str, filters: Filters, limit: int) -> int:
        """The place just before the newest that match, which are let go of at once: a stream lasts."""
        known = await self.store.events(service_id)
        found = [told for told in known if filters.passes(told.event)][-limit:]
        return found[0].place - 1 if found else _end(known, None)


def _end(known: list[Told], cursor: int | None) -> int:
    """How far a reader of these has got."""
    return known[-1].place if known else cursor or 0


@dataclass(frozen=True, slots=True)
class _KeptEvents:
    """The events of a service, for those who follow them; `Streams.listen` hears of new ones."""

    store: Store
    service_id: str

    async def newest(self) -> int:
        return _end(await self.store.events(self.service_id, 1), None)

    async def after(self, place: int, wanted: Any) -> Page:
        told = await self.store.events_after(self.service_id, place, following.BATCH)
        entries = [Entry(one.place, one.event, _encoded(one.event)) for one in told if self.passes(one.event, wanted)]
        return Page(entries, _end(told, place), more=len(told) == following.BATCH)

    def passes(self, value: Event, wanted: Any) -> bool:
        return not isinstance(wanted, Filters) or wanted.passes(value)

    def watched(self, told: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _encoded(event: Event) -> bytes:
    return json.dumps(event_view(event), ensure_ascii=False, separators=(",", ":")).encode()
