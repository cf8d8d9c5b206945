"""Keys: make, list, revoke, and which one asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from control.contract import query
from control.contract.answers import answer
from control.contract.operations import operation
from control.contract.schemas import KeyBody, read_key
from control.contract.shapes import KeyList, KeyView, NewKeyView, OwnKeyView
from control.contract.views import key_view
from control.credentials.access import Access
from control.credentials.keys import Keys
from control.services import names
from control.services.catalogue import Catalogue
from control.site import Site
from state.ids import now_us

_CHOICE: Final[Mapping[str, query.Reader]] = {"namespace": query.text}


@dataclass(frozen=True, slots=True)
class KeyHandlers:
    access: Access
    catalogue: Catalogue
    keys: Keys
    site: Site

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/auth/v1/key", self.own),
            web.get("/auth/v1/keys", self.list),
            web.post("/auth/v1/keys", self.create),
            web.get("/auth/v1/keys/{name}", self.get),
            web.delete("/auth/v1/keys/{name}", self.revoke),
        ]

    @operation("Show the calling key", needs="read", answers={200: OwnKeyView})
    async def own(self, request: web.Request) -> web.Response:
        """The key that asks, and those of its namespaces that have services."""
        key = self.access.caller(request)
        query.parameters(request, {})
        mine = (n for n in self.catalogue.inhabited() if key.namespace in (names.EVERY_NAMESPACE, n))
        return answer({**key_view(key), "namespaces": sorted(mine)})

    @operation("List keys", needs="admin", answers={200: KeyList})
    async def list(self, request: web.Request) -> web.Response:
        """Those of the calling key's namespace, or all."""
        caller = self.access.administrator(request)
        query.parameters(request, {})
        return answer({"items": [key_view(key) for key in self.keys.visible(caller)]})

    @operation(
        "Create a key",
        needs="admin",
        body=KeyBody,
        answers={201: NewKeyView},
        headers=("Location",),
    )
    async def create(self, request: web.Request) -> web.Response:
        """The token, `NAME$SECRET`, is shown this once."""
        caller = self.access.administrator(request)
        query.parameters(request, {})
        body = read_key(await query.json_body(request), now_us())
        key, token = await self.keys.create(caller, body)
        place = f"/auth/v1/keys/{key.name}?{urlencode({'namespace': key.namespace})}"
        headers = {"Location": self.site.located(place), "Cache-Control": "no-store"}
        return answer({**key_view(key), "key": token}, status=201, headers=headers)

    @operation("Get a key", needs="admin", query=_CHOICE, answers={200: KeyView}, fails=(409,))
    async def get(self, request: web.Request) -> web.Response:
        """`namespace` says which, where several namespaces have a key of that name."""
        caller = self.access.administrator(request)
        namespace = query.parameters(request, _CHOICE).get("namespace")
        return answer(key_view(self.keys.one(caller, request.match_info["name"], namespace)))

    @operation("Revoke a key", needs="admin", query=_CHOICE, answers={204: None}, fails=(409,))
    async def revoke(self, request: web.Request) -> web.Response:
        """It stops at once, on all nodes. `namespace` says which, where several namespaces have a key of that name."""
        caller = self.access.administrator(request)
        namespace = query.parameters(request, _CHOICE).get("namespace")
        await self.keys.revoke(caller, request.match_info["name"], namespace)
        return web.Response(status=204)
