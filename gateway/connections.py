"""How requests come to a connection to their replica: a kept one, a new one, or that of somebody who is done.

Laws kept here: new connections are paced (`pacing.py`), and who waits for one is served in order, bounded by what is in
flight; nothing that can't be sent twice goes over a used connection that the kernel doesn't call established.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.connector import EXHAUSTED, Connector
from gateway.errors import Failure
from gateway.exchange import Exchange
from gateway.pool import Pool
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from gateway.sides import Upstream
from gateway.states import HEAD, HOLD, step

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

_TURN: Final = 64  # requests turned away at one go
_LEFT: Final = 64  # clients who have left and are still in a queue, beside as many as are in flight


class Connections:
    """Of one worker."""

    __slots__ = ("_connector", "_office", "pool")

    def __init__(self, office: Dispatcher, settings: GatewaySettings) -> None:
        self._office = office
        self._connector = Connector(
            self, office, settings.connect_timeout, settings.connect_spacing, settings.connect_limit
        )
        self.pool = Pool(
            office.sweep, settings.upstream_idle_timeout, settings.upstream_idle_limit, settings.upstream_idle_total
        )

    def send(self, exchange: Exchange, replica: Replica, fresh: bool, now: float) -> None:
        """Over an idle connection, else over a new one. `fresh`: not over one that has been used."""
        up = None if fresh or exchange.raced else self.pool.take(replica, not exchange.request.idempotent, now)
        if up is not None:
            if exchange.held_bytes:
                self._office.holding.discharge(exchange)
            exchange.forwarded(up, now)
            return
        if exchange.state == HEAD:
            exchange.state = step(exchange.state, HOLD)
        exchange.connect_began = now
        if replica.pacing.may_connect():
            self._connect(exchange, replica)
        else:
            if len(replica.queue) > 2 * replica.in_flight + _LEFT:
                replica.queue = deque([waiting for waiting in replica.queue if not waiting.over])
            replica.queue.append(exchange)

    def _connect(self, exchange: Exchange, replica: Replica) -> None:
        replica.pacing.began()
        self._connector.connect(exchange, replica)

    # From the connector

    def connected(self, exchange: Exchange, replica: Replica, up: Upstream, now: float) -> None:
        """There is a new connection."""
        replica.reached(now)
        if exchange.over:
            self.idle(replica, up, 0, now)
        else:
            self._join(exchange, up, now)
        service = exchange.service
        if service is not None and len(service.room):
            self._office.holding.release(service, now)

    def settled(self, replica: Replica, up: Upstream) -> None:
        """The replica has accepted a connection, or has had the time to: others may follow. Counts once for each."""
        if up.settled:
            return
        up.settled = True
        pacing = replica.pacing
        pacing.settled()
        while pacing.may_connect():
            following = _first_waiting(replica)
            if following is None:
                return
            self._connect(following, replica)

    def unreached(self, exchange: Exchange, replica: Replica, failure: Failure) -> None:
        """No byte has left, so the request, and all behind it, may go anywhere else.

        Unless it is this machine that had no socket for the whole of the time-out: then the replica is not to blame,
        no other would do better, and the next in order may try.
        """
        now = time.monotonic()
        replica.pacing.failed()
        if failure.error == EXHAUSTED:
            if not exchange.over:
                exchange.answer(failure)
            following = _first_waiting(replica)
            if following is not None:
                self._connect(following, replica)
            return
        if replica.unreached(now) and replica.ready and exchange.service is not None:
            exchange.service.ejections += 1
        self._turn_away(exchange, replica, failure)

    def _turn_away(self, exchange: Exchange, replica: Replica, failure: Failure) -> None:
        """All behind it, the newest first, and then `exchange`: so they come back to the room in their order. Thousands
        in turns of the loop.
        """
        now = time.monotonic()
        for _ in range(_TURN):
            turned_away = replica.queue.pop() if replica.queue else exchange
            if not turned_away.over:
                self._office.turned_away(turned_away, replica, failure, now)
            if turned_away is exchange:
                return
        asyncio.get_running_loop().call_soon(self._turn_away, exchange, replica, failure)

    def exhausted(self, exchange: Exchange | None) -> None:
        """This machine has nothing left to connect with: idle connections make room.

        `exchange`: who finds that out for the first time, for the books.
        """
        if self.pool.size:
            self.pool.make_room()
        else:
            self._office.clients.make_room()
        if exchange is not None and exchange.service is not None:
            errors = exchange.service.errors
            errors[EXHAUSTED] = errors.get(EXHAUSTED, 0) + 1

    def _join(self, exchange: Exchange, up: Upstream, now: float) -> None:
        """A connection for an exchange that waited for one."""
        exchange.connect = now - exchange.connect_began
        if exchange.held_bytes:
            self._office.holding.discharge(exchange)
        exchange.forwarded(up, now)

    # From connections

    def idle(self, replica: Replica, up: Upstream, reuse_for: int, now: float) -> None:
        """A response is complete: its connection may carry another. `reuse_for`: as `Pool.give` says."""
        if replica.queue and not self._office.releases.take(1):
            self._office.releases.later(functools.partial(self._idle_later, replica, up, reuse_for))
            return
        following = _first_waiting(replica)
        if following is None:
            self.pool.give(replica, up, now, reuse_for)
        elif following.raced or not up.alive(not following.request.idempotent):
            replica.queue.appendleft(following)  # for a new one: those that are on the way make room for it
            self.pool.give(replica, up, now, reuse_for)
        else:
            up.reused_at = now
            self._join(following, up, now)

    def _idle_later(self, replica: Replica, up: Upstream, reuse_for: int) -> None:
        if up.alive(False):
            self.idle(replica, up, reuse_for, time.monotonic())

    def discard(self, replica: Replica, up: Upstream) -> None:
        """It has closed while idle, or must."""
        self.pool.discard(replica, up)

    def close(self) -> None:
        self._connector.close()


def _first_waiting(replica: Replica) -> Exchange | None:
    """Whoever has waited longest for a connection to `replica` and is still there; out of the queue."""
    while replica.queue:
        exchange = replica.queue.popleft()
        if not exchange.over:
            return exchange
    return None
