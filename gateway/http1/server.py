"""A client's connection in HTTP/1 (RFC 9112): from bytes to exchanges, one at a time; `response_writer.py` answers.

A protocol for asyncio by its methods, not by its base class, so that it can be compiled. Laws kept here: an idle
connection holds no exchange and no buffer; requests are answered in the order in which they came; nothing is read that
has no place to go (`gate`); an answer that must end with the connection ends it only when the client has had the chance
to read it (RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway import tcp
from gateway.answers import answer, fresh_id
from gateway.clients import NEVER
from gateway.errors import Failure, Malformed
from gateway.exchange import Exchange
from gateway.fields import allowed_trailers
from gateway.http1.body import Body
from gateway.http1.chunked import ChunkError
from gateway.http1.request_head import check_partial, parse_request
from gateway.http1.response_writer import ResponseWriter
from gateway.refused import Refused
from gateway.states import BODY, HEAD, HELD, TUNNEL, may_read_request

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

_AT_ONCE: Final = 32  # pipelined requests that are answered before others get their turn on the loop
_LINGERED: Final = 1024 * 1024  # bytes read and thrown away after an early answer


class ServerConnection(ResponseWriter):
    """One accepted connection. `office` is the worker's dispatcher, shared by all."""

    __slots__ = (
        "_body",
        "_buffer",
        "_closed",
        "_closing",
        "_deferred",
        "_exchange",
        "_head_due",
        "_lingered",
        "_reading",
        "_scanned",
        "_trusted",
        "_unsent",
        "_used",
        "_working",
    )

    def __init__(self, office: Dispatcher, secure: bool) -> None:
        super().__init__(office)
        self.secure = secure
        self._exchange: Exchange | None = None
        self._buffer = b""  # bytes nobody has taken yet
        self._scanned = 0  # of them: known to hold no end of a head
        self._head_due = False  # the deadline is that of a head that has begun
        self._body: Body | None = None  # of the request, while it comes
        self._closing = False  # reading on only to throw away
        self._closed = False
        self._reading = True
        self._working = False
        self._deferred = False  # further requests in the buffer wait for the loop's next turn
        self._lingered = 0
        self._trusted = False
        self._unsent = 0  # bytes that the client had not taken when it was last found slow, its response being over
        self._used = False  # a request head has come

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        office = self._office
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "unknown"
        address = self._meet(address)
        clients = office.clients
        if not clients.opened(self, address, self._trusted):
            self._closed = True
            transport.abort()
            return
        settings = office.settings
        self._draining = clients.draining
        patience = settings.drain_grace if clients.hurried else settings.keep_alive_timeout
        office.sweep.arm(self, time.monotonic() + patience)

    def _meet(self, address: str) -> str:
        """Know the client by this address from now on; as it is written in fields and logs."""
        if address.startswith("::ffff:"):
            address = address[7:]
        self.peer = address.encode("ascii")
        self._trusted = self._office.clients.trusts(address)
        proto = b"https" if self.secure else b"http"
        self.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: " % (self.peer, proto)
        return address

    @property
    def trusted(self) -> bool:
        """Whether the peer is one of the trusted proxies."""
        return self._trusted

    def moved(self, transport: asyncio.Transport) -> None:
        """Before the first request: from now on this is the way to the client."""
        self._transport = transport

    def told(self, address: str) -> None:
        """Before the first request: the peer, a trusted proxy, says that the client is this one (PROXY protocol)."""
        address = self._meet(address)
        if not self._trusted and not self._office.clients.claim(self, address):
            self.abort()

    def distrust(self) -> None:
        """Before the first request: the peer, a trusted proxy, speaks for a client whom it doesn't name.

        The address stays the proxy's, which is no client's: its many connections have no limit.
        """
        self._trusted = False

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if self._closing:
                self._throw_away(len(data))
                return
            self._buffer = self._buffer + data if self._buffer else data
            self._work()
        elif (exchange.state & ~7) == BODY and exchange.up is not None and not exchange.body_ended:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._feed(exchange, data)
        elif (exchange.state & ~7) == TUNNEL:
            exchange.tunnel_in(data)
        else:
            self._buffer = self._buffer + data if self._buffer else data
            if exchange.state == HEAD:
                self._office.more_of_body(exchange, len(self._buffer))
                self.gate()
                return
            self._office.holding.charge(exchange, len(data))
            self.gate()

    def eof_received(self) -> bool:
        """A client that says it is done can't be told from one that has left; in a tunnel it is only half of it."""
        exchange = self._exchange
        if exchange is not None and (exchange.state & ~7) == TUNNEL:
            exchange.tunnel_in_end()
            return True
        departures = self._office.departures
        if departures.left <= 0:
            departures.later(self._leave_later)
            return True
        departures.left -= 1
        self._leave()
        return False

    def _leave_later(self) -> None:
        self._office.departures.left -= 1
        if not self._closed:
            self._leave()

    def truncated(self) -> None:
        """The client's bytes ended without a word, where there is a way to say it (TLS): a tunnel is broken, too."""
        self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._closed = True
        self._transport = None
        self._buffer = b""
        self._office.clients.closed(self)
        self._office.sweep.disarm(self)

    def pause_writing(self) -> None:
        self.full = True
        if self._exchange is not None:
            self._exchange.downstream_full(True)

    def resume_writing(self) -> None:
        self.full = False
        if self._exchange is not None:
            self._exchange.downstream_full(False)
        elif self._buffer and not self._closing:
            self._work()

    # The sweep's and the worker's side

    def expire(self, now: float) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.expired(now)
            if self._exchange is exchange and self.tick < 0:
                self._office.sweep.arm(self, max(self.deadline, now + 1.0))
        elif self._deferred:
            self._office.sweep.arm(self, now + 1.0)
        elif self._still_taken(now):
            pass
        elif self._closing or not self._head_due:
            self.abort()
        else:
            self._refuse(Malformed("request head too slow", 408), self._buffer)

    def _still_taken(self, now: float) -> bool:
        """Is a slow client still busy with the end of the last response? Then it gets more time, piece by piece."""
        transport = self._transport
        unsent = transport.get_write_buffer_size() if transport is not None else 0
        if unsent == 0:
            return False
        settings = self._office.settings
        before = self._unsent
        self._unsent = unsent
        if before and before - unsent < min(before, int(settings.body_rate * settings.keep_alive_timeout)):
            return False
        self._office.sweep.arm(self, now + settings.keep_alive_timeout)
        return True

    def due(self, deadline: float) -> None:
        self._office.sweep.arm(self, deadline)

    def drain(self, patient: bool) -> None:
        """End with the response under way, or with the next one; unless `patient`, only a first one is waited for."""
        self._draining = True
        if patient or self._exchange is not None or self._buffer or self._closing:
            return
        if self._used:
            self._close()
        else:
            self._office.sweep.arm(self, time.monotonic() + self._office.settings.drain_grace)

    def waits(self) -> bool:
        exchange = self._exchange
        return exchange is not None and (exchange.state & ~7) <= HELD

    def dismiss(self, failure: Failure) -> None:
        exchange = self._exchange
        if exchange is not None and (exchange.state & ~7) <= HELD:
            self._office.leave(exchange)
            exchange.answer(failure)

    def look_for_leaving(self) -> None:
        """While reading is paused the kernel alone knows whether the client has left: ask it, and act on it."""
        if self._transport is None or self._reading:
            return
        exchange = self._exchange
        tunnel = exchange is not None and (exchange.state & ~7) == TUNNEL
        state = tcp.state_of(self._transport)
        if state == tcp.CLOSE or (state == tcp.CLOSE_WAIT and not tunnel):  # in a tunnel that is one direction of two
            self._leave()

    def idle_since(self) -> float:
        """A head or a handshake that is not complete is no request yet: who dribbles is like who is silent."""
        transport = self._transport
        if self._exchange is not None or self._closing or transport is None or transport.get_write_buffer_size():
            return NEVER
        if self._deferred:
            return NEVER
        settings = self._office.settings
        begun = self._head_due or (self.secure and not self.tls)
        return self.deadline - (settings.head_timeout if begun else settings.keep_alive_timeout)

    def shed(self) -> None:
        self._close()

    # Requests

    def refuse(self, failure: Malformed, data: bytes) -> None:
        """Answer what came in the place of a first request."""
        self._refuse(failure, data)

    def _work(self) -> None:
        """Take requests out of the buffer, one after the other, as long as each is over at once."""
        if self._working:
            if self._deferred:
                self.gate()
            return
        self._working = True
        left = _AT_ONCE
        arrivals = self._office.arrivals
        while self._exchange is None and self._buffer and not self._closing and not self.full:
            if left == 0 or arrivals.left <= 0:
                self._work_later(left == 0)
                return
            left -= 1
            arrivals.left -= 1
            if not self._take_head():
                break
        self._working = False
        if not self._reading:
            self.gate()

    def _work_later(self, pause: bool) -> None:
        """Let others have their turn on the loop; if more comes meanwhile, or it is to `pause`, nothing is read."""
        self._deferred = True
        if pause:
            self.gate()
        self._office.arrivals.later(self._work_on)

    def _work_on(self) -> None:
        self._deferred = False
        self._working = False
        if not self._closed:
            self._work()

    def _take_head(self) -> bool:
        """Begin the exchange of the head in the buffer; False: it is not complete, or was refused."""
        data = self._buffer
        office = self._office
        if data.startswith(b"\r\n"):  # RFC 9112 2.2: empty lines before a request are skipped
            empty = 2
            while data.startswith(b"\r\n", empty):
                empty += 2
            data = data[empty:]
            self._buffer = data
            self._scanned = 0
            if not data:
                return False
        end = data.find(b"\r\n\r\n", self._scanned)
        if end < 0 or end > office.settings.head_limit:
            self._incomplete(data)
            return False
        self._buffer = data[end + 4 :]
        self._scanned = 0
        self._used = True
        settings = office.settings
        try:
            request = parse_request(data[:end], settings.field_limit, settings.target_limit, self._trusted)
        except Malformed as failure:
            self._refuse(failure, data[: end + 4])
            return False
        self._head_due = False
        self._last = self._draining or not request.keep_alive
        exchange = Exchange(request, self, office, office.limits, time.monotonic())
        self._exchange = exchange
        exchange.bytes_in = end + 4
        office.begin(exchange)
        if self._buffer:
            self.wait_with_rest(exchange)
        return True

    def wait_with_rest(self, exchange: Exchange) -> None:
        """Bytes behind the head that could not be used at once."""
        if self._exchange is exchange:
            self._office.holding.charge(exchange, len(self._buffer))
            self.gate()

    def _incomplete(self, data: bytes) -> None:
        """Refuse what can't become a head any more, else wait for the rest until the deadline."""
        settings = self._office.settings
        try:
            check_partial(data, settings.head_limit, settings.target_limit, self._scanned)
        except Malformed as failure:
            self._refuse(failure, data)
            return
        self._scanned = max(0, len(data) - 3)
        if not self._head_due:
            self._head_due = True
            self._office.sweep.arm(self, time.monotonic() + settings.head_timeout)

    def _refuse(self, failure: Malformed, data: bytes) -> None:
        """Answer what could not be read as a request (`data`); nothing behind it can be read either."""
        office = self._office
        request_id = fresh_id()
        response, body = answer(failure, None, request_id)
        self._last = True
        self._chunking = False  # the response before this one may have been
        head = self._head_bytes(response, None, request_id)
        self._write(head + body)
        took = time.monotonic() - self.deadline + office.settings.head_timeout if self._head_due else 0.0
        office.refused(Refused(request_id, self, failure, data, len(head) + len(body), took))
        self._linger()

    def read_body(self, exchange: Exchange) -> None:
        if self._body is None:  # else it goes on, to another replica
            self._body = Body(exchange.request.length)
        data = self._buffer
        if data:
            self._buffer = b""
            self._feed(exchange, data)
        if not self._reading:
            self.gate()

    def _feed(self, exchange: Exchange, data: bytes) -> None:
        body = self._body
        if body is None:
            return
        exchange.bytes_in += len(data)
        try:
            piece = body.feed(data)
        except ChunkError as error:
            exchange.request_broken(Malformed(str(error)))
            return
        if piece:
            exchange.request_body(piece)
        if body.done and self._exchange is exchange:
            self._body = None
            exchange.bytes_in -= len(body.rest)
            exchange.request_end(allowed_trailers(body.trailers, exchange.request.nominated))
            self._keep(body.rest)

    def _keep(self, rest: bytes) -> None:
        """Bytes behind a request: the next one's."""
        if rest and not self._closing and not self._closed:
            self._buffer = rest + self._buffer
            self.gate()

    def gate(self) -> None:
        exchange = self._exchange
        if self._closed or self._transport is None or self._transport.is_closing():
            return
        reading = True
        if exchange is not None:
            up_full = exchange.up is not None and exchange.up.full
            reading = may_read_request(exchange.state, up_full, len(self._buffer))
        elif not self._closing:
            reading = not (self._buffer and (self.full or self._deferred))
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
                self._office.clients.paused.pop(self, None)
            else:
                self._transport.pause_reading()
                self._office.clients.paused[self] = None

    def early_body(self, exchange: Exchange, limit: int) -> tuple[bytes, bool]:
        body = Body(exchange.request.length)
        try:
            content = body.feed(self._buffer[:limit])
        except ChunkError:
            return b"", True
        return content, body.done or len(self._buffer) >= limit

    def tunnel(self, exchange: Exchange) -> None:
        data = self._buffer
        self._buffer = b""
        if data:
            exchange.tunnel_in(data)
        if not self._reading:
            self.gate()

    # Ends

    def finished(self, exchange: Exchange, whole: bool) -> None:
        self._exchange = None
        self._body = None
        if self._closed or self._closing:
            return
        if (exchange.state & ~7) == TUNNEL:
            self._close()
        elif self._last or not whole or (self._draining and self._office.clients.hurried):
            self._last = True
            if whole and not self._buffer and not exchange.request.keep_alive:
                self._close()  # as the client wished, who sends nothing more
            else:
                self._linger()
        else:
            self._unsent = 0
            self._office.sweep.arm(self, exchange.ended + self._office.settings.keep_alive_timeout)
            if self._buffer:
                self._work()
            elif not self._reading:
                self.gate()

    def cut(self) -> None:
        """The client must see that the response is not complete: no last chunk, missing bytes, or a reset."""
        transport = self._transport
        self._closing = True
        if transport is None:
            return
        if self._reset_on_cut or self.full:
            tcp.close_with_reset(transport)
        else:
            self._close()

    def _leave(self) -> None:
        """The client is gone."""
        exchange = self._exchange
        if exchange is not None:
            self._closing = True
            self._exchange = None
            exchange.left()
            transport = self._transport
            if self._reset_on_cut and transport is not None and not transport.is_closing():
                self.cut()  # it may still read, and what it has must not look whole
                return
        self._close()

    def _linger(self) -> None:
        """Say that no more comes, and read on for a while, so that no reset overtakes the answer."""
        self._closing = True
        self._buffer = b""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write_eof()
        self._office.sweep.arm(self, time.monotonic() + self._office.settings.linger_timeout)
        self.gate()

    def _throw_away(self, size: int) -> None:
        self._lingered += size
        if self._lingered > _LINGERED:
            self.abort()

    def _close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; with a reset, if the client could take what it got for a complete response."""
        self._closing = True
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() or (self._exchange is not None and self._reset_on_cut):
            tcp.close_with_reset(transport)
        else:
            transport.abort()

    def __repr__(self) -> str:
        return f"<ServerConnection {self.peer!r} {self._exchange!r} buffer={len(self._buffer)}>"
