"""What the client of a held request gets to see meanwhile, for services that want it so (`scaling`).

Laws kept here: a request that is held stays where it is in the queue, whatever its client is told; a client that could
misunderstand is told nothing (HTTP/1.0, upgrades); nobody is told anything before a wake has had time to be over.

- `waiting_page`: a browser that opens a page of a sleeping service gets one that asks again (`waiting_page.py`). That
  gives its place up, because its next request takes another; one that repeats it waits longer, as its page is shown.
- `hold_keepalive`: bytes from time to time, so that neither the client nor what is in between gives up. Who reads
  server-sent events gets comments (`events.py`); others get `100 Continue`, which says what is meant, "received, and
  not yet rejected" (RFC 9110 15.2.1), and which every client must skip, while some take 102 for an answer. Who waits
  for 100 to send his body gets 102 (RFC 2518 10.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import Waiting
from gateway.events import accepted
from gateway.exchange import Exchange
from gateway.messages import Request, Response
from gateway.service import Service
from gateway.waiting_page import navigates, repeats

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

SILENT: Final = 0
PAGE: Final = 1
EVENTS: Final = 2
INTERIM: Final = 3

_REFRESH: Final = 1  # seconds until the page asks again; meanwhile nobody is held
_BUSY: Final = 1.0  # seconds, at least, between two looks at a browser that busy replicas keep waiting


def manner(request: Request, keepalive: bool, page: bool) -> int:
    """How the client of a held request is treated. `keepalive`, `page`: what the service wants."""
    if page and navigates(request):
        return PAGE
    if not keepalive or request.upgrade:
        return SILENT
    if accepted(request):
        return EVENTS
    return SILENT if request.old else INTERIM


class Patience:
    """Of one worker. Times in seconds (monotonic)."""

    __slots__ = ("_office",)

    def __init__(self, office: Dispatcher) -> None:
        self._office = office

    def held(self, exchange: Exchange, service: Service, now: float) -> None:
        """It is in the room now: note when its client is to be told something."""
        if not service.keepalive and not service.waiting_page:
            return
        how = manner(exchange.request, service.keepalive, service.waiting_page)
        settings = self._office.settings
        if how == PAGE:
            wait = settings.waiting_page_again if repeats(exchange.request) else settings.waiting_page_after
            exchange.down.due(max(now, exchange.held_since + wait))
        elif how != SILENT:
            exchange.down.due(now + settings.hold_keepalive_every)

    def look(self, exchange: Exchange, now: float) -> None:
        """That moment has come. Who has been sent to a replica meanwhile is not in the room any more."""
        service = exchange.service
        if service is None or exchange not in service.room:
            return
        how = manner(exchange.request, service.keepalive, service.waiting_page)
        if how == PAGE:
            self._show_page(exchange, service, now)
            return
        if how == EVENTS:
            exchange.keep_stream()
        elif how == INTERIM:
            exchange.keep_waiting(_interim(exchange.request))
        self.held(exchange, service, now)

    def _show_page(self, exchange: Exchange, service: Service, now: float) -> None:
        """Unless it waits for replicas that are there, and busy."""
        if service.ready:
            exchange.down.due(now + max(_BUSY, self._office.settings.waiting_page_after))
            return
        self._office.holding.leave(exchange)
        exchange.answer(Waiting("starting", _REFRESH, False))


def _interim(request: Request) -> Response:
    return Response(102, b"Processing") if request.expects_continue else Response(100, b"Continue")
