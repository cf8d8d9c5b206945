"""Server-sent events (HTML Living Standard, section 9.2): the wire, its limits and its ends.

Laws kept here: only so many streams of one key, of one namespace (429 beyond) and of the process (503) at once; who
does not take what he is sent is cut, and counted (law 7). A stream ends with what it follows, with its key, with its
client and with the process, within a moment; `Last-Event-ID` resumes any but the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from control.connection import Connection
from control.contract.problem import FieldError, Problem, bad_request
from control.limits.shares import Bounds, Shares
from control.streaming.following import LOOK, Feeds, Kept, Page
from control.streaming.sending import Sending
from state.models import ApiKey
from state.store import EVENTS, Store, StoreError

TYPE: Final = "text/event-stream"
BOUNDS: Final = Bounds(key=32, namespace=128, node=512)
HEARTBEAT: Final = 15.0  # seconds between signs of life
STALL: Final = 30.0  # seconds that a client may take for what fills his connection
_RETRY: Final = 2000  # milliseconds after which a browser comes back
_BREATH: Final = 0.02  # seconds between pages while there is more: one who catches up is not alone here
_LAST_WORDS: Final = 2.0  # seconds for what is told of a service that has just gone
_HEADERS: Final = {"Content-Type": TYPE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_BEAT: Final = b": still here\n\n"

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client follows: `key` names the thing, `kept` reads it, `filters` are his, `place` is where he is.

    `allowed`: whether he still may; `gone` says why there will be no more, None while there will.
    """

    key: Any
    kept: Kept
    filters: Any
    place: int
    allowed: Callable[[], bool]
    gone: Callable[[], str | None]


class Streams:
    """All streams of the process, and its answers that are as large. `close` ends the streams."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.feeds = Feeds()
        self.sending = Sending()
        self.places = Shares("streams", bounds, seconds=5)
        self.dropped = 0
        """Clients that did not take what they were sent."""
        self.keys_seen = 0
        """How often keys were revoked."""
        self._followers: set[asyncio.Event] = set()
        self._closed = False

    @property
    def count(self) -> int:
        return self.places.total

    def close(self) -> None:
        """Every stream ends at its next line; clients come back and find the next process."""
        self._closed = True
        for follower in self._followers:
            follower.set()

    def keys_revoked(self) -> None:
        """Every stream looks now whether its key is still good, not only at its next sign of life."""
        self.keys_seen += 1
        for follower in self._followers:
            follower.set()

    async def listen(self, store: Store) -> None:
        """Hear of new events, for ever: one subscription, however many follow however many services."""
        async for _, service in store.subscribe(EVENTS):
            self.feeds.tell(("events", service.decode("utf-8", "replace")))

    async def serve(self, request: web.Request, caller: ApiKey, wanted: Wanted) -> web.StreamResponse:
        """Send what is there and what comes until the end. Raises Problem 429, 503 before the first byte."""
        if self._closed:
            raise Problem(503, "This node stops.", headers={"Retry-After": "5"})
        with self.places.held(caller):
            response = web.StreamResponse(headers=_HEADERS)
            if request.method == "HEAD":
                return response
            try:
                await response.prepare(request)
                await _Stream(self, request, response).run(wanted)
            except ConnectionError:
                pass  # the client has left
            except TimeoutError:
                self.dropped += 1
                _cut(request)
            except Exception:
                _log.exception("a stream of %s", request.path)
                _cut(request)  # its head is out: nothing else can be told
            return response

    @property
    def closed(self) -> bool:
        return self._closed

    @contextlib.contextmanager
    def woken(self, follower: asyncio.Event) -> Iterator[None]:
        """The event is set when all streams end."""
        self._followers.add(follower)
        try:
            yield
        finally:
            self._followers.discard(follower)


_After = Callable[[int], Awaitable[Page]]


class _Stream:
    """One client."""

    def __init__(self, streams: Streams, request: web.Request, response: web.StreamResponse) -> None:
        self._streams = streams
        self._request = request
        self._response = response
        self._wake = asyncio.Event()
        self._wrote_at = 0.0

    async def run(self, wanted: Wanted) -> None:
        """Raises TimeoutError if the client takes nothing, ConnectionError if he has left."""
        protocol = self._request.protocol
        lost = protocol.watched(self._wake) if isinstance(protocol, Connection) else contextlib.nullcontext()
        feed = self._streams.feeds.follow(wanted.key, wanted.kept, self._wake)
        await self._write(b"retry: %d\n\n" % _RETRY)
        with lost, self._streams.woken(self._wake), feed as followed:
            await self._follow(wanted, lambda place: followed.after(place, wanted.filters))

    async def _follow(self, wanted: Wanted, after: _After) -> None:
        place, checked_at, ends_at, keys_seen = wanted.place, time.monotonic(), None, -1
        while not self._streams.closed and not self._left():
            self._wake.clear()
            now = time.monotonic()
            if now - checked_at >= HEARTBEAT or keys_seen != self._streams.keys_seen:
                checked_at, keys_seen = now, self._streams.keys_seen
                if not wanted.allowed():
                    return
            page = await _read(after, place)
            if page is not None:
                await self._send(page)
                place = page.place
                if page.more:
                    await asyncio.sleep(_BREATH)
                    continue
            reason = wanted.gone()
            if reason is not None and ends_at is None:
                ends_at = now + _LAST_WORDS
            if reason is not None and ends_at is not None and now >= ends_at:
                await self._write(_event("end", {"reason": reason}))
                return
            await self._pause(ends_at)

    async def _pause(self, ends_at: float | None) -> None:
        """Until there may be more, somebody left, or it is time to look."""
        patience = LOOK if ends_at is None else max(0.0, ends_at - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._wake.wait()
        if time.monotonic() - self._wrote_at >= HEARTBEAT:
            await self._write(_BEAT)

    async def _send(self, page: Page) -> None:
        parts = [_event("gap", {"reason": "what came before this is not kept any more"})] if page.gap else []
        parts += [b"id: %d\ndata: %b\n\n" % (entry.place, entry.data) for entry in page.entries]
        if parts:
            await self._write(b"".join(parts))

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(STALL):
            await self._response.write(data)
        self._wrote_at = time.monotonic()

    def _left(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _read(after: _After, place: int) -> Page | None:
    """None while the store can't be reached: a stream waits for it as it waits for news."""
    try:
        return await after(place)
    except StoreError:
        return None


def _event(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def last_event_id(request: web.Request) -> int | None:
    """Where a client that was cut off had got to. Raises Problem 400."""
    text = request.headers.get("Last-Event-ID")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise bad_request([FieldError("Last-Event-ID", "must be an id of this stream")])
    return int(text)
