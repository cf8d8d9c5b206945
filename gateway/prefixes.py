"""Affinity by prefix (`scaling.affinity: "prefix"`): the beginnings of prompts, and the replicas they prefer.

Laws kept here: a body is waited for only if there is a choice, until its prompt's beginning has come (`prompts.py`),
and half a second at most, in which no replica could have answered; a body that comes in small pieces is not read anew
with each; whoever has no key is balanced as ever.
"""

from __future__ import annotations

from typing import Final

from gateway.exchange import Exchange
from gateway.prompts import BOUND, Incomplete, asks, key
from gateway.rendezvous import prefer
from gateway.replica import Replica
from gateway.service import Service

_PATIENCE: Final = 0.25  # seconds; the sweep adds as much
_NEVER: Final = 1 << 60  # more than any body: not to be looked at again


class Prefixes:
    """Of one worker."""

    __slots__ = ()

    def wait(self, exchange: Exchange, service: Service, now: float) -> bool:
        """A request has come. Whether it must wait for its body to be placed well."""
        if not asks(exchange.request):
            exchange.looked = _NEVER
            return False
        if len(service.ready) < 2 or len(service.room):
            return False  # no choice yet: it is looked at again when it is sent
        if self._look(exchange):
            return False
        exchange.down.due(now + _PATIENCE)
        return True

    def known(self, exchange: Exchange, size: int) -> bool:
        """`size` bytes of its body have come, as they were sent: is that enough?"""
        length = exchange.request.length
        worth = size >= 2 * exchange.looked or size >= length >= 0 or size >= BOUND
        return worth and self._look(exchange)

    def prefer(self, exchange: Exchange, service: Service) -> Replica | None:
        """The replica for it; None: as ever."""
        if len(service.ready) < 2:
            return None
        if exchange.looked != _NEVER:
            self._look(exchange)
        return prefer(service.ready, exchange.key) if exchange.key else None

    def _look(self, exchange: Exchange) -> bool:
        """Look for the key. Whether that is settled."""
        body, whole = exchange.down.early_body(exchange, BOUND)
        exchange.looked = max(1, len(body))
        try:
            exchange.key = key(body, whole)
        except Incomplete:
            return False
        exchange.looked = _NEVER
        return True
