"""The API as an aiohttp application: its paths, and what each does with a request.

A handler reads parameters, asks `control.auth`, calls what decides, and shows the result by `control.views`. Reads come
from the mirror, so that they work without the store; a write is in the mirror before it answers.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from activator.logs import Stream
from activator.logs.reader import Query
from activator.status import STATUSES
from control import names, query, remains, times
from control.auth import allow, authenticate, forbidden, reaches
from control.catalogue import Catalogue
from control.key_use import KeyUse
from control.keys import Keys
from control.ports import Logs, Objects
from control.problem import Problem, without_banner
from control.schemas import read_create, read_key
from control.services import Services, service_not_found
from control.site import Site
from control.views import etag, event_view, key_view, log_view, service_view
from state.ids import now_us
from state.models import ApiKey, Service
from state.store import EVENTS_KEPT, Store

_PAGE: Final = 100
_LINES: Final = 10_000
_log = logging.getLogger("wakegate.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Api:
    """The handlers and what they need. `metrics` gives the exposition's text; `ready` the reasons against readiness."""

    store: Store
    objects: Objects
    catalogue: Catalogue
    services: Services
    keys: Keys
    key_use: KeyUse
    logs: Logs
    site: Site
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    unready: Callable[[], Sequence[str]] = field(default=tuple)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=query.BODY_LIMIT)
        app.on_response_prepare.append(without_banner)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.exposition)
        app.router.add_get("/auth/v1/key", self.own_key)
        app.router.add_get("/auth/v1/keys", self.list_keys)
        app.router.add_post("/auth/v1/keys", self.create_key)
        app.router.add_delete("/auth/v1/keys/{name}", self.revoke_key)
        app.router.add_post("/auth/v1/seed/{namespace}/services", self.create)
        app.router.add_delete("/auth/v1/seed/{namespace}/services/{name}", self.delete)
        app.router.add_get("/{namespace}/services", self.list)
        app.router.add_get("/{namespace}/service/{name}", self.get)
        app.router.add_get("/{namespace}/service/{name}/logs", self.read_logs)
        app.router.add_get("/{namespace}/service/{name}/events", self.read_events)
        return app

    # Services

    async def list(self, request: web.Request) -> web.Response:
        namespace = self._allowed(request, "read")
        readers: dict[str, query.Reader] = {"status": query.one_of(*STATUSES), "page": query.whole(1)}
        readers |= {name: query.whole(1, _PAGE) for name in ("limit", "per_page")}
        given = query.parameters(request, readers)
        page, limit = given.get("page", 1), query.either(given, ("limit", "per_page"), 20)
        ids = self.catalogue.service_ids(namespace, given.get("status"))
        shown = self.catalogue.services(ids[(page - 1) * limit : page * limit])
        body = {"items": [self._shown(s) for s in shown], "page": page, "limit": limit, "total": len(ids)}
        return _json(body, headers=_links(request, page, limit, len(ids)))

    async def get(self, request: web.Request) -> web.Response:
        service = self._service(request)
        query.parameters(request, {})
        return _json(self._shown(service), headers={"ETag": etag(service)})

    async def create(self, request: web.Request) -> web.Response:
        namespace = self._allowed(request, "write")
        query.parameters(request, {})
        body = read_create(await query.json_body(request), self.site.platform)
        facts = await self.services.create(namespace, body)
        location = f"/{namespace}/service/{facts.service.name}"
        headers = {"Location": location, "ETag": etag(facts.service)}
        return _json(service_view(facts, self.site), status=201, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        namespace = self._allowed(request, "write")
        force = query.parameters(request, {"force": query.flag}).get("force", False)
        name, if_match = request.match_info["name"], request.headers.get("If-Match")
        if names.service_name_error(name):
            raise service_not_found(name)
        await self.services.delete(namespace, name, force=force, if_match=if_match)
        return web.Response(status=204)

    async def read_logs(self, request: web.Request) -> web.Response:
        service_id = self._service_id(request)
        counts = ("limit", "lines", "tail")
        readers: dict[str, query.Reader] = {name: query.whole(1, _LINES) for name in counts}
        readers |= {"since": times.parse, "until": times.parse, "cursor": query.whole(0)}
        readers |= {"replica": str, "deployment": str, "stream": query.one_of(*Stream)}
        given = query.parameters(request, readers)
        limit = query.either(given, counts, 100)
        since, cursor = given.get("since"), given.get("cursor")
        wanted = Query(
            # after a cursor come the lines that follow it, not the newest of all
            limit=limit if cursor is None else _LINES,
            since=max((at for at in (since, cursor) if at is not None), default=None),
            until=given.get("until"),
            replica=given.get("replica"),
            deployment=given.get("deployment"),
            stream=Stream(given["stream"]) if "stream" in given else None,
        )
        page = await self.logs.read(service_id, wanted)
        items = page.items[:limit]
        last = items[-1].time if items else page.next
        shown = [log_view(line) for line in items]
        return _json({"items": shown, "next": None if last is None else str(last), "truncated": page.truncated})

    async def read_events(self, request: web.Request) -> web.Response:
        service_id = self._service_id(request)
        limit = query.parameters(request, {"limit": query.whole(1, EVENTS_KEPT)}).get("limit", 100)
        events = await self.store.events(service_id, limit)
        return _json({"items": [event_view(event) for event in events]})

    # Keys

    async def own_key(self, request: web.Request) -> web.Response:
        """The key that asks, and those of its namespaces that have services."""
        key = self._caller(request)
        query.parameters(request, {})
        mine = (n for n in self.catalogue.inhabited() if key.namespace in (names.EVERY_NAMESPACE, n))
        return _json({**key_view(key), "namespaces": sorted(mine)})

    async def list_keys(self, request: web.Request) -> web.Response:
        caller = self._administrator(request)
        query.parameters(request, {})
        return _json({"items": [key_view(key) for key in self.keys.visible(caller)]})

    async def create_key(self, request: web.Request) -> web.Response:
        caller = self._administrator(request)
        query.parameters(request, {})
        body = read_key(await query.json_body(request), now_us())
        key, token = await self.keys.create(caller, body)
        headers = {"Location": f"/auth/v1/keys/{key.name}", "Cache-Control": "no-store"}
        return _json({**key_view(key), "key": token}, status=201, headers=headers)

    async def revoke_key(self, request: web.Request) -> web.Response:
        caller = self._administrator(request)
        namespace = query.parameters(request, {"namespace": str}).get("namespace")
        await self.keys.revoke(caller, request.match_info["name"], namespace)
        return web.Response(status=204)

    # Health

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive: this loop answers."""
        query.parameters(request, {})
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready: the API can read and write. Warnings don't count against it."""
        query.parameters(request, {})
        reasons, warnings = list(self.unready()), []
        if not self.site.isolated and len(self.catalogue.inhabited()) > 1:
            warnings.append("several namespaces run without isolation: only root can keep them apart")
        body = {"status": "unready" if reasons else "ready", "reasons": reasons, "warnings": warnings}
        return _json(body, status=503 if reasons else 200)

    async def exposition(self, request: web.Request) -> web.Response:
        """Metrics of all namespaces: from loopback without a key, else by one of every namespace."""
        if not _from_loopback(request):
            key = self._caller(request)
            if key.namespace != names.EVERY_NAMESPACE:
                raise forbidden()
        query.parameters(request, {})
        body, content_type = await self.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    # What they share

    def _allowed(self, request: web.Request, scope: str) -> str:
        """The namespace of the path, if the caller may do that there."""
        namespace = request.match_info["namespace"]
        allow(self._caller(request), namespace, scope, self.catalogue)
        return namespace

    def _caller(self, request: web.Request) -> ApiKey:
        """Raises Problem 401; 503 as long as no key can be known."""
        if not self.objects.run_id:
            raise Problem(503, "The store has not been read yet; try again.", headers={"Retry-After": "1"})
        key = authenticate(request, self.catalogue)
        self.key_use.note(key)
        return key

    def _administrator(self, request: web.Request) -> ApiKey:
        key = self._caller(request)
        if not reaches(key.scope, "admin"):
            raise forbidden()
        return key

    def _service(self, request: web.Request) -> Service:
        """The service of the path."""
        namespace, name = self._allowed(request, "read"), request.match_info["name"]
        service = self.catalogue.service(namespace, name)
        if service is None:
            raise service_not_found(name)
        return service

    def _service_id(self, request: web.Request) -> str:
        """The id of the service of the path, which may be named by the id of one that was deleted."""
        namespace, name = self._allowed(request, "read"), request.match_info["name"]
        service = self.catalogue.service(namespace, name)
        if service is not None:
            return service.id
        gone = remains.find(self.objects, name)
        if gone is None or gone.namespace != namespace:
            raise service_not_found(name)
        return name

    def _shown(self, service: Service) -> dict[str, Any]:
        return service_view(self.catalogue.facts(service), self.site)


def _json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def _links(request: web.Request, page: int, limit: int, total: int) -> dict[str, str]:
    """RFC 8288: where the other pages are."""
    last = max(1, -(-total // limit))
    pages = {"first": 1, "prev": min(page - 1, last), "next": page + 1, "last": last}
    kept = [(name, value) for name, value in request.query.items() if name not in ("page", "limit", "per_page")]

    def link(relation: str, number: int) -> str:
        target = urlencode([*kept, ("page", number), ("limit", limit)])
        return f'<{request.path}?{target}>; rel="{relation}"'

    known = [link(relation, number) for relation, number in pages.items() if 1 <= number <= last]
    return {"Link": ", ".join(known)}


def _from_loopback(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False
