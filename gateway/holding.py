"""Requests that wait for a replica: who is admitted, released, refused, and who has waited too long.

Laws kept here: requests of a service are sent in the order in which they came to be held; as many are let go as there
is room for; everything held is bounded, in number (`activator/room.py`) and in bytes. Thousands are let go, refused or
timed out in turns of the loop (`turns.py`), of all services together so many in each, the services one after the other:
nobody else's request waits for all of them. As only so many are sent in a turn, only so many are answered in the next.

A request that finds no replica it could be sent to is held, whether the service sleeps, starts, is full, or its only
replica has just crashed: then control replaces the replica, and a connect that was refused has cost nothing. While a
replica refuses, one held request at a time tries it again, with a backoff of 0.25 s doubling to 4 s.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.balance import free
from gateway.errors import Failure, Waiting, deleted, stopping
from gateway.exchange import Exchange
from gateway.histogram import count
from gateway.service import Service
from gateway.sides import Downstream
from gateway.starts import Start
from gateway.states import HEAD, HELD, HOLD, step
from gateway.table import plain_host
from state.ids import now_us

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

_WAKE_EVERY = 0.1  # seconds, per service


class Demand(Protocol):
    """What the data plane tells the world outside. All are called on the loop and must not block or raise."""

    def wake(self, service_id: str) -> None:
        """A request is held and no ready replica is known; at most once per service per 100 ms."""

    def changed(self, service_id: str) -> None:
        """The in-flight count of a replica that is draining or gone fell to zero: report now."""

    def answered(self, replica_id: str, first_byte: int) -> None:
        """The first who was held for the start of a replica has a byte, so many microseconds after it was ready."""


class Slots(Protocol):
    """Who knows which slots this worker owns: `gateway.slots.WorkerSlots`. On the loop; must not block or raise."""

    def look(self, service: Service, now: float) -> None:
        """Something of a service with `concurrency` has changed. It may own less when this returns."""

    def touch(self, service: Service, now: float) -> None:
        """The same if no more has changed than who waits and what is in flight."""

    def counters(self) -> dict[str, int]: ...


class Holding:
    """Of one worker. `limit`: bytes beyond the heads of all held requests together.

    A namespace may hold as many as are still free: one alone half of all, two a third each, and there is always room
    for one more (dynamic thresholds, Choudhury and Hahne 1998). So none can take the hold of the others.
    """

    __slots__ = (
        "_demand",
        "_limit",
        "_office",
        "_shares",
        "_slots",
        "_stopping",
        "_turning",
        "_turns",
        "bytes",
        "services",
    )

    def __init__(self, office: Dispatcher, demand: Demand, limit: int, slots: Slots | None) -> None:
        self._office = office
        self._demand = demand
        self._limit = limit
        self._slots = slots
        self.services: dict[str, Service] = {}  # those with somebody in the room
        self.bytes = 0
        self._shares: dict[str, int] = {}  # bytes by namespace; zeros left out
        self._turns = office.releases
        self._turning: set[Service] = set()  # those with another turn of the loop to come
        self._stopping = False  # nobody is sent any more

    def hold(self, exchange: Exchange, service: Service, now: float) -> None:
        """Have it wait, or answer at once if that is in vain or there is no room."""
        if service.deleted:
            exchange.answer(deleted())
            return
        if service.refusing and not service.ready:
            exchange.answer(_refusal(service))
            return
        if exchange.state == HEAD:
            exchange.state = step(exchange.state, HOLD)
        if exchange.held_since:
            admitted = service.room.readmit(exchange, exchange.held_since)
        else:
            exchange.held_since = now
            room = service.room
            admitted = room.readmit(exchange, room.first(now)) if exchange.retries else room.admit(exchange, now)
        if not admitted:
            exchange.held_since = 0.0
            exchange.answer(Failure(503, "destination_unavailable", "too many requests are waiting", 1))
            return
        self.services[service.id] = service
        self._office.patience.held(exchange, service, now)
        if not service.ready:
            self._wake(service, now)
        self._touch(service, now)

    def look(self, service: Service, now: float) -> None:
        """Something that its slots depend on has changed."""
        if self._slots is not None and service.owned is not None and (service.concurrency or service.owned):
            self._slots.look(service, now)

    def _touch(self, service: Service, now: float) -> None:
        """Who waits for its slots, or uses them, has changed."""
        if self._slots is not None and service.owned is not None and (service.concurrency or service.owned):
            self._slots.touch(service, now)

    def _wake(self, service: Service, now: float) -> None:
        if now - service.woken_at >= _WAKE_EVERY:
            service.woken_at = now
            self._demand.wake(service.id)

    def settle(self, service: Service, now: float) -> None:
        """After a change: whoever is held goes, is told that it is in vain, or waits on."""
        self.look(service, now)
        if len(service.room) == 0:
            return
        if service.deleted or (service.refusing and not service.ready):
            self._refuse(service, now)
        else:
            self.release(service, now)

    def release(self, service: Service, now: float) -> None:
        """Send as many held requests as there is capacity for, oldest first; of many the first now."""
        if self._stopping:
            return
        self._touch(service, now)
        able = free(service.ready, now, len(service.room))
        granted = self._turns.take(able)
        sent = 0
        going = service.room.release(granted)
        for exchange in going:
            replica = self._office.pick(exchange, service, now)
            if replica is None:  # then there is none for those behind it
                break
            self._unheld(exchange, service, now)
            self._office.send(exchange, service, replica)
            sent += 1
        for exchange in reversed(going[sent:]):
            service.room.readmit(exchange, exchange.held_since)
        self._turned(service, sent == granted < able)

    def _refuse(self, service: Service, now: float) -> None:
        """The service will not become ready: tell everybody who waits."""
        for exchange in service.room.release(self._turns.take(len(service.room))):
            self._unheld(exchange, service, now)
            exchange.answer(deleted() if service.deleted else _refusal(service))
        self._turned(service, True)

    def _turned(self, service: Service, more: bool) -> None:
        """Some have left the room. `more`: others could, in another turn."""
        if not len(service.room):
            self.services.pop(service.id, None)
            self._touch(service, time.monotonic())
        elif more and service not in self._turning:
            self._turning.add(service)
            self._turns.later(functools.partial(self._turn, service))

    def _turn(self, service: Service) -> None:
        self._turning.discard(service)
        now = time.monotonic()
        self._expire(service, now)
        self.settle(service, now)

    def refuse_host(self, service: Service, host: bytes, failure: Failure) -> None:
        """This one of the service's hosts leads there no more."""
        self._refuse_these(service, [one for one in service.room if plain_host(one.request.host) == host], failure)

    def _refuse_these(self, service: Service, some: Sequence[Exchange], failure: Failure) -> None:
        now = time.monotonic()
        granted = self._turns.take(len(some))
        for exchange in some[:granted]:
            if service.room.cancel(exchange):
                self._unheld(exchange, service, now)
                exchange.answer(failure)
        if granted < len(some):
            self._turns.later(functools.partial(self._refuse_these, service, some[granted:], failure))

    def dismiss(self, clients: Sequence[Downstream]) -> None:
        """The worker ends: from now on none of those who are held goes to a replica. `clients`, all who wait for one,
        are told so.
        """
        self._stopping = True
        granted = self._turns.take(len(clients))
        for down in clients[:granted]:
            down.dismiss(stopping())
        if granted < len(clients):
            self._turns.later(functools.partial(self.dismiss, clients[granted:]))

    def leave(self, exchange: Exchange) -> None:
        service = exchange.service
        if service is not None and service.room.cancel(exchange):
            now = time.monotonic()
            self._unheld(exchange, service, now)
            self._turned(service, False)

    def charge(self, exchange: Exchange, size: int) -> None:
        """Bytes of a held request's body are kept."""
        if (exchange.state & ~7) != HELD:
            return
        namespace = exchange.service.namespace if exchange.service is not None else ""
        share = self._shares.get(namespace, 0) + size
        self._shares[namespace] = share
        exchange.held_bytes += size
        self.bytes += size
        if share > self._limit - self.bytes:
            self.leave(exchange)
            exchange.answer(Failure(503, "destination_unavailable", "too many bytes are waiting", 1))

    def tend(self, now: float) -> None:
        """From the sweep: who has waited too long, whom a replica's backoff lets go."""
        for service in list(self.services.values()):
            self._expire(service, now)
            self.release(service, now)

    def _expire(self, service: Service, now: float) -> None:
        most = self._turns.left
        out = service.room.expired(now, most)
        self._turns.take(len(out))
        for exchange in out:
            self._unheld(exchange, service, now)
            exchange.answer(_too_late(service))
        self._turned(service, len(out) == most)

    def _unheld(self, exchange: Exchange, service: Service, now: float) -> None:
        waited = now - exchange.held_since
        exchange.hold = waited
        count(service.hold, waited)
        service.hold_sum += waited

    def timing(self, exchange: Exchange) -> bytes:
        """Server Timing 3, of an exchange that was held: for how long, and how its replica started meanwhile."""
        wake = b"wake;dur=%d" % int(exchange.hold * 1000)
        start = None if exchange.promised else self.answered(exchange)
        return wake if start is None else wake + start.phases

    def answered(self, exchange: Exchange) -> Start | None:
        """The first byte of the replica's answer is about to leave: the start that was held for, if it was for one."""
        replica = exchange.replica
        start = None if replica is None or exchange.error is not None else replica.start
        if start is None or replica is None or exchange.held_since >= start.since or not exchange.held_since:
            return None  # it waited for something else
        if start.answer(now_us()):
            self._demand.answered(replica.id, start.first_byte)
        return start

    def discharge(self, exchange: Exchange) -> None:
        """They have gone to a replica, or nowhere."""
        namespace = exchange.service.namespace if exchange.service is not None else ""
        share = self._shares.pop(namespace, 0) - exchange.held_bytes
        if share > 0:
            self._shares[namespace] = share
        self.bytes -= exchange.held_bytes
        exchange.held_bytes = 0


def _too_late(service: Service) -> Failure:
    details = "no replica was ready within the hold timeout"
    if service.ready and service.concurrency:
        some = "1 request" if service.concurrency == 1 else f"{service.concurrency} requests"
        details = f"no replica had a slot within the hold timeout: each takes {some} at once"
    return Failure(504, "connection_timeout", details)


def _refusal(service: Service) -> Failure:
    if service.waiting_page:
        return Waiting(service.reason, max(1, service.retry_after), True)
    return Failure(503, "destination_unavailable", service.reason, max(1, service.retry_after))
