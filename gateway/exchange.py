"""One request and its response, between a client and a replica, whatever HTTP version either side speaks.

Its states and their order are the table in `gateway.states`. Laws kept here:

- a response is completed or visibly cut, never ended early;
- a request is counted, logged and taken off its replica exactly once, in `_finish`;
- whether bytes are read from either side is a pure function of the state and of what waits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.answers import answer, options_answer, proof_answer, trace_answer
from gateway.errors import Failure
from gateway.events import COMMENT, continues, declined, error_event, stream_head, without_codings
from gateway.messages import Request, Response
from gateway.sides import Downstream, Keeper, Upstream
from gateway.states import (
    ANSWER,
    BODY,
    BREAK,
    DONE,
    FORWARD,
    HEAD,
    HELD,
    INTERIM,
    INTERIM_HEAD,
    LEAVE,
    NONE,
    REQUEST_END,
    RESPONSE_BODY,
    RESPONSE_END,
    RESPONSE_HEAD,
    TUNNEL,
    UPGRADE,
    may_read_response,
    step,
)

if TYPE_CHECKING:
    from gateway.replica import Replica
    from gateway.service import Service

_REPLAYED: Final = 64 * 1024  # bytes of an idempotent request's body kept to send it again
CLIENT_LEFT: Final = 499  # logged and counted, never sent


class Limits:
    """What an exchange must know of the settings (seconds, bytes; -1: no limit)."""

    __slots__ = (
        "body_rate",
        "body_timeout",
        "half_closed_timeout",
        "max_body",
        "response_timeout",
        "tunnel_timeout",
    )

    def __init__(
        self,
        response_timeout: float,
        body_timeout: float,
        tunnel_timeout: float,
        half_closed_timeout: float,
        body_rate: int,
        max_body: int,
    ) -> None:
        self.response_timeout = response_timeout
        self.body_timeout = body_timeout
        self.tunnel_timeout = tunnel_timeout
        self.half_closed_timeout = half_closed_timeout
        self.body_rate = body_rate
        self.max_body = max_body


class Exchange:
    """Made when a request head has been read; forgotten by both sides when it is over."""

    __slots__ = (
        "began",
        "body_ended",
        "body_in",
        "bytes_in",
        "bytes_out",
        "connect",
        "connect_began",
        "down",
        "ended",
        "error",
        "first_byte",
        "half_closed",
        "held_bytes",
        "held_since",
        "hold",
        "in_flight",
        "keeper",
        "kept",
        "key",
        "limits",
        "looked",
        "over",
        "pace_body",
        "pace_due",
        "promised",
        "raced",
        "reached",
        "replica",
        "request",
        "retries",
        "service",
        "state",
        "status",
        "token",
        "trailers",
        "up",
    )

    def __init__(self, request: Request, down: Downstream, keeper: Keeper, limits: Limits, began: float) -> None:
        self.request = request
        self.down = down
        self.keeper = keeper
        self.limits = limits
        self.state = HEAD
        self.service: Service | None = None
        self.replica: Replica | None = None
        self.up: Upstream | None = None
        self.in_flight = False  # counts as one at `replica`
        self.reached = 0  # replicas that may have seen it and failed
        self.raced = False  # it was sent over a kept connection that the replica closed
        self.promised = False  # the head of a stream of events has been sent while it was held (`events.py`)
        self.token = b""  # of the replica that its client comes back to (`affinity.py`)
        self.key = 0  # of its prompt's beginning (`prompts.py`); 0: none
        self.looked = 0  # bytes of its body when that was last looked for
        self.retries = 0
        self.kept: list[bytes] | None = None  # body sent so far, while it may have to be sent again
        self.body_in = 0
        self.pace_due = 0.0  # when the body's rate is looked at next (monotonic); 0: from its next piece on
        self.pace_body = 0  # `body_in` when that stretch began
        self.body_ended = False
        self.trailers: list[bytes] | None = None
        self.half_closed = 0  # tunnel: 1 the client's direction is over, 2 the replica's
        self.held_bytes = 0
        self.held_since = 0.0  # monotonic; 0: never held
        self.over = False
        self.began = began  # monotonic
        self.ended = 0.0  # monotonic; set by the keeper
        self.hold = 0.0  # seconds
        self.connect_began = 0.0
        self.connect = 0.0
        self.first_byte = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.error: Failure | None = None

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS, all the way that is known."""
        proto = self.request.forwarded_proto
        return proto == b"https" if proto else self.down.secure

    # From the keeper

    def forwarded(self, up: Upstream, now: float) -> None:
        """`up` is connected and ours: send the request there."""
        self.up = up
        waited = self.state != HEAD
        self.state = step(self.state, FORWARD)
        down = self.down
        down.due(now + self.limits.response_timeout)
        if down.full:
            up.gate(False)
        up.send_request(self)
        if self.request.length == 0:
            self.state = step(self.state, REQUEST_END)
            if waited:
                down.gate()  # what is behind the request may be read now, and with it that the client leaves
            return
        if self.kept is None and self.body_in == 0 and self.request.idempotent:
            self.kept = []
        elif self.kept is not None:
            for piece in self.kept:
                up.send_body(piece)
        if self.body_ended:
            self._end_request(up)
        else:
            self.pace_due = 0.0
            if not self.request.expects_continue:  # else the replica is to speak first
                down.due(now + self.limits.body_timeout)
            down.read_body(self)

    @property
    def replayable(self) -> bool:
        """May be sent again although a replica may have seen some of it."""
        request = self.request
        return request.idempotent and (request.length == 0 or self.body_in == 0 or self.kept is not None)

    def answer(self, failure: Failure) -> None:
        """The gateway's own answer; only before the replica's final head."""
        self.error = failure
        self._tell(failure)

    def _tell(self, failure: Failure) -> None:
        response, body = answer(failure, self.request)
        self._respond(response, error_event(failure, self.request.request_id) if self.promised else body)

    def keep_waiting(self, interim: Response) -> None:
        """While held: a 1xx of our own."""
        if not self.down.full:
            self.down.send_interim(self, interim)

    def keep_stream(self) -> None:
        """While held: a comment in a stream of events, which this begins if it has not begun."""
        if self.promised:
            if not self.down.full:
                self.down.send_body(self, COMMENT, False, [])
            return
        self.promised = True
        self.request.lines = without_codings(self.request.lines)
        self.down.send_head(self, stream_head(), COMMENT, False, [])

    def turn_back(self) -> None:
        """Max-Forwards is used up (RFC 9110 7.6.2): we are the final recipient of this TRACE or OPTIONS."""
        self._respond(*(trace_answer(self.request) if self.request.method == b"TRACE" else options_answer()))

    def prove(self, key_authorization: bytes) -> None:
        """A certificate authority looks at the host."""
        self._respond(*proof_answer(self.request, key_authorization))

    def _respond(self, response: Response, body: bytes) -> None:
        self.state = step(self.state, ANSWER)
        self.status = response.status
        self.first_byte = time.monotonic() - self.began
        if self.promised:
            self.down.send_body(self, body, True, [])
        else:
            self.down.send_head(self, response, body, True, [])
        self._finish((self.state & ~7) == DONE or self.request.length == 0)

    # From the client's side

    def request_body(self, data: bytes) -> None:
        """A piece of the body, as content."""
        up = self.up
        if up is None:
            return
        self.body_in += len(data)
        if self.limits.max_body >= 0 and self.body_in > self.limits.max_body:
            self._fail(Failure(413, "http_request_error", "request body too large"))
            return
        if self.kept is not None:
            if self.body_in <= _REPLAYED:
                self.kept.append(data)
            else:
                self.kept = None
        now = time.monotonic()
        self.down.due(now + self.limits.body_timeout)
        if now >= self.pace_due and not self._keeps_pace(now):
            self._fail(Failure(408, "http_request_error", "request body too slow"))
            return
        up.send_body(data)

    def _keeps_pace(self, now: float) -> bool:
        """Whether the stretch that is over, and at least `body_timeout` long, brought what the rate asks for.

        Then the next one begins. Without this a byte a minute would hold a replica for ever. Time in which the replica
        took nothing is in none (`upstream_full`), nor is the time of a client that is being answered.
        """
        limits = self.limits
        brought = self.body_in - self.pace_body
        began = self.pace_due - limits.body_timeout
        slow = self.pace_due > 0.0 and brought < limits.body_rate * (now - began) and (self.state & 7) <= INTERIM
        self.pace_due = now + limits.body_timeout
        self.pace_body = self.body_in
        return not slow

    def request_end(self, trailers: list[bytes]) -> None:
        """The body is complete."""
        self.body_ended = True
        self.trailers = trailers
        if self.up is not None:
            self._end_request(self.up)

    def request_broken(self, failure: Failure) -> None:
        """The rest of the body can't be read."""
        self._fail(failure)

    def tunnel_in(self, data: bytes) -> None:
        if self.up is not None:
            self.bytes_in += len(data)
            self._tunnel_moved()
            self.up.send_raw(data)

    def _tunnel_moved(self) -> None:
        limits = self.limits
        self.down.due(time.monotonic() + (limits.half_closed_timeout if self.half_closed else limits.tunnel_timeout))

    def tunnel_in_end(self) -> None:
        self._half_close(1)
        if not self.over and self.up is not None:
            self.up.end_raw()

    def downstream_full(self, full: bool) -> None:
        """The client takes less than is written, or again as much."""
        if self.up is not None:
            self.up.gate(may_read_response(self.state, full))
        if self.state == TUNNEL:
            self._tunnel_moved()
        elif (self.state & 7) > INTERIM:  # before the final head its own deadline stands, whatever else is sent
            self.down.due(time.monotonic() + self.limits.response_timeout)

    def left(self) -> None:
        """The client is gone: nobody is to work for it any more."""
        if self.over:
            return
        if (self.state & ~7) == HELD:
            self.keeper.leave(self)
        self.state = step(self.state, LEAVE)
        self.status = self.status or CLIENT_LEFT
        self._drop_upstream()
        self._finish(False)

    def expired(self, now: float) -> None:
        """Nothing has moved for too long."""
        request, response = self.state & ~7, self.state & 7
        if request in (HELD, HEAD):
            self.down.due(now + self.limits.response_timeout)  # the room and the connector have their own
            self.keeper.waits(self, now)
        elif request == TUNNEL:
            self._break(Failure(504, "connection_read_timeout", "tunnel idle for too long"))
        elif response <= INTERIM and request == BODY and self._clients_turn():
            self._fail(Failure(408, "http_request_error", "request body too slow"))
        else:
            self._fail(Failure(504, "http_response_timeout", "no response in time"))

    def _clients_turn(self) -> bool:
        """While the body comes: is the client the one that is waited for?"""
        if self.request.expects_continue and self.body_in == 0 and (self.state & 7) == NONE:
            return False
        return self.up is not None and not self.up.full

    # From the replica's side

    def interim(self, response: Response) -> None:
        """A 1xx other than 101."""
        self.state = step(self.state, INTERIM_HEAD)
        if response.status == 100 and self.request.expects_continue and not self.body_ended and self.body_in == 0:
            self.down.due(time.monotonic() + self.limits.body_timeout)  # now it is the client's turn
        if not self.promised:
            self.down.send_interim(self, response)

    def upgraded(self, response: Response, early: bytes) -> None:
        """101: from here on both sides are just bytes. `early`: what the replica sent behind its head."""
        self.state = step(self.state, UPGRADE)
        self.status = response.status
        self.first_byte = time.monotonic() - self.began
        self.down.send_interim(self, response)
        self._tunnel_moved()
        if early:
            self.tunnel_out(early)
        self.down.tunnel(self)

    def tunnel_out(self, data: bytes) -> None:
        self._tunnel_moved()
        self.bytes_out += len(data)
        self.down.send_raw(data)

    def tunnel_out_end(self) -> None:
        self._half_close(2)
        if not self.over:
            self.down.end_raw()

    def response_head(self, response: Response, body: bytes, ended: bool, trailers: list[bytes], now: float) -> None:
        """The final head. `ended`: `body` is all of it, and the replica's side has let go of the exchange."""
        if self.promised and not continues(response):
            self._decline(response, ended)
            return
        self.first_byte = now - self.began
        self.status = response.status
        state = step(self.state, RESPONSE_HEAD)
        if body:
            state = step(state, RESPONSE_BODY)
        if ended:
            state = step(state, RESPONSE_END)
            self.up = None
        else:
            self.down.due(now + self.limits.response_timeout)
        self.state = state
        if self.promised:
            self.keeper.resumed(self)
            self.down.send_body(self, body, ended, trailers)
        else:
            self.down.send_head(self, response, body, ended, trailers)
        if ended:
            self._finish((state & ~7) == DONE)

    def _decline(self, response: Response, ended: bool) -> None:
        """A stream of events was begun, and this is none."""
        if ended:
            self.up = None
        else:
            self._drop_upstream()
        self._tell(declined(response))

    def response_body(self, body: bytes, ended: bool, trailers: list[bytes]) -> None:
        """More of the body, or its end, or both."""
        state = self.state
        if body:
            state = step(state, RESPONSE_BODY)
        if ended:
            state = step(state, RESPONSE_END)
            self.up = None
        else:
            self.down.due(time.monotonic() + self.limits.response_timeout)
        self.state = state
        self.down.send_body(self, body, ended, trailers)
        if ended:
            self._finish((state & ~7) == DONE)

    def upstream_full(self) -> None:
        """The replica takes less than is written, or again as much. Meanwhile it is not the client who is slow."""
        if (self.state & ~7) == BODY and (self.state & 7) <= INTERIM and self.up is not None:
            self.pace_due = 0.0
            limits = self.limits
            self.down.due(time.monotonic() + (limits.response_timeout if self.up.full else limits.body_timeout))
        self.down.gate()

    def upstream_lost(self, failure: Failure) -> None:
        """The replica's side has broken and let go of the exchange."""
        self.up = None
        if self.over:
            return
        if (self.state & ~7) != TUNNEL and (self.state & 7) <= INTERIM:
            self.keeper.lost(self, failure)
        else:
            self._break(failure)

    # Ends

    def _end_request(self, up: Upstream) -> None:
        self.state = step(self.state, REQUEST_END)
        self.down.due(time.monotonic() + self.limits.response_timeout)
        if self.request.length < 0:
            up.end_request(self.trailers or [])

    def _half_close(self, direction: int) -> None:
        self.half_closed |= direction
        self._tunnel_moved()
        if self.half_closed == 3:
            self.state = step(self.state, RESPONSE_END)
            up = self.up
            if up is not None:
                self.up = None
                up.close()
            self._finish(False)

    def _fail(self, failure: Failure) -> None:
        """Answer if that is still possible, else cut."""
        if (self.state & 7) > INTERIM:
            self._break(failure)
            return
        self._drop_upstream()
        self.answer(failure)

    def _break(self, failure: Failure) -> None:
        self.error = failure
        self.state = step(self.state, BREAK)
        self._drop_upstream()
        self.down.cut()
        self._finish(False)

    def _drop_upstream(self) -> None:
        up = self.up
        if up is not None:
            self.up = None
            up.forsake(self)

    def _finish(self, whole: bool) -> None:
        """Everything that must happen exactly once."""
        self.over = True
        self._drop_upstream()
        self.keeper.ended(self)
        self.down.finished(self, whole)

    def __repr__(self) -> str:
        return f"<Exchange {self.request!r} state={self.state & ~7}|{self.state & 7} status={self.status}>"
