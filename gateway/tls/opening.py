"""An accepted connection on its way to TLS: its first bytes, the ClientHello, the name's context, the handshake.

A protocol for asyncio by its methods. `ServerConnection` exists from accept on, so that limits, deadlines and draining
are its business as in plain HTTP, and this is its transport until there is one to speak over: a `TlsStream`, or, for
a client that speaks plain HTTP to us and is to be told so, the socket's own.

Laws kept here: the whole handshake has the time of a request head; what can't be served is refused with the alert that
says why, and the alert gets the chance to be read; every handshake that comes to nothing is counted, once; what it
keeps until then is told to `Handshakes`, where there is a bound for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.errors import Malformed
from gateway.http1.server import ServerConnection
from gateway.tls.alerts import UNEXPECTED_MESSAGE, UNRECOGNIZED_NAME, Refusal, record
from gateway.tls.client_hello import LIMIT, HelloReader
from gateway.tls.selection import ACME_TLS, select
from gateway.tls.stream import TlsStream

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher
    from gateway.tls.handshakes import Handshakes

_PIECE: Final = 16 * 1024  # bytes given to OpenSSL at a time
_SPOKEN: Final = 48 * 1024  # bytes that OpenSSL keeps for a handshake under way: measured, 45 KiB…
_SPOKEN_ON: Final = 80 * 1024  # …and when more has come, such as nearly all of a record: 80 KiB
_THROWN_AWAY: Final = 256 * 1024  # bytes read behind an alert

# What it is doing.
_HELLO: Final = 0  # reading the ClientHello
_LOADING: Final = 1  # waiting for the name's context
_SHAKING: Final = 2  # OpenSSL speaks
_REFUSED: Final = 3  # an alert was sent, the last word here: reading on only to throw away
_OVER: Final = 4


class Opening:
    """One accepted connection of a TLS listener, until the handshake is complete."""

    __slots__ = (
        "_closing",
        "_hello",
        "_incoming",
        "_office",
        "_outgoing",
        "_proving",
        "_raw",
        "_shared",
        "_state",
        "_task",
        "_thrown_away",
        "_tls",
        "inner",
    )

    def __init__(self, office: Dispatcher, shared: Handshakes) -> None:
        self._office = office
        self._shared = shared
        self.inner = ServerConnection(office, True)
        self._raw: asyncio.Transport | None = None
        self._state = _OVER
        self._hello = HelloReader()
        self._task: asyncio.Task[None] | None = None  # waits for the context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._proving = False  # to a certificate authority, by a certificate made for it
        self._closing = False
        self._thrown_away = 0

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._raw = transport
        inner = self.inner
        inner.connection_made(cast("asyncio.Transport", self))
        if self._closing:
            return  # too many connections
        self._state = _HELLO
        deadline = time.monotonic() + self._office.settings.head_timeout
        if deadline < inner.deadline:
            self._office.sweep.arm(inner, deadline)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HELLO:
            self._read_hello(data)
        elif state == _SHAKING:
            self._shake(data)
            if self._state == _SHAKING:
                self._shared.hold(self, _SPOKEN_ON)
        elif state == _LOADING:
            self._read_ahead(data)
        else:
            self._thrown_away += len(data)
            if self._thrown_away > _THROWN_AWAY:
                self.abort()

    def eof_received(self) -> bool:
        self._failed("left")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._failed("left")
        self._closing = True
        self.inner.connection_lost(error)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    # The way to a context

    def _read_hello(self, data: bytes) -> None:
        reader, shared = self._hello, self._shared
        if not reader.data and 0x41 <= data[0] <= 0x5A:  # a capital letter: a method
            self._speak_plain(data)
            return
        try:
            hello = reader.feed(data)
            if hello is None:
                shared.hold(self, len(reader.data))
                return
            self._proving = select(hello, shared.contexts.known, shared.proofs.known) == ACME_TLS
        except Refusal as refusal:
            self._refuse(refusal)
            return
        name = hello.server_name
        self.inner.server_name = name.encode("ascii")
        context = (shared.proofs if self._proving else shared.contexts).ready(name)
        if context is not None:
            self._begin(context)
        else:
            self._state = _LOADING
            self._read_ahead(b"")
            if self._state == _LOADING:
                self._task = shared.load(self, name, self._proving)

    def _read_ahead(self, data: bytes) -> None:
        """While the context is built. Reading goes on, to see the client leave; it has no reason to send anything."""
        kept = self._hello.data
        if len(kept) + len(data) > 2 * LIMIT:
            self._refuse(Refusal(UNEXPECTED_MESSAGE, "malformed"))
        else:
            kept += data
            self._shared.hold(self, len(kept))

    def loaded(self, context: ssl.SSLContext | None) -> None:
        """From `Handshakes.load`. None: the certificate turned out to be of no use."""
        self._task = None
        if self._state != _LOADING:
            return
        if context is None:
            self._refuse(Refusal(UNRECOGNIZED_NAME, "unusable"))
        else:
            self._begin(context)

    # The handshake

    def _begin(self, context: ssl.SSLContext) -> None:
        data = bytes(self._hello.data)
        self._hello.data.clear()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._state = _SHAKING
        self._shared.hold(self, _SPOKEN)
        self._shake(data)

    def _shake(self, data: bytes) -> None:
        """`data` has come since. OpenSSL gets it in pieces: its buffers keep the size of what they once held."""
        tls = self._tls
        if tls is None:
            return
        at = 0
        while at < len(data):
            end = at + _PIECE
            self._incoming.write(data[at:end])
            at = end
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                self._flush()  # OpenSSL's alert
                self._end_refused(_reason(error))
                return
            self._flush()
            if self._proving:
                self._proved(tls)
            else:
                self._open(tls, data[at:])
            return
        self._flush()

    def _open(self, tls: ssl.SSLObject, rest: bytes) -> None:
        """The handshake is complete; `rest` came behind it."""
        raw, inner, office = self._raw, self.inner, self._office
        if raw is None or self._closing:
            return
        self._state = _OVER
        self._shared.release(self)
        self._shared.opened(bool(tls.session_reused))
        inner.tls = tls.version() or ""
        if inner.tls == "TLSv1.2":
            self._shared.contexts.relieve(inner.server_name.decode("ascii"))
        stream = TlsStream(raw, inner, tls, self._incoming, self._outgoing, rest)
        inner.moved(cast("asyncio.Transport", stream))
        raw.set_protocol(cast("asyncio.BaseProtocol", stream))
        if not office.clients.hurried:
            office.sweep.arm(inner, time.monotonic() + office.settings.keep_alive_timeout)
        stream.pump()

    def _proved(self, tls: ssl.SSLObject) -> None:
        """The certificate was all that there is to say (RFC 8737 3): close_notify, and the end."""
        shared, inner = self._shared, self.inner
        shared.release(self)
        shared.proved += 1
        shared.proofs.relieve(inner.server_name.decode("ascii"))
        self._incoming.read()  # whatever came behind it: OpenSSL would look there for a close_notify
        with contextlib.suppress(ssl.SSLError):
            tls.unwrap()
        self._flush()
        self._linger()

    # Ends

    def _refuse(self, refusal: Refusal) -> None:
        if self._raw is not None and not self._raw.is_closing():
            self._raw.write(record(refusal.alert))
        self._end_refused(refusal.reason)

    def _end_refused(self, reason: str) -> None:
        """An alert is on its way: no reset may overtake it."""
        self._failed(reason)
        self._linger()

    def _linger(self) -> None:
        raw = self._raw
        self._state = _OVER
        self._tls = None
        if raw is None or raw.is_closing():
            return
        self._state = _REFUSED
        raw.write_eof()
        self._office.sweep.arm(self.inner, time.monotonic() + self._office.settings.linger_timeout)

    def _speak_plain(self, data: bytes) -> None:
        """Tell a client that speaks HTTP here, in the language that it understands."""
        self._failed("plain_http")
        raw, inner = self._raw, self.inner
        if raw is None:
            return
        inner.secure = False
        inner.moved(raw)
        raw.set_protocol(cast("asyncio.BaseProtocol", inner))
        inner.refuse(Malformed("plain HTTP was sent to a port that speaks HTTPS"), data)

    def _failed(self, reason: str) -> None:
        """The handshake comes to nothing. Counted once."""
        if self._state >= _REFUSED:
            return
        self._state = _OVER
        task = self._task
        if task is not None:
            self._task = None
            task.cancel()
        self._tls = None
        self._hello.data.clear()
        self._shared.release(self)
        self._shared.fail(reason)

    def crowded_out(self) -> None:
        self._failed("crowded")
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def _flush(self) -> None:
        raw = self._raw
        if self._outgoing.pending and raw is not None and not raw.is_closing():
            raw.write(self._outgoing.read())

    # The inner connection's transport: it has nothing to say yet

    def write(self, data: bytes) -> None:
        """Nothing is answered before it was asked."""

    def write_eof(self) -> None:
        """Nor ended."""

    def close(self) -> None:
        self._failed("closed")
        self._closing = True
        if self._raw is not None:
            self._raw.close()

    def abort(self) -> None:
        self._failed("timeout" if time.monotonic() >= self.inner.deadline else "closed")
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        """Nothing has been read yet that could be too much."""

    def resume_reading(self) -> None:
        """Nor was it paused."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def __repr__(self) -> str:
        return f"<Opening state={self._state} {self.inner!r}>"


def _reason(error: ssl.SSLError) -> str:
    """Why OpenSSL gave up, as it is counted."""
    reason = error.reason or ""
    if "ALERT" in reason:
        return "alert"  # the client refuses: mostly it doesn't trust the certificate
    return "no_cipher" if reason == "NO_SHARED_CIPHER" else "protocol"
