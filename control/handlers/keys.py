"""Keys: make, list, revoke, and which one asks."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from control import names, query
from control.access import Access
from control.answers import answer
from control.catalogue import Catalogue
from control.keys import Keys
from control.schemas import read_key
from control.views import key_view
from state.ids import now_us


@dataclass(frozen=True, slots=True)
class KeyHandlers:
    access: Access
    catalogue: Catalogue
    keys: Keys

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/auth/v1/key", self.own),
            web.get("/auth/v1/keys", self.list),
            web.post("/auth/v1/keys", self.create),
            web.delete("/auth/v1/keys/{name}", self.revoke),
        ]

    async def own(self, request: web.Request) -> web.Response:
        """The key that asks, and those of its namespaces that have services."""
        key = self.access.caller(request)
        query.parameters(request, {})
        mine = (n for n in self.catalogue.inhabited() if key.namespace in (names.EVERY_NAMESPACE, n))
        return answer({**key_view(key), "namespaces": sorted(mine)})

    async def list(self, request: web.Request) -> web.Response:
        caller = self.access.administrator(request)
        query.parameters(request, {})
        return answer({"items": [key_view(key) for key in self.keys.visible(caller)]})

    async def create(self, request: web.Request) -> web.Response:
        caller = self.access.administrator(request)
        query.parameters(request, {})
        body = read_key(await query.json_body(request), now_us())
        key, token = await self.keys.create(caller, body)
        headers = {"Location": f"/auth/v1/keys/{key.name}", "Cache-Control": "no-store"}
        return answer({**key_view(key), "key": token}, status=201, headers=headers)

    async def revoke(self, request: web.Request) -> web.Response:
        caller = self.access.administrator(request)
        namespace = query.parameters(request, {"namespace": str}).get("namespace")
        await self.keys.revoke(caller, request.match_info["name"], namespace)
        return web.Response(status=204)
