"""How responses leave to a client in HTTP/1.1 (RFC 9112): framing, persistence, and the fields of a gateway.

Law kept here: the client can always tell a complete body from one that was cut.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.exchange import Exchange
from gateway.http1.chunked import chunk, last_chunk
from gateway.messages import UNKNOWN, Response
from gateway.secure import has_hsts
from gateway.sides import Downstream

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher

_JOINED: Final = 16 * 1024  # bytes of body that are copied behind the head rather than written apart
_STATUS_LINES: Final = [b"HTTP/1.1 %d " % status for status in range(600)]


class ResponseWriter(Downstream):
    """The half of a client's connection that writes."""

    __slots__ = ("_chunking", "_draining", "_last", "_office", "_reset_on_cut", "_transport")

    def __init__(self, office: Dispatcher) -> None:
        super().__init__()
        self._office = office
        self._transport: asyncio.Transport | None = None
        self._chunking = False  # the response goes out in chunks
        self._reset_on_cut = False  # the response ends with the connection: a cut must be a reset
        self._last = False  # the connection ends with this response
        self._draining = False  # it ends with the next one

    def send_interim(self, exchange: Exchange, response: Response) -> None:
        if exchange.request.old:
            return
        parts = [_STATUS_LINES[response.status], response.reason, b"\r\n"]
        for line in response.lines:
            parts.append(line)
            parts.append(b"\r\n")
        if response.status == 101:
            if exchange.hold > 0.0:
                parts.append(b"Server-Timing: " + self._office.holding.timing(exchange) + b"\r\n")
            parts.append(b"Connection: upgrade\r\nUpgrade: " + response.upgrade + b"\r\n")
            parts.append(
                b"Via: 1.1 " + self._office.via + b"\r\nX-Request-Id: " + exchange.request.request_id + b"\r\n"
            )
        parts.append(b"\r\n")
        data = b"".join(parts)
        exchange.bytes_out += len(data)
        self._write(data)

    def send_head(
        self, exchange: Exchange, response: Response, body: bytes, ended: bool, trailers: list[bytes]
    ) -> None:
        request = exchange.request
        self._chunking = False
        self._reset_on_cut = False
        if response.length == UNKNOWN and not response.bodiless:
            if request.old:
                self._last = True
                self._reset_on_cut = True
            else:
                self._chunking = True
        if not exchange.body_ended and request.length != 0 and (ended or request.expects_continue):
            self._last = True  # the body, if it still comes, will not be read to its end
        if self._draining:
            self._last = True
        head = self._head_bytes(response, exchange)
        if self._chunking:
            body = self._chunks(body, ended, trailers)
        size = len(body)
        exchange.bytes_out += len(head) + size
        if size == 0:
            self._write(head)
        elif size <= _JOINED:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def send_body(self, exchange: Exchange, body: bytes, ended: bool, trailers: list[bytes]) -> None:
        if self._chunking:
            body = self._chunks(body, ended, trailers)
        if body:
            exchange.bytes_out += len(body)
            self._write(body)

    def _chunks(self, body: bytes, ended: bool, trailers: list[bytes]) -> bytes:
        data = chunk(body) if body else b""
        return data + last_chunk(trailers) if ended else data

    def _head_bytes(self, response: Response, exchange: Exchange | None, unread: bytes = b"") -> bytes:
        """`unread`: the request id if no request could be read."""
        office = self._office
        parts = [_STATUS_LINES[response.status], response.reason, b"\r\n"]
        if response.lines:
            parts.append(b"\r\n".join(response.lines))
            parts.append(b"\r\n")
        if not response.dated:
            parts.append(b"Date: ")
            parts.append(office.sweep.date)
            parts.append(b"\r\n")
        if self._chunking:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if office.hsts and self.secure and not has_hsts(response.lines):
            parts.append(office.hsts)
        if exchange is not None:
            if exchange.hold > 0.0:
                parts.append(b"Server-Timing: " + office.holding.timing(exchange) + b"\r\n")
            if self._last:
                parts.append(b"Connection: close\r\n")
            elif exchange.request.old:
                parts.append(b"Connection: keep-alive\r\n")
            parts.append(office.via_old_response if response.old else office.via_response)
            parts.append(exchange.request.request_id)
        else:
            parts.append(b"Connection: close\r\n")
            parts.append(office.via_response)
            parts.append(unread)
        parts.append(b"\r\n\r\n")
        return b"".join(parts)

    def send_raw(self, data: bytes) -> None:
        self._write(data)

    def end_raw(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
