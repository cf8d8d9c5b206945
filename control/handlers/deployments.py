"""Changing, deploying, putting to sleep and waking services, and the list of a service's deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from control.contract import query
from control.contract.answers import answer, links
from control.contract.conditions import exact
from control.contract.operations import operation
from control.contract.schemas import EnvBody, NoBody, RollbackBody, UpdateBody, read, read_update
from control.contract.shapes import DeploymentPage, ServiceView
from control.contract.views import deployment_view, etag, service_view
from control.credentials.access import Access
from control.services import waiting
from control.services.catalogue import Catalogue
from control.services.records import Outcome
from control.services.writes import Services
from control.site import Site
from state.ids import now_us

_PAGE: Final = 100
_LISTING: Final[Mapping[str, query.Reader]] = {
    "page": query.whole(1),
    "limit": query.whole(1, _PAGE),
    "per_page": query.whole(1, _PAGE),
}


@dataclass(frozen=True, slots=True)
class DeploymentHandlers:
    """Every write takes `If-Match`, answers with the service and its `ETag`, and is in the mirror before it answers."""

    access: Access
    catalogue: Catalogue
    services: Services
    site: Site

    def routes(self) -> list[web.RouteDef]:
        service = "/auth/v1/seed/{namespace}/services/{name}"
        return [
            web.get("/{namespace}/service/{name}/deployments", self.list),
            web.put(service, self.update),
            web.patch(f"{service}/env", self.patch_env),
            web.post(f"{service}/redeploy", self.redeploy),
            web.post(f"{service}/rollback", self.rollback),
            web.post(f"{service}/cancel", self.cancel),
            web.post(f"{service}/sleep", self.sleep),
            web.post(f"{service}/wake", self.wake),
        ]

    @operation("List deployments", needs="read", query=_LISTING, answers={200: DeploymentPage}, headers=("Link",))
    async def list(self, request: web.Request) -> web.Response:
        """The newest 20 that there were, newest first."""
        service = self.access.service(request)
        given = query.parameters(request, _LISTING)
        page, limit = given.get("page", 1), query.either(given, ("limit", "per_page"), 20)
        found = self.catalogue.deployments(service.id)
        items = [deployment_view(deployment) for deployment in found[(page - 1) * limit : page * limit]]
        body = {"items": items, "page": page, "limit": limit, "total": len(found)}
        return answer(body, headers=links(request, page, limit, len(found)))

    @operation(
        "Update a service",
        needs="write",
        query=waiting.PARAMETERS,
        body=UpdateBody,
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409, 422),
    )
    async def update(self, request: web.Request) -> web.Response:
        """What is absent stays as it is. A change of `env`, `branch`, `image`, `port`, `health_check_path`, `cpu` or
        `memory` starts a rolling deployment; any other restarts nothing."""
        namespace, name = self.access.target(request)
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        body = read_update(await query.json_body(request), self.site.platform)
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.update(namespace, name, body, if_match=_if_match(request))
            return await self._deployed(outcome, patience)

    @operation(
        "Change the environment",
        needs="write",
        query=waiting.PARAMETERS,
        body=EnvBody,
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409, 422),
    )
    async def patch_env(self, request: web.Request) -> web.Response:
        """Sets the names that are given, removes those that are null, and leaves the others alone."""
        namespace, name = self.access.target(request)
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        body = read(EnvBody, await query.json_body(request))
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.patch_env(namespace, name, body, if_match=_if_match(request))
            return await self._deployed(outcome, patience)

    @operation(
        "Redeploy a service",
        needs="write",
        query=waiting.PARAMETERS,
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409,),
    )
    async def redeploy(self, request: web.Request) -> web.Response:
        """Deploys the branch's newest commit, or pulls the image again. The old replicas serve until then."""
        namespace, name = self.access.target(request)
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        read(NoBody, await _optional_body(request))
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.redeploy(namespace, name, if_match=_if_match(request))
            return await self._deployed(outcome, patience)

    @operation(
        "Roll back",
        needs="write",
        query=waiting.PARAMETERS,
        body=RollbackBody,
        body_required=False,
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409, 422),
    )
    async def rollback(self, request: web.Request) -> web.Response:
        """Deploys again what an earlier deployment ran: its commit or digest, environment and settings."""
        namespace, name = self.access.target(request)
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        body = read(RollbackBody, await _optional_body(request))
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.rollback(namespace, name, body.deployment, if_match=_if_match(request))
            return await self._deployed(outcome, patience)

    @operation(
        "Cancel the deployment in progress",
        needs="write",
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409,),
    )
    async def cancel(self, request: web.Request) -> web.Response:
        """Its build and its replicas end; what served before serves on."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        read(NoBody, await _optional_body(request))
        return self._answer(await self.services.cancel(namespace, name, if_match=_if_match(request)))

    @operation(
        "Put a service to sleep",
        needs="write",
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409,),
    )
    async def sleep(self, request: web.Request) -> web.Response:
        """Only with `min_replicas` 0. Requests in flight finish; the next one wakes it."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        read(NoBody, await _optional_body(request))
        return self._answer(await self.services.sleep(namespace, name, if_match=_if_match(request)))

    @operation(
        "Wake a service",
        needs="write",
        query=waiting.PARAMETERS,
        answers={200: ServiceView},
        headers=("ETag",),
        if_match=True,
        fails=(409,),
    )
    async def wake(self, request: web.Request) -> web.Response:
        """Starts it as a request would."""
        namespace, name = self.access.target(request)
        patience = waiting.patience(query.parameters(request, waiting.PARAMETERS))
        read(NoBody, await _optional_body(request))
        with self.catalogue.waiting.place(self.access.caller(request), patience):
            outcome = await self.services.wake(namespace, name, if_match=_if_match(request))
            if patience is not None:
                await self.services.awake(outcome, patience)
            return self._answer(outcome)

    async def _deployed(self, outcome: Outcome, patience: float | None) -> web.Response:
        if patience is not None:
            await self.services.deployed(outcome, patience)
        return self._answer(outcome)

    def _answer(self, outcome: Outcome) -> web.Response:
        facts = self.catalogue.now(outcome.facts)
        shown = service_view(facts, self.site, now_us())
        return answer(shown, headers={"ETag": exact(etag(facts.service), shown)})


def _if_match(request: web.Request) -> str | None:
    return request.headers.get("If-Match")


async def _optional_body(request: web.Request) -> Any:
    return await query.json_body(request) if request.body_exists else {}
