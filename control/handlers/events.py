"""What happened to a service, and why."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from control import query
from control.access import Access
from control.answers import answer
from control.views import event_view
from state.store import EVENTS_KEPT, Store


@dataclass(frozen=True, slots=True)
class EventHandlers:
    access: Access
    store: Store

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/events", self.read)]

    async def read(self, request: web.Request) -> web.Response:
        service_id = self.access.service_id(request)
        limit = query.parameters(request, {"limit": query.whole(1, EVENTS_KEPT)}).get("limit", 100)
        events = await self.store.events(service_id, limit)
        return answer({"items": [event_view(event) for event in events]})
