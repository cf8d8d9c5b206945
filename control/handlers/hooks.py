"""Push webhooks: where forges deliver, and a new secret."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from control.contract import query
from control.contract.answers import answer
from control.contract.authorities import is_authority
from control.contract.operations import operation
from control.contract.problem import Problem
from control.contract.schemas import NoBody, read
from control.contract.shapes import ReceptionView, WebhookView
from control.credentials.access import Access
from control.pushes.hooks import BODY_LIMIT, Delivery, Hooks, too_large
from control.site import Site

_BODY_TIMEOUT: Final = 30.0  # seconds for the whole body; forges wait for 10 to 30 s


@dataclass(frozen=True, slots=True)
class HookHandlers:
    """A delivery needs no key: its signature is its credential."""

    access: Access
    hooks: Hooks
    site: Site

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/hooks/git/{namespace}/{name}", self.deliver),
            web.post("/auth/v1/seed/{namespace}/services/{name}/webhook", self.rotate),
        ]

    @operation(
        "Deliver a push",
        needs=None,
        answers={200: ReceptionView, 202: ReceptionView},
        fails=(403, 408, 413, 429, 503),
    )
    async def deliver(self, request: web.Request) -> web.Response:
        """For the webhooks of GitHub, GitLab, Gitea and Forgejo, signed with the service's secret. A push of its branch
        deploys the newest commit (202); whatever else is well signed does nothing and says why (200)."""
        query.parameters(request, {})
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        headers = {field.lower(): ", ".join(request.headers.getall(field)) for field in request.headers}
        delivery = self.hooks.begin(namespace, name, headers, request.remote)
        await _feed(request, delivery)
        received = await self.hooks.finish(delivery)
        body = {"action": received.action, "reason": received.reason, "deployment": received.deployment}
        return answer(body, status=200 if received.action == "none" else 202)

    @operation(
        "Make a new webhook secret",
        needs="write",
        answers={200: WebhookView},
        if_match=True,
        fails=(422,),
    )
    async def rotate(self, request: web.Request) -> web.Response:
        """The one before counts no more. Until the forge has used the new one, the branch is looked at as if there were
        no webhook."""
        namespace, name = self.access.target(request)
        query.parameters(request, {})
        read(NoBody, await query.json_body(request) if request.body_exists else {})
        secret = await self.hooks.rotate(namespace, name, request.headers.get("If-Match"))
        body = {"url": address(request, self.site, namespace, name), "secret": secret}
        return answer(body, headers={"Cache-Control": "no-store"})


def address(request: web.Request, site: Site, namespace: str, name: str) -> str:
    """Where forges tell of pushes: by the API's own host, else as this caller reached it."""
    api = site.api or f"{request.scheme}://{_reached(request)}"
    return f"{api}/hooks/git/{namespace}/{name}"


def _reached(request: web.Request) -> str:
    """The caller's `Host` if it is one, else the address of the socket."""
    named = request.headers.get("Host", "")
    if is_authority(named):
        return named
    host, port, *_ = request.get_extra_info("sockname", ("localhost", 80))  # a caller that has left has none
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _feed(request: web.Request, delivery: Delivery) -> None:
    """Raises Problem 400, 408, 413."""
    if request.content_length is not None and request.content_length > BODY_LIMIT:
        raise too_large()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for data in request.content.iter_any():
                delivery.feed(data)
    except TimeoutError:
        raise Problem(408, "The body did not come in time.", headers={"Connection": "close"}) from None
    except query.BROKEN as error:
        raise Problem(400, "The body could not be read.") from error
