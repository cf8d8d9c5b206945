"""What those ask who look after the node: is it alive, can it work, what does it count."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from control.contract import query
from control.contract.answers import answer
from control.contract.conditions import tag_of
from control.contract.openapi import OPENAPI
from control.contract.operations import Content, operation
from control.contract.shapes import AliveView, ReadyView
from control.credentials.access import Access
from control.credentials.auth import forbidden
from control.credentials.gateway import BROUGHT
from control.services import names
from control.services.catalogue import Catalogue
from control.site import Site


@dataclass(frozen=True, slots=True)
class HealthHandlers:
    """`metrics` gives the exposition's text and its type; `unready` the reasons against readiness."""

    access: Access
    catalogue: Catalogue
    site: Site
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    unready: Callable[[], Sequence[str]]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.exposition),
            web.get("/openapi.json", self.openapi),
        ]

    @operation("Alive?", needs=None, answers={200: AliveView})
    async def healthz(self, request: web.Request) -> web.Response:
        """Alive: this loop answers."""
        query.parameters(request, {})
        return answer({"status": "ok"})

    @operation("Ready?", needs=None, answers={200: ReadyView, 503: ReadyView})
    async def readyz(self, request: web.Request) -> web.Response:
        """Ready: `serve` has said `ready`, and the node can do its work. Warnings don't count against it."""
        query.parameters(request, {})
        reasons, warnings = list(self.unready()), []
        if not self.site.isolated and len(self.catalogue.inhabited()) > 1:
            warnings.append("several namespaces run without isolation: only root can keep them apart")
        body = {"status": "unready" if reasons else "ready", "reasons": reasons, "warnings": warnings}
        return answer(body, status=503 if reasons else 200)

    @operation("Read metrics", needs=None, answers={200: Content("text/plain")}, fails=(401, 403, 503))
    async def exposition(self, request: web.Request) -> web.Response:
        """Metrics of all namespaces: from loopback without a key, else by one of every namespace."""
        if not _from_loopback(request):
            key = self.access.caller(request)
            if key.namespace != names.EVERY_NAMESPACE:
                raise forbidden()
        query.parameters(request, {})
        body, content_type = await self.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    @operation("Read this document", needs=None, answers={200: dict[str, Any], 304: None}, headers=("ETag",))
    async def openapi(self, request: web.Request) -> web.Response:
        """OpenAPI 3.1: every path, parameter, body and answer."""
        query.parameters(request, {})
        body = request.app[OPENAPI]
        return web.Response(body=body, content_type="application/json", headers={"ETag": tag_of(body)})


def _from_loopback(request: web.Request) -> bool:
    """Whoever the gateway brings is none of this machine, whatever its address: it may stand behind a proxy here."""
    if request.get(BROUGHT):
        return False
    try:
        return ipaddress.ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False
