"""The lines of a service's replicas and builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from activator.logs import Stream
from activator.logs.reader import Query
from control import query
from control.access import Access
from control.answers import answer
from control.operations import operation
from control.ports import Logs
from control.shapes import LogPage
from control.views import log_view

_LINES: Final = 10_000
_COUNTS: Final = ("limit", "lines", "tail")
_READ: Final[Mapping[str, query.Reader]] = {
    **{name: query.whole(1, _LINES) for name in _COUNTS},
    "since": query.timestamp,
    "until": query.timestamp,
    "cursor": query.whole(0),
    "replica": query.text,
    "deployment": query.text,
    "stream": query.one_of(*Stream),
}


@dataclass(frozen=True, slots=True)
class LogHandlers:
    access: Access
    logs: Logs

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/logs", self.read)]

    @operation("Read logs", needs="read", query=_READ, answers={200: LogPage})
    async def read(self, request: web.Request) -> web.Response:
        """Lines of a service's replicas and builds, present and gone: the newest `limit` that match, oldest first."""
        service_id = self.access.service_id(request)
        given = query.parameters(request, _READ)
        limit = query.either(given, _COUNTS, 100)
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
        return answer({"items": shown, "next": None if last is None else str(last), "truncated": page.truncated})
