"""Services: list, get, create, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from activator.status import STATUSES
from control.contract import query
from control.contract.answers import answer, links
from control.contract.conditions import exact
from control.contract.operations import operation
from control.contract.schemas import CreateBody, read_create
from control.contract.shapes import NewServiceView, ServicePage, ServiceView
from control.contract.views import etag, service_view
from control.credentials.access import Access
from control.handlers.hooks import address
from control.services import waiting
from control.services.catalogue import Catalogue
from control.services.writes import Services
from control.site import Site
from state.ids import now_us
from state.models import Service

_PAGE: Final = 100
_LISTING: Final[Mapping[str, query.Reader]] = {
    "status": query.one_of(*STATUSES),
    "page": query.whole(1),
    "limit": query.whole(1, _PAGE),
    "per_page": query.whole(1, _PAGE),
}
_FORCE: Final[Mapping[str, query.Reader]] = {"force": query.flag}


@dataclass(frozen=True, slots=True)
class ServiceHandlers:
    """Reads come from the mirror, so that they work without the store; a write is in the mirror before it answers."""

    access: Access
    catalogue: Catalogue
    services: Services
    site: Site

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/{namespace}/services", self.list),
            web.get("/{namespace}/service/{name}", self.get),
            web.post("/auth/v1/seed/{namespace}/services", self.create),
            web.delete("/auth/v1/seed/{namespace}/services/{name}", self.delete),
        ]

    @operation("List services", needs="read", query=_LISTING, answers={200: ServicePage}, headers=("Link",))
    async def list(self, request: web.Request) -> web.Response:
        namespace = self.access.allowed(request, "read")
        given = query.parameters(request, _LISTING)
        page, limit = given.get("page", 1), query.either(given, ("limit", "per_page"), 20)
        shown, total = await self.catalogue.page(namespace, given.get("status"), page, limit)
        body = {"items": [self._shown(s) for s in shown], "page": page, "limit": limit, "total": total}
        return answer(body, headers=links(request, page, limit, total))

    @operation("Get a service", needs="read", answers={200: ServiceView, 304: None}, headers=("ETag",))
    async def get(self, request: web.Request) -> web.Response:
        service = self.access.service(request)
        query.parameters(request, {})
        shown = self._shown(service)
        return answer(shown, headers={"ETag": exact(etag(service), shown)})

    @operation(
        "Create a service",
        needs="write",
        query=waiting.PARAMETERS,
        body=CreateBody,
        answers={201: NewServiceView},
        headers=("Location", "ETag"),
    )
    async def create(self, request: web.Request) -> web.Response:
        namespace = self.access.allowed(request, "write")
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        body = read_create(await query.json_body(request), self.site.platform)
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.create(namespace, body)
            if patience is not None:
                await self.services.deployed(outcome, patience)
        facts = self.catalogue.now(outcome.facts)
        shown = service_view(facts, self.site, now_us())
        headers = {
            "Location": self.site.located(f"/{namespace}/service/{facts.service.name}"),
            "ETag": exact(etag(facts.service), shown),
        }
        webhook = None
        if outcome.secret is not None:
            webhook = {"url": address(request, self.site, namespace, facts.service.name), "secret": outcome.secret}
            headers["Cache-Control"] = "no-store"
        return answer({**shown, "webhook": webhook}, status=201, headers=headers)

    @operation("Delete a service", needs="write", query=_FORCE, answers={204: None}, if_match=True)
    async def delete(self, request: web.Request) -> web.Response:
        """Its hosts answer 503 at once; requests in flight finish, unless forced."""
        namespace, name = self.access.target(request)
        force = query.parameters(request, _FORCE).get("force", False)
        if_match = request.headers.get("If-Match")
        await self.services.delete(namespace, name, force=force, if_match=if_match)
        return web.Response(status=204)

    def _shown(self, service: Service) -> ServiceView:
        return service_view(self.catalogue.facts(service), self.site, now_us())
