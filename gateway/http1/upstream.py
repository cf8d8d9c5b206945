"""A connection to a replica in HTTP/1.1: one request out, one response in, then back among the idle ones.

Body framing of responses is our own (RFC 9112 6.3): a parser for requests and responses alike can't be told of HEAD and
has no end for bodies that end with the connection. Laws kept here: a connection is used again only if the response
ended where its framing says, not a byte later, and the request had been sent completely; a body that stops short is a
failure, never an end.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway import affinity, tcp
from gateway.errors import BadResponse, Failure, StaleConnection
from gateway.exchange import Exchange
from gateway.fields import allowed_trailers, bare_line_feed
from gateway.http1.chunked import ChunkError, Decoder, chunk, last_chunk
from gateway.http1.request_writer import request_head
from gateway.http1.response_head import parse_response
from gateway.messages import Response
from gateway.sides import Upstream
from gateway.states import DONE, NONE, TUNNEL

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher
    from gateway.replica import Replica
    from gateway.service import Service

_INTERIM_LIMIT: Final = 100  # 1xx before one final head
_RACE: Final = 1.0  # seconds in which the end of a kept connection, without a byte, has crossed the request
_ABORTED: Final = 5.0  # seconds that a replica has to close once its client has left
_NO_TRAILERS: Final[list[bytes]] = []  # never changed

# What is being read.
_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKS: Final = 2
_TO_THE_END: Final = 3


class UpstreamConnection(Upstream):
    """Belongs to its exchange while there is one, else to its replica's idle list."""

    __slots__ = (
        "_body",
        "_buffer",
        "_closed",
        "_decoder",
        "_exchange",
        "_interims",
        "_left",
        "_method",
        "_office",
        "_owed",
        "_reading",
        "_response",
        "_reuse_for",
        "_scanned",
        "_transport",
        "replica",
    )

    def __init__(self, office: Dispatcher, replica: Replica) -> None:
        super().__init__()
        self.replica = replica
        self._office = office
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._method = b""
        self._buffer = b""  # of a head that is not complete
        self._scanned = 0  # of it: known to hold no end
        self._body = _HEAD
        self._interims = 0  # 1xx of this exchange; counts from its first one
        self._left = 0
        self._decoder: Decoder | None = None
        self._response: Response | None = None
        self._reuse_for = 0
        self._reading = True
        self._closed = False
        self._owed: Service | None = None  # whose slot is taken until the replica closes

    # The exchange's side

    def send_request(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._method = exchange.request.method
        office = self._office
        self._write(request_head(exchange, office.via_old_line if exchange.request.old else office.via_line))

    def send_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None or not body:
            return
        self._write(chunk(body) if exchange.request.length < 0 else body)

    def end_request(self, trailers: list[bytes]) -> None:
        self._write(last_chunk(trailers))

    def send_raw(self, data: bytes) -> None:
        self._write(data)

    def end_raw(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def gate(self, reading: bool) -> None:
        if reading == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def abort(self) -> None:
        self._exchange = None
        self._closed = True
        self._office.sweep.disarm(self)
        if self._transport is not None:
            self._transport.abort()

    def forsake(self, exchange: Exchange) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._owed = self._office.entrust(exchange)
        if transport is None or self._owed is None:
            self.abort()
            return
        self._exchange = None
        self.gate(True)
        self._office.sweep.arm(self, time.monotonic() + _ABORTED)
        transport.write_eof()

    def _repay(self) -> None:
        """The replica has closed, or has had the time to."""
        service = self._owed
        if service is not None:
            self._owed = None
            self._office.returned(self.replica, service)

    def close(self) -> None:
        self._exchange = None
        self._closed = True
        if self._transport is not None:
            self._office.sweep.arm(self, time.monotonic() + self._office.settings.linger_timeout)
            self._transport.close()

    def alive(self, sure: bool) -> bool:
        transport = self._transport
        if self._closed or transport is None or transport.is_closing():
            return False
        if not sure:
            return True
        return tcp.state_of(transport) == tcp.ESTABLISHED

    # The sweep's side

    def expire(self, now: float) -> None:
        if self._exchange is not None:
            self._office.sweep.arm(self, now + self._office.settings.upstream_idle_timeout)
            return
        self._office.connections.discard(self.replica, self)
        self.abort()
        self._repay()

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if self._owed is not None:
                return  # nobody wants it any more
            self._office.connections.discard(self.replica, self)  # not asked for: never let it reach the next request
            self.abort()
        elif (exchange.state & ~7) == TUNNEL:
            exchange.tunnel_out(data)
        elif self._body == _LENGTH:
            self._feed_length(exchange, data)
        elif self._body == _HEAD:
            self._read_head(exchange, data)
        elif self._body == _CHUNKS:
            self._feed_chunks(exchange, data)
        else:
            exchange.response_body(data, False, _NO_TRAILERS)

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is not None and (exchange.state & ~7) == TUNNEL:
            exchange.tunnel_out_end()
            return True
        self._ended(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(error)
        self._closed = True
        self._transport = None
        self._office.sweep.disarm(self)

    def pause_writing(self) -> None:
        self.full = True
        if self._exchange is not None:
            self._exchange.upstream_full()

    def resume_writing(self) -> None:
        self.full = False
        if self._exchange is not None:
            self._exchange.upstream_full()

    # Responses

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        """Heads until the final one: 1xx may come before it (RFC 9110 15.2), bounded in number."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = data.find(b"\r\n\r\n", self._scanned)
            if end < 0 or end > self._office.settings.response_head_limit:
                self._incomplete(data)
                return
            try:
                response = parse_response(data[:end], self._method)
            except BadResponse as failure:
                self._fail(failure)
                return
            data = data[end + 4 :]
            self._scanned = 0
            if response.status >= 200:
                self._final(exchange, response, data)
                return
            if response.status == 101:
                self._upgraded(exchange, response, data)
                return
            self._interims = 1 if (exchange.state & 7) == NONE else self._interims + 1
            if self._interims > _INTERIM_LIMIT:
                self._fail(BadResponse("too many interim responses"))
                return
            exchange.interim(response)
            if not data or self._exchange is not exchange:
                return

    def _incomplete(self, data: bytes) -> None:
        if len(data) > self._office.settings.response_head_limit:
            self._fail(BadResponse("response head too large", "http_response_header_section_size"))
        elif not data.startswith(b"HTTP/1."[: len(data)]) or bare_line_feed(data, self._scanned):
            self._fail(BadResponse("not an HTTP/1 response"))
        else:
            self._buffer = data
            self._scanned = max(0, len(data) - 3)

    def _upgraded(self, exchange: Exchange, response: Response, early: bytes) -> None:
        if not exchange.request.upgrade or response.upgrade.lower() != exchange.request.upgrade.lower():
            self._fail(BadResponse("upgraded without being asked", "http_upgrade_failed"))
            return
        self._answered(exchange, response)
        exchange.upgraded(response, early)

    def _answered(self, exchange: Exchange, response: Response) -> None:
        """With a final head, or the beginning of a tunnel."""
        replica = self.replica
        if replica.failures:
            self._office.answered(exchange, replica)
        if replica.token and replica.token != exchange.token:
            affinity.mark(response, replica.token, exchange.secure)

    def _final(self, exchange: Exchange, response: Response, data: bytes) -> None:
        self._response = response
        replica = self.replica
        if replica.failures or replica.token:
            self._answered(exchange, response)
        if not self.settled:
            self._office.connections.settled(self.replica, self)
        length = response.length
        if response.bodiless:
            length = 0
        if length >= 0:
            size = len(data)
            if size >= length:
                surplus = size > length
                now = time.monotonic()
                self._release(exchange, response.keep_alive and not surplus, now)
                exchange.response_head(response, data[:length] if surplus else data, True, _NO_TRAILERS, now)
                return
            self._body = _LENGTH
            self._left = length - size
            exchange.response_head(response, data, False, _NO_TRAILERS, time.monotonic())
        elif response.chunked:
            self._body = _CHUNKS
            self._decoder = Decoder()
            self._first_chunks(exchange, response, data)
        else:
            self._body = _TO_THE_END
            exchange.response_head(response, data, False, _NO_TRAILERS, time.monotonic())

    def _first_chunks(self, exchange: Exchange, response: Response, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        try:
            piece = decoder.feed(data)
        except ChunkError as error:
            self._fail(BadResponse(str(error)))
            return
        if decoder.done:
            self._release(exchange, response.keep_alive and not decoder.rest, time.monotonic())
        trailers = allowed_trailers(decoder.trailers, response.nominated)
        exchange.response_head(response, piece, decoder.done, trailers, time.monotonic())

    def _feed_length(self, exchange: Exchange, data: bytes) -> None:
        size = len(data)
        if size < self._left:
            self._left -= size
            exchange.response_body(data, False, _NO_TRAILERS)
            return
        surplus = size > self._left
        if surplus:
            data = data[: self._left]
        now = time.monotonic()
        self._release(exchange, self._response is not None and self._response.keep_alive and not surplus, now)
        exchange.response_body(data, True, _NO_TRAILERS)

    def _feed_chunks(self, exchange: Exchange, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        try:
            piece = decoder.feed(data)
        except ChunkError as error:
            self._fail(BadResponse(str(error)))
            return
        if decoder.done:
            response = self._response
            clean = response is not None and response.keep_alive and not decoder.rest
            trailers = allowed_trailers(decoder.trailers, response.nominated if response is not None else None)
            self._release(exchange, clean, time.monotonic())
            exchange.response_body(piece, True, trailers)
        elif piece:
            exchange.response_body(piece, False, _NO_TRAILERS)

    def _release(self, exchange: Exchange, clean: bool, now: float) -> None:
        """Let go of the exchange; wait for another if nothing speaks against it."""
        response = self._response
        self._exchange = None
        self._response = None
        self._decoder = None
        self._body = _HEAD
        if not clean or (exchange.state & ~7) != DONE or self.full or not self.replica.ready:
            self.abort()
            return
        self.gate(True)
        self._office.connections.idle(self.replica, self, response.reuse_for if response is not None else 0, now)

    def _ended(self, error: Exception | None) -> None:
        """The replica has closed: the end of some bodies, a failure of all others, nothing while idle."""
        exchange = self._exchange
        self._exchange = None
        if exchange is None:
            if not self._closed:
                self._office.connections.discard(self.replica, self)
            self._repay()
        elif self._body == _TO_THE_END and error is None and (exchange.state & ~7) != TUNNEL:
            exchange.response_body(b"", True, _NO_TRAILERS)
        elif self._body == _HEAD:
            details = "closed before the response head was complete" if self._buffer else "closed without a response"
            stale = not self._buffer and (exchange.state & 7) == NONE and self._raced()
            lost = StaleConnection() if stale else Failure(502, "connection_terminated", details)
            exchange.upstream_lost(lost)
        else:
            exchange.upstream_lost(Failure(502, "http_response_incomplete", "response cut short"))
        self._closed = True

    def _raced(self) -> bool:
        """Had this connection been used before, and has the request only just been sent?"""
        return self.reused_at > 0.0 and time.monotonic() - self.reused_at < _RACE

    def _fail(self, failure: Failure) -> None:
        """The response can't be read: nothing more of it is believed."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
        else:
            self.forsake(exchange)
            exchange.upstream_lost(failure)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.replica!r} {self._exchange!r}>"
