"""A connection of the API, as far as requests go that never reach the router: HTTP itself is broken, or too long.

Laws kept here: such an answer is a problem document as any other, it repeats nothing of the request, and the connection
ends with it (RFC 9112 section 2.2: what follows can't be told from the broken part). Who does not take an answer within
a while is cut (law 7), as are those who follow, and those of large answers, where these are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong
from aiohttp.web_protocol import RequestHandler

from control.contract.problem import Problem, ProblemResponse, new_request_id

TARGET_LIMIT: Final = 8192  # bytes
FIELD_LIMIT: Final = 8190  # bytes of one field; the parser tells by its limit which of the two was exceeded
FIELDS: Final = 100
STALL: Final = 30.0  # seconds that a client may take for an answer, or the end of one
_TOO_MANY: Final = "Too many headers"  # what the parser says; it has no type of its own
_HARMLESS: Final = re.compile(r"(Missing|Duplicate) '[A-Za-z-]+' header [a-z ]+\.")  # names fields that it knows
_UNKNOWN: Final = 500  # the status that the connection gives to what is no fault of the client
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ (/[^ ?#]*)[^ ]* HTTP/1\.[01]")

_log = logging.getLogger("wakegate.api")


class Connection(RequestHandler):
    """`on_cut` is called when a client took no answer; `settings` are those of aiohttp's connection."""

    __slots__ = ("_on_cut", "_router", "_start", "_watchers")

    def __init__(
        self, server: web.Server, router: web.UrlDispatcher, on_cut: Callable[[], None], **settings: Any
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            max_line_size=TARGET_LIMIT,
            max_field_size=FIELD_LIMIT,
            max_headers=FIELDS,
            **settings,
        )
        self._on_cut = on_cut
        self._router = router
        self._watchers: set[asyncio.Event] = set()
        self._start = b""  # of what came last: the request line, unless requests were sent ahead of answers

    @contextlib.contextmanager
    def watched(self, lost: asyncio.Event) -> Iterator[None]:
        """The event is set once the connection is lost."""
        self._watchers.add(lost)
        try:
            yield
        finally:
            self._watchers.discard(lost)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        for watcher in self._watchers:
            watcher.set()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what a handler gave; in time, or the connection is cut."""
        deadline = asyncio.get_running_loop().call_later(STALL, self._cut)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            deadline.cancel()

    def _cut(self) -> None:
        if self.transport is not None:
            self._on_cut()
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if data:
            self._start = bytes(data[:TARGET_LIMIT]).partition(b"\r\n")[0]
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = _UNKNOWN,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp answers by itself. Raises ConnectionError if an answer has begun."""
        request_id = new_request_id()
        if status == _UNKNOWN:
            _log.error("request %s failed below its handler", request_id, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: another can't follow")
        response = ProblemResponse(self._refusal(status, exc), request_id)
        response.force_close()
        return response

    def _refusal(self, status: int, error: BaseException | None) -> Problem:
        match error:
            case LineTooLong(args=(_, limit, *_)) if limit == TARGET_LIMIT:
                return Problem(414, f"The target of a request may have {TARGET_LIMIT} bytes.")
            case LineTooLong():
                return Problem(431, f"A header field may have {FIELD_LIMIT} bytes.")
            case BadHttpMessage(message=text) if text.startswith(_TOO_MANY):
                return Problem(431, f"A request may have {FIELDS} header fields.")
            case BadHttpMethod() if allowed := self._allowed():
                allow = ", ".join(allowed)
                return Problem(405, f"This method is not allowed here; {allow} is.", headers={"Allow": allow})
            case BadHttpMessage(message=text):
                why = text if _HARMLESS.fullmatch(text) else "This is no valid request of HTTP/1.1."
                return Problem(400, why)
            case _:
                return Problem(status, "Something went wrong on our side; the request id finds it in the log.")

    def _allowed(self) -> Sequence[str]:
        """The methods of the path that the request line names."""
        line = _REQUEST_LINE.fullmatch(self._start)
        if line is None:
            return []
        path = line[1].decode("ascii", "replace")
        found = (resource for resource in self._router.resources() if _pattern(resource.canonical).fullmatch(path))
        return sorted({route.method for resource in found for route in resource})


def _pattern(canonical: str) -> re.Pattern[str]:
    """`/{namespace}/services`, as the router shows its paths."""
    return re.compile("[^/]+".join(map(re.escape, re.split(r"\{\w+\}", canonical))))
