"""The lines of a service's replicas and builds: pages of them, and a stream of what comes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web

from activator.logs import LogLine, LogPage, Query, Stream
from control.contract import query, shapes
from control.contract.operations import operation
from control.contract.problem import FieldError, unprocessable
from control.contract.views import log_view
from control.credentials.access import Access
from control.ports import Logs
from control.services.catalogue import Catalogue
from control.streaming import following
from control.streaming.following import Entry, Page
from control.streaming.streams import Streams, Wanted, last_event_id

_LINES: Final = 10_000
_PAGES_AT_ONCE: Final = 4  # in memory as lines, before they are bytes
_COUNTS: Final = ("limit", "lines", "tail")
_READ: Final[Mapping[str, query.Reader]] = {
    **{name: query.whole(1, _LINES) for name in _COUNTS},
    "since": query.timestamp,
    "until": query.timestamp,
    "replica": query.text,
    "deployment": query.text,
    "stream": query.one_of(*Stream),
    "cursor": query.whole(0),
    "follow": query.flag,
}
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class LogHandlers:
    access: Access
    catalogue: Catalogue
    logs: Logs
    streams: Streams
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PAGES_AT_ONCE))

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/logs", self.read)]

    @operation(
        "Read logs", needs="read", query=_READ, answers={200: shapes.LogPage}, streams=shapes.LogView, fails=(422,)
    )
    async def read(self, request: web.Request) -> web.StreamResponse:
        """Lines of a service's replicas and builds, present and gone: the newest `limit` that match, oldest first.

        `limit` is also called `lines` and `tail`. `since` is strictly after, `until` up to and including. With
        `cursor`, the `next` of a page before, come the lines that follow that page. A page of very long lines may
        have fewer than `limit`: 8 MiB of text at most, as it is in JSON.

        With `follow=true` the answer is a stream of server-sent events: these lines, then each new one as it is
        written. `Last-Event-ID` resumes it without a gap or a double.
        """
        service_id = self.access.service_id(request)
        given = query.parameters(request, _READ, same=(_COUNTS,))
        wanted = _query(given)
        last_id = last_event_id(request)
        if given.get("follow"):
            return await self._follow(request, service_id, last_id, wanted, given)
        async with self.reading:
            page = await self.logs.read(service_id, wanted)
            body = await asyncio.to_thread(_rendered, page)
        return await self.streams.sending.json(request, self.access.caller(request), body)

    async def _follow(
        self, request: web.Request, service_id: str, last_id: int | None, wanted: Query, given: Mapping[str, Any]
    ) -> web.StreamResponse:
        if "until" in given:
            raise unprocessable([FieldError("until", "a stream has no end: not with follow")])
        place = given.get("cursor") if last_id is None else last_id
        if place is None:
            place = await self._before(service_id, wanted)
        follow = Wanted(
            key=("logs", service_id),
            kept=_KeptLog(self.logs, service_id),
            filters=wanted,
            place=max(place, given.get("since", 0)),
            allowed=lambda: self.access.valid(request),
            gone=lambda: None if self.catalogue.service_by_id(service_id) else "the service was deleted",
        )
        return await self.streams.serve(request, self.access.caller(request), follow)

    async def _before(self, service_id: str, wanted: Query) -> int:
        """The place just before a page, which is let go of at once: a stream lasts, and reads it piece by piece."""
        async with self.reading:
            page = await self.logs.read(service_id, wanted)
        return page.items[0].time - 1 if page.items else page.next


def _query(given: Mapping[str, Any]) -> Query:
    """After a cursor come the lines that follow it, not the newest of all."""
    since, cursor = given.get("since"), given.get("cursor")
    return Query(
        limit=query.either(given, _COUNTS, 100),
        since=max((at for at in (since, cursor) if at is not None), default=None),
        until=given.get("until"),
        replica=given.get("replica"),
        deployment=given.get("deployment"),
        stream=Stream(given["stream"]) if "stream" in given else None,
        forward=cursor is not None,
    )


def _rendered(page: LogPage) -> bytes:
    """The page as JSON, line by line, of which there is no second copy: in a thread, which lets the loop have its turn
    between two of them."""
    body = io.BytesIO()
    body.write(b'{"items":[')
    for number, line in enumerate(page.items):
        if number:
            body.write(b",")
        body.write(_encode(log_view(line)).encode())
    truncated = "true" if page.truncated else "false"
    body.write(f'],"next":"{page.next}","truncated":{truncated}}}'.encode())
    return body.getvalue()


@dataclass(frozen=True, slots=True)
class _KeptLog:
    """A service's log, for those who follow it: the time of a line is its place."""

    logs: Logs
    service_id: str

    async def newest(self) -> int:
        return (await self.logs.read(self.service_id, Query(limit=1))).next

    async def after(self, place: int, wanted: Any) -> Page:
        filters = wanted if isinstance(wanted, Query) else Query()
        behind = replace(filters, limit=following.BATCH, since=place, until=None, forward=True, room=following.ROOM)
        page = await self.logs.read(self.service_id, behind)
        entries = [Entry(line.time, line, _encode(log_view(line)).encode()) for line in page.items]
        return Page(entries, page.next, page.truncated, page.more)

    def passes(self, value: LogLine, wanted: Any) -> bool:
        return not isinstance(wanted, Query) or wanted.matches(value)

    @contextlib.contextmanager
    def watched(self, told: Callable[[], None]) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def from_a_thread() -> None:
            loop.call_soon_threadsafe(told)

        with self.logs.watching(self.service_id, from_a_thread):
            yield
