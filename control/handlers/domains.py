"""Custom domains of a service, and certificates of their owners."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from control.claims.decisions import Wanted, domain_not_found
from control.claims.writes import Domains
from control.contract import query
from control.contract.answers import answer
from control.contract.conditions import exact
from control.contract.domain_views import domain_view
from control.contract.operations import operation
from control.contract.preconditions import domain_etag
from control.contract.problem import not_found
from control.contract.schemas import CertificateBody, DomainBody, read, read_domain
from control.contract.shapes import DomainList, DomainView
from control.credentials.access import Access
from control.domains import BadDomain, custom_domain
from control.services.catalogue import Catalogue, DomainFacts
from control.services.records import Outcome
from control.site import Site
from state.ids import now_us


@dataclass(frozen=True, slots=True)
class DomainHandlers:
    """Reads come from the mirror, so that they work without the store; a write is in the mirror before it answers."""

    access: Access
    catalogue: Catalogue
    domains: Domains
    site: Site

    def routes(self) -> list[web.RouteDef]:
        read, write = "/{namespace}/service/{name}/domains", "/auth/v1/seed/{namespace}/services/{name}/domains"
        return [
            web.get(read, self.list),
            web.get(f"{read}/{{domain}}", self.get),
            web.post(write, self.add),
            web.delete(f"{write}/{{domain}}", self.remove),
            web.put(f"{write}/{{domain}}/certificate", self.upload),
            web.delete(f"{write}/{{domain}}/certificate", self.withdraw),
        ]

    @operation("List domains", needs="read", answers={200: DomainList})
    async def list(self, request: web.Request) -> web.Response:
        """All of a service, with what DNS should say and was last heard to say. 20 at most."""
        service = self.access.service(request)
        query.parameters(request, {})
        now = now_us()
        return answer({"items": [domain_view(one, now) for one in self.catalogue.facts(service).domains]})

    @operation("Get a domain", needs="read", answers={200: DomainView, 304: None}, headers=("ETag",))
    async def get(self, request: web.Request) -> web.Response:
        """Its state, why it is in it, and the certificate that it is served with."""
        service, name = self.access.service(request), self._domain(request)
        query.parameters(request, {})
        for facts in self.catalogue.facts(service).domains:
            if facts.domain.name == name:
                return _shown(facts)
        raise domain_not_found(service, name)

    @operation(
        "Add a domain",
        needs="write",
        body=DomainBody,
        answers={201: DomainView, 200: DomainView},
        headers=("Location", "ETag"),
        if_match=True,
    )
    async def add(self, request: web.Request) -> web.Response:
        """Claims it for the service; it is served once DNS proves that it is yours. One that is there already is looked
        at again now (200), and sent on where the call says. The first one becomes the `custom_domain`."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        body = read_domain(await query.json_body(request), self.site.platform)
        wanted = Wanted(body.domain, body.redirect_to, "redirect_to" in body.model_fields_set)
        outcome, new = await self.domains.add(namespace, name, wanted, request.headers.get("If-Match"))
        place = self.site.located(f"/{namespace}/service/{outcome.facts.service.name}/domains/{body.domain}")
        return _shown(_named(outcome, body.domain), status=201 if new else 200, place=place)

    @operation("Remove a domain", needs="write", answers={204: None}, if_match=True, fails=(409,))
    async def remove(self, request: web.Request) -> web.Response:
        """It stops being served at once, and its certificate and key are destroyed. If it was the `custom_domain`, the
        oldest of the others takes its place."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        await self.domains.remove(namespace, name, self._domain(request), request.headers.get("If-Match"))
        return web.Response(status=204)

    @operation(
        "Set an own certificate",
        needs="write",
        body=CertificateBody,
        answers={200: DomainView},
        headers=("ETag",),
        if_match=True,
        fails=(409, 422),
    )
    async def upload(self, request: web.Request) -> web.Response:
        """For a domain that is proved to be yours. It is served until it ends, and renewed by you alone. Keys can be
        written and never be read."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        domain, body = self._domain(request), read(CertificateBody, await query.json_body(request))
        outcome = await self.domains.upload(namespace, name, domain, body, request.headers.get("If-Match"))
        return _shown(_named(outcome, domain))

    @operation("Remove an own certificate", needs="write", answers={204: None}, if_match=True)
    async def withdraw(self, request: web.Request) -> web.Response:
        """It and its key are destroyed at once; the domain has none until another is issued."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        await self.domains.withdraw(namespace, name, self._domain(request), request.headers.get("If-Match"))
        return web.Response(status=204)

    def _domain(self, request: web.Request) -> str:
        """That of the path, as it is stored. Raises Problem 404 for what can't be one."""
        text = request.match_info["domain"]
        try:
            return custom_domain(text, self.site.platform)
        except BadDomain:
            raise not_found(f"There can be no domain {text!r}.") from None


def _named(outcome: Outcome, name: str) -> DomainFacts:
    """Raises Problem 404 if another call has removed it since."""
    for facts in outcome.facts.domains:
        if facts.domain.name == name:
            return facts
    raise domain_not_found(outcome.facts.service, name)


def _shown(facts: DomainFacts, *, status: int = 200, place: str | None = None) -> web.Response:
    shown = domain_view(facts, now_us())
    headers = {"ETag": exact(domain_etag(facts.domain, facts.certificate), shown)}
    return answer(shown, status=status, headers=headers | ({} if place is None else {"Location": place}))
