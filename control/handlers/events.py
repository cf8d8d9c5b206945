"""What happened to a service, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from control import query
from control.access import Access
from control.answers import answer
from control.operations import operation
from control.shapes import EventList
from control.views import event_view
from state.store import EVENTS_KEPT, Store

_READ: Final[Mapping[str, query.Reader]] = {"limit": query.whole(1, EVENTS_KEPT)}


@dataclass(frozen=True, slots=True)
class EventHandlers:
    access: Access
    store: Store

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/events", self.read)]

    @operation("List events", needs="read", query=_READ, answers={200: EventList})
    async def read(self, request: web.Request) -> web.Response:
        """Every change of the service's state with its reason, oldest first."""
        service_id = self.access.service_id(request)
        limit = query.parameters(request, _READ).get("limit", 100)
        events = await self.store.events(service_id, limit)
        return answer({"items": [event_view(told.event) for told in events]})
