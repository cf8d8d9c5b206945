"""Where requests go: route, pick, retry; and the books of it, kept when they are over.

Laws kept here: a pick counts as in flight until the exchange is over, whatever becomes of it; a request is sent again
only if nothing was consumed that can't be replayed, and only within the service's budget of retries. Who can't be sent
is held (`holding.py`); over which connection it is sent is decided in `connections.py`.
"""

from __future__ import annotations

import random
import time
from typing import Final

from gateway import affinity
from gateway.access_log import AccessLog
from gateway.api_host import ApiHost
from gateway.balance import DICE, choose, fits, may_eject, pick
from gateway.challenges import Challenges
from gateway.clients import Clients
from gateway.connections import Connections
from gateway.errors import Failure, Redirect, StaleConnection, unknown
from gateway.exchange import Exchange, Limits
from gateway.health import GOOD
from gateway.histogram import count
from gateway.holding import Demand, Holding, Slots
from gateway.patience import Patience
from gateway.prefixes import Prefixes
from gateway.refused import Refused
from gateway.replica import Replica
from gateway.secure import Moves, Redirects, hsts_line, turn_away
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.sides import Keeper
from gateway.states import CUT, DONE, HEAD, HOLD, RETRY, step
from gateway.sweep import Sweep
from gateway.table import Moved, Special, Table, Unserved
from gateway.telemetry import Telemetry
from gateway.turns import Turns

_ARRIVALS: Final = 256  # request heads before others get their turn on the loop: some milliseconds
_DEPARTURES: Final = 64  # clients' connections closed by them, the same; no head waits behind these
_RELEASES: Final = 32  # held requests sent or answered in one turn of it


class Dispatcher(Keeper):
    """One per worker; every connection holds a reference to it."""

    __slots__ = (
        "_demand",
        "_log",
        "_nobody",
        "_table",
        "_telemetry",
        "arrivals",
        "challenges",
        "clients",
        "connections",
        "departures",
        "holding",
        "hsts",
        "limits",
        "moves",
        "patience",
        "prefixes",
        "redirects",
        "releases",
        "settings",
        "sweep",
        "via",
        "via_line",
        "via_old_line",
        "via_old_response",
        "via_response",
    )

    def __init__(
        self,
        settings: GatewaySettings,
        table: Table,
        access_log: AccessLog,
        demand: Demand,
        sweep: Sweep,
        telemetry: Telemetry | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.settings = settings
        self.sweep = sweep
        self._table = table
        self._log = access_log
        self._telemetry = telemetry
        self._demand = demand
        self._nobody = Service("", 0, 0.0)  # the books of requests that reached no service
        self.limits = Limits(
            settings.response_timeout,
            settings.body_timeout,
            settings.tunnel_timeout,
            settings.half_closed_timeout,
            settings.body_rate,
            -1 if settings.max_body is None else settings.max_body,
        )
        self.via = settings.via.encode("ascii")
        self.via_line = b"\r\nVia: 1.1 " + self.via + b"\r\nX-Request-Id: "
        self.via_response = self.via_line[2:]  # there every piece ends its line
        self.via_old_line = b"\r\nVia: 1.0 " + self.via + b"\r\nX-Request-Id: "
        self.via_old_response = self.via_old_line[2:]
        self.hsts = hsts_line(settings.hsts)
        self.challenges = Challenges()
        self.moves = Moves(settings, None)
        self.redirects: Redirects | None = None  # where plain requests should come over https
        self.clients = Clients(
            settings.connection_limit, settings.trusted_proxies, settings.address_limit, settings.shed_age
        )
        self.arrivals = Turns(_ARRIVALS)
        self.departures = Turns(_DEPARTURES)
        self.releases = Turns(_RELEASES)
        self.holding = Holding(self, demand, settings.hold_bytes, slots)
        self.patience = Patience(self)
        self.prefixes = Prefixes()
        self.connections = Connections(self, settings)

    # Requests

    def begin(self, exchange: Exchange) -> None:
        """A head has been read. Send it, hold it or answer it."""
        request = exchange.request
        random_hex = b"%048x" % random.getrandbits(192)
        if not request.request_id:
            request.request_id = random_hex[:32]
        remote = request.trace
        if not remote:
            request.trace = b"00-" + random_hex[:32] + b"-" + random_hex[32:] + b"-01"
        if self._telemetry is not None:
            self._telemetry.begin(request, remote != b"")
        if self.challenges.http and self._proves(exchange):
            return
        if (exchange.down.secure or self.redirects is not None) and turn_away(exchange, self.redirects, self._table):
            return
        service = self._table.find(request.host) if request.host else None
        if not isinstance(service, Service):
            self._without_service(exchange, service)
            return
        exchange.service = service
        if request.max_forwards == 0:
            exchange.turn_back()
        elif self.limits.max_body >= 0 and request.length > self.limits.max_body:
            exchange.answer(Failure(413, "http_request_error", "request body too large"))
        else:
            self._send(exchange, service)

    def _without_service(self, exchange: Exchange, host: Special | None) -> None:
        if isinstance(host, Unserved):
            exchange.answer(host.failure)
        elif isinstance(host, ApiHost):
            self._call(exchange, host)
        elif isinstance(host, Moved):
            location = self.moves.location(exchange, host.target)
            exchange.answer(Redirect(location, f"the host leads to {host.target.decode('ascii')}"))
        else:
            exchange.answer(unknown())

    def _call(self, exchange: Exchange, api: ApiHost) -> None:
        """A request to the API."""
        refusal, service = api.refusal(exchange), api.service
        if refusal is not None:
            exchange.answer(refusal)
        elif exchange.request.max_forwards == 0:
            exchange.turn_back()
        elif service is not None:
            exchange.service = service
            api.introduce(exchange)
            self._send(exchange, service)

    def _proves(self, exchange: Exchange) -> bool:
        """Whether this is a certificate authority that looks at the host: then it has its answer."""
        proof = self.challenges.proof(exchange.request)
        if proof is None:
            return False
        exchange.prove(proof)
        return True

    def _send(self, exchange: Exchange, service: Service) -> None:
        now = exchange.began
        budget = service.budget
        if now >= budget.turn:
            budget.turn_over(now)
        budget.requests += 1
        if service.sticky:
            _recognise(exchange, service)
        elif service.by_prefix and self.prefixes.wait(exchange, service, now):
            return
        self._place(exchange, service, now)

    def _place(self, exchange: Exchange, service: Service, now: float) -> None:
        if len(service.room) == 0:
            replica = self.pick(exchange, service, now)
            if replica is not None:
                self.send(exchange, service, replica)
                return
        self.holding.hold(exchange, service, now)

    def pick(self, exchange: Exchange, service: Service, now: float) -> Replica | None:
        """Where it can go now: to the replica that its client comes back to, else as `balance.py` says. None: held."""
        if service.sticky:
            preferred = service.tokens.get(exchange.token)
            if preferred is not None and preferred.health == GOOD and fits(preferred, now):
                return preferred
        elif service.by_prefix:
            preferred = self.prefixes.prefer(exchange, service)
            if preferred is not None:
                return preferred
        ready = service.ready
        return choose(ready, now, random.getrandbits(DICE) if len(ready) > 1 else 0, exchange.request)

    def send(self, exchange: Exchange, service: Service, replica: Replica, fresh: bool = False) -> None:
        """The pick is made: from here on it counts as in flight. `fresh`: not over a connection that has been used."""
        replica.in_flight += 1
        service.in_flight += 1
        exchange.in_flight = True
        exchange.replica = replica
        if replica.health != GOOD:
            fresh = True  # what is tried is the replica, not a connection
            if replica.probe is None:
                replica.probe = exchange
        now = time.monotonic() if exchange.state != HEAD else exchange.began
        self.connections.send(exchange, replica, fresh, now)

    # Failures

    def turned_away(self, exchange: Exchange, replica: Replica, failure: Failure, now: float) -> None:
        """The replica could not be reached: nothing has been sent."""
        service = exchange.service
        if service is not None:
            _count_error(service, failure)
            self._let_go(exchange)
            self._again(exchange, service, replica, now)

    def lost(self, exchange: Exchange, failure: Failure) -> None:
        now = time.monotonic()
        service, replica = exchange.service, exchange.replica
        if service is None or replica is None:
            return
        stale = isinstance(failure, StaleConnection) and not exchange.raced
        if stale and exchange.replayable:
            exchange.raced = True
            self._take_back(exchange, service)
            same = replica.ready and fits(replica, now)
            self._resend(exchange, service, replica if same else self.pick(exchange, service, now), True, now)
            return
        _count_error(service, failure)
        if not stale:
            self._fault(exchange, service, replica, now)
        exchange.reached += 1
        if (
            not exchange.replayable
            or exchange.reached >= self.settings.attempts
            or failure.error != "connection_terminated"
        ):
            exchange.answer(failure)
        elif not service.budget.withdraw(now):
            service.retries_refused += 1
            details = failure.details + "; not sent again: too many of the service's requests are"
            exchange.answer(Failure(failure.status, failure.error, details))
        else:
            self._take_back(exchange, service)
            self._again(exchange, service, replica, now)

    def answered(self, exchange: Exchange, replica: Replica) -> None:
        """A replica that has failed before has sent a final head."""
        replica.answered(time.monotonic(), replica.probe is exchange)

    def _fault(self, exchange: Exchange, service: Service, replica: Replica, now: float) -> None:
        """The replica was reached, and there was no final head. While the client owed it some of the body, that may be
        the client's doing: who never sends what he announces must not be able to take replicas out.
        """
        if (exchange.state & ~7) != DONE:
            return
        may = replica.ready and may_eject(service.ready, replica)
        if replica.failed(now, may, replica.probe is exchange):
            service.ejections += 1

    def _take_back(self, exchange: Exchange, service: Service) -> None:
        """A request that was sent, in vain."""
        self._let_go(exchange)
        exchange.state = step(exchange.state, RETRY)

    def _again(self, exchange: Exchange, service: Service, failed: Replica, now: float) -> None:
        """To another replica, or to the same one over a new connection, or wait."""
        others = [replica for replica in service.ready if replica is not failed and replica.health == GOOD]
        replica = pick(others, now, random.getrandbits(DICE)) or self.pick(exchange, service, now)
        self._resend(exchange, service, replica, replica is failed, now)

    def _resend(self, exchange: Exchange, service: Service, replica: Replica | None, fresh: bool, now: float) -> None:
        exchange.retries += 1
        service.retries += 1
        if replica is not None:
            self.send(exchange, service, replica, fresh)
            if service.lending:
                self.holding.look(service, now)
        else:
            self.holding.hold(exchange, service, now)

    def resumed(self, exchange: Exchange) -> None:
        self.holding.answered(exchange)

    def leave(self, exchange: Exchange) -> None:
        self.holding.leave(exchange)

    def waits(self, exchange: Exchange, now: float) -> None:
        if exchange.state == HEAD:
            self.place(exchange, now)
        else:
            self.patience.look(exchange, now)

    def more_of_body(self, exchange: Exchange, size: int) -> None:
        """There are `size` bytes behind the head of a request that waits for the beginning of its prompt."""
        if self.prefixes.known(exchange, size):
            self.place(exchange, time.monotonic())

    def place(self, exchange: Exchange, now: float) -> None:
        """It has waited for that, and goes on."""
        service = exchange.service
        if service is None:
            return
        exchange.state = step(exchange.state, HOLD)
        self._place(exchange, service, now)
        exchange.down.wait_with_rest(exchange)

    # Books

    def ended(self, exchange: Exchange) -> None:
        now = time.monotonic()
        exchange.ended = now
        if exchange.held_bytes:
            self.holding.discharge(exchange)
        service = exchange.service
        error = exchange.error
        if error is not None and service is not None and exchange.replica is not None:
            self._blame(exchange, service, exchange.replica, error)
        if exchange.replica is not None:
            self._let_go(exchange)
        books = service if service is not None else self._nobody
        status = exchange.status
        books.requests[status] = books.requests.get(status, 0) + 1
        seconds = now - exchange.began
        count(books.duration, seconds)
        books.duration_sum += seconds
        books.bytes_in += exchange.bytes_in
        books.bytes_out += exchange.bytes_out
        if self._log.enabled:
            self._log.add(exchange)
        if exchange.request.parent is not None and self._telemetry is not None:
            self._telemetry.ended(exchange)
        if service is not None:
            self._freed(service, now)

    def _freed(self, service: Service, now: float) -> None:
        """A replica may have room for one more."""
        if len(service.room):
            self.holding.release(service, now)
        elif service.lending:
            self.holding.look(service, now)

    def _blame(self, exchange: Exchange, service: Service, replica: Replica, error: Failure) -> None:
        """The errors that didn't come by `lost`: a response that was cut, or did not come in time."""
        cut = (exchange.state & 7) == CUT
        if cut or error.status == 504:
            _count_error(service, error)
        if error.error == "http_response_timeout" and not cut:
            self._fault(exchange, service, replica, exchange.ended)

    def refused(self, refused: Refused) -> None:
        """Something came that could not be read as a request."""
        status = refused.failure.status
        self._nobody.requests[status] = self._nobody.requests.get(status, 0) + 1
        if self._log.enabled:
            self._log.add_refused(refused)

    def _let_go(self, exchange: Exchange) -> None:
        """The slot at the replica is free again, unless its connection sees to that (`entrust`)."""
        replica, service = exchange.replica, exchange.service
        if replica is None or service is None:
            return
        if replica.probe is exchange:
            replica.probe = None
        if exchange.in_flight:
            exchange.in_flight = False
            self._took_off(replica, service)

    def entrust(self, exchange: Exchange) -> Service | None:
        """The exchange is over for its client, and may not be for its replica.

        Where requests at once are limited, its slot is not free before it is: its connection sees to that, and calls
        `returned`. None: they are not.
        """
        service = exchange.service
        if service is None or not service.concurrency or not exchange.in_flight:
            return None
        exchange.in_flight = False
        return service

    def returned(self, replica: Replica, service: Service) -> None:
        """The replica is done with a request that was entrusted."""
        self._took_off(replica, service)
        self._freed(service, time.monotonic())

    def _took_off(self, replica: Replica, service: Service) -> None:
        replica.in_flight -= 1
        service.in_flight -= 1
        if replica.in_flight == 0 and not replica.ready:
            if replica.gone and service.replicas.get(replica.id) is replica:
                del service.replicas[replica.id]
            self._demand.changed(service.id)

    @property
    def books(self) -> list[Service]:
        """All services, and the one without id."""
        return [self._nobody, *self._table.services.values()]

    def close(self) -> None:
        self.connections.close()


def _recognise(exchange: Exchange, service: Service) -> None:
    """Take the cookie out of the request, and note the first of its values that leads to a ready replica."""
    for value in affinity.take(exchange.request):
        if value in service.tokens:
            exchange.token = value
            return


def _count_error(service: Service, failure: Failure) -> None:
    service.errors[failure.error] = service.errors.get(failure.error, 0) + 1
