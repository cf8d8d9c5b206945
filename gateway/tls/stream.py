"""An open TLS connection: the protocol of the socket's transport, and the transport of the connection inside.

TLS itself is OpenSSL's, over memory: one read and one write of the socket per request, no task, no timer.

Laws kept here: what is kept of either direction is bounded (`_PIECE`, and what one read of the socket brings); an end
that the client has not announced by close_notify may be anybody's on the way: it is a client that has left, in a tunnel
as elsewhere, and never half of an end (RFC 8446 6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final

from gateway.http1.server import ServerConnection

_PIECE: Final = 16 * 1024  # bytes of one record; OpenSSL's buffers keep the size of what they once held
_UNSENT: Final = 1024 * 1024  # bytes that a client may leave unread while OpenSSL has to answer it


class TlsStream:
    """Made when the handshake is complete. `waiting`: what came behind it and OpenSSL has not got yet."""

    __slots__ = (
        "_closing",
        "_fed",
        "_incoming",
        "_inner",
        "_outgoing",
        "_paused",
        "_peer_ended",
        "_pumping",
        "_raw",
        "_raw_paused",
        "_shut",
        "_tls",
        "_waiting",
    )

    def __init__(
        self,
        raw: asyncio.Transport,
        inner: ServerConnection,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        waiting: bytes,
    ) -> None:
        self._raw = raw
        self._inner = inner
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._waiting = waiting  # ciphertext…
        self._fed = 0  # …of which OpenSSL has got so many bytes
        self._paused = False  # the inner connection takes nothing now
        self._raw_paused = False
        self._pumping = False
        self._peer_ended = False  # close_notify came
        self._shut = False  # close_notify was sent: nothing can be written any more
        self._closing = False

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Never called: the connection was made before."""

    def data_received(self, data: bytes) -> None:
        if self._peer_ended:
            return  # RFC 8446 6.1: ignored
        if self._waiting:
            self._waiting = self._waiting[self._fed :] + data
            self._fed = 0
        elif self._paused or len(data) > _PIECE:
            self._waiting = data
        else:
            self._incoming.write(data)
        if not self._paused:
            self.pump()

    def eof_received(self) -> bool:
        if self._peer_ended:
            return not self._shut  # the other half of a tunnel may go on
        self._inner.truncated()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._waiting = b""
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # From the client to the inner connection

    def pump(self) -> None:
        """Decrypt what there is and hand it on, as long as it is taken."""
        if self._pumping:
            return
        self._pumping = True
        incoming, inner = self._incoming, self._inner
        while not self._paused and not self._closing and not self._peer_ended:
            if incoming.pending == 0 and not self._feed():
                break
            try:
                data = self._tls.read(_PIECE)  # one record; none is ever left inside OpenSSL
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                self._broken()
                break
            if data:
                inner.data_received(data)
            else:
                self._ended()
        self._pumping = False
        if self._raw_paused and not self._paused:
            self._resume_raw()
        if self._outgoing.pending:
            self._answer()

    def _feed(self) -> bool:
        """Give OpenSSL the next piece; False: there is none."""
        if not self._waiting:
            return False
        fed = self._fed
        end = fed + _PIECE
        self._incoming.write(self._waiting[fed:end])
        if end < len(self._waiting):
            self._fed = end
        else:
            self._waiting = b""
            self._fed = 0
        return True

    def _ended(self) -> None:
        """close_notify: the client sends no more."""
        self._peer_ended = True
        self._waiting = b""
        if not self._inner.eof_received():
            self.close()

    def _broken(self) -> None:
        """Not what the client encrypted: OpenSSL has an alert for it."""
        self._flush()
        self._shut = True
        self._inner.truncated()
        self.close()

    def _answer(self) -> None:
        """OpenSSL has something to say itself. A client that makes it talk and doesn't listen is left."""
        self._flush()
        if not self._raw.is_closing() and self._raw.get_write_buffer_size() > _UNSENT:
            self.abort()

    def _resume_raw(self) -> None:
        if not self._closing and not self._raw.is_closing():
            self._raw_paused = False
            self._raw.resume_reading()

    # The inner connection's transport

    def write(self, data: bytes) -> None:
        if self._shut:
            return
        tls, outgoing, raw = self._tls, self._outgoing, self._raw
        try:
            if len(data) <= _PIECE:
                tls.write(data)
                raw.write(outgoing.read())
                return
            at = 0
            while at < len(data):
                end = at + _PIECE
                tls.write(data[at:end])
                raw.write(outgoing.read())
                at = end
        except ssl.SSLError:
            self.abort()

    def write_eof(self) -> None:
        """Our half is over: close_notify, then FIN."""
        if self._closing or self._raw.is_closing():
            return
        self._notify()
        self._raw.write_eof()

    def close(self) -> None:
        """Close once everything written has left, close_notify last."""
        if self._closing:
            return
        self._closing = True
        self._notify()
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        if not self._raw_paused and not self._raw.is_closing():
            self._raw_paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """What was read meanwhile comes later, from the loop, as from any transport."""
        self._paused = False
        if self._pumping or not self._raw_paused:
            return
        if self._waiting or self._incoming.pending:
            asyncio.get_running_loop().call_soon(self.pump)
        else:
            self._resume_raw()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` is ours, the rest (`socket`, `peername`…) the socket's."""
        return self._tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Bytes of ciphertext."""
        return self._raw.get_write_buffer_size()

    def _notify(self) -> None:
        """Send close_notify, once."""
        if self._shut:
            return
        if self._incoming.pending:  # OpenSSL would look there for the client's own close_notify, and take nothing else
            self._waiting = self._incoming.read() + self._waiting[self._fed :]
            self._fed = 0
        with contextlib.suppress(ssl.SSLError):  # SSLWantReadError: the client has not said the same yet
            self._tls.unwrap()
        self._flush()
        self._shut = True

    def _flush(self) -> None:
        """What OpenSSL has written itself; nothing behind our FIN."""
        if self._outgoing.pending:
            data = self._outgoing.read()
            if not self._shut and not self._raw.is_closing():
                self._raw.write(data)

    def __repr__(self) -> str:
        return f"<TlsStream {self._tls.version()} {self._inner!r}>"
