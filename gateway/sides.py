"""The two sides of an exchange and its keeper, as the exchange needs them: no HTTP version, no sockets.

Base classes rather than protocols, so that calls through them are cheap when compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Failure
from gateway.messages import Response
from gateway.sweep import Timed

if TYPE_CHECKING:
    from gateway.exchange import Exchange


class Downstream(Timed):
    """The client's side, as the exchange needs it."""

    __slots__ = ("authority", "client", "forwarded", "full", "peer", "secure", "server_name", "tls")

    def __init__(self) -> None:
        super().__init__()
        self.full = False  # more is written than the client takes
        self.peer = b""  # the client's address
        self.client = b""  # whom it counts for in `Clients`; empty: nobody
        self.secure = False
        self.tls = ""  # the version of TLS that is spoken, as OpenSSL calls it (TLSv1.3); empty: none
        self.server_name = b""  # TLS: what the client asked for in its handshake, in lower case (RFC 6066 3)
        self.authority = b""  # the Host field that was last found to mean `server_name`
        self.forwarded = b""  # the forwarded fields of all its requests, up to X-Forwarded-Host's value

    def due(self, deadline: float) -> None:
        """When the exchange wants to be told of its expiry, unless it says another time before (monotonic)."""
        raise NotImplementedError

    def send_interim(self, exchange: Exchange, response: Response) -> None:
        """A 1xx, if the client can take one."""
        raise NotImplementedError

    def send_head(
        self, exchange: Exchange, response: Response, body: bytes, ended: bool, trailers: list[bytes]
    ) -> None:
        """The final head with what there is of the body, in one go."""
        raise NotImplementedError

    def send_body(self, exchange: Exchange, body: bytes, ended: bool, trailers: list[bytes]) -> None:
        """More of the body, or its end, or both."""
        raise NotImplementedError

    def send_raw(self, data: bytes) -> None:
        """Bytes of a tunnel."""
        raise NotImplementedError

    def end_raw(self) -> None:
        """The replica's direction of a tunnel is over."""
        raise NotImplementedError

    def read_body(self, exchange: Exchange) -> None:
        """The request's body may come now."""
        raise NotImplementedError

    def early_body(self, exchange: Exchange, limit: int) -> tuple[bytes, bool]:
        """What of the request's body has come before anybody asked for it, as content of at most `limit` bytes as they
        were sent; whether that is all of it, or of those.
        """
        raise NotImplementedError

    def wait_with_rest(self, exchange: Exchange) -> None:
        """If it waits: so do the bytes behind its head, which count as held."""
        raise NotImplementedError

    def tunnel(self, exchange: Exchange) -> None:
        """Everything read from now on belongs to the tunnel."""
        raise NotImplementedError

    def gate(self) -> None:
        """Something that `may_read_request` looks at has changed."""
        raise NotImplementedError

    def finished(self, exchange: Exchange, whole: bool) -> None:
        """The exchange is over. `whole`: the request was read to its end and the response sent to its end."""
        raise NotImplementedError

    def cut(self) -> None:
        """The response can't be completed: make the client see that."""
        raise NotImplementedError

    def drain(self, patient: bool) -> None:
        """End with the response under way, or with the next one.

        That is waited for as ever if `patient`; else only a first one, for a moment.
        """
        raise NotImplementedError

    def waits(self) -> bool:
        """Whether there is a request that has not gone to a replica."""
        raise NotImplementedError

    def dismiss(self, failure: Failure) -> None:
        """Answer such a request."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close whatever goes on."""
        raise NotImplementedError

    def look_for_leaving(self) -> None:
        """Not being read: has the client left? If so, act on it."""
        raise NotImplementedError

    def idle_since(self) -> float:
        """Since when there has been no request with a complete head (monotonic). Infinite: there is one."""
        raise NotImplementedError

    def shed(self) -> None:
        """While idle: close, another needs the place."""
        raise NotImplementedError


class Upstream(Timed):
    """The replica's side, as the exchange and the pool need it."""

    __slots__ = ("full", "reused_at", "settled", "usable_until")

    def __init__(self) -> None:
        super().__init__()
        self.full = False  # more is written than the replica takes
        self.settled = False  # new connections to the replica no longer wait for this one
        self.usable_until = 0.0  # while idle: when the replica may close it
        self.reused_at = 0.0  # when it was last taken for another request (monotonic); 0: it is fresh

    def send_request(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def send_body(self, body: bytes) -> None:
        raise NotImplementedError

    def end_request(self, trailers: list[bytes]) -> None:
        """Only for bodies of unknown length: tell where they end."""
        raise NotImplementedError

    def send_raw(self, data: bytes) -> None:
        raise NotImplementedError

    def end_raw(self) -> None:
        raise NotImplementedError

    def gate(self, reading: bool) -> None:
        """Read, or stop reading."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once and call nobody."""
        raise NotImplementedError

    def forsake(self, exchange: Exchange) -> None:
        """Its exchange is over, or broken: call nobody of it.

        Close at once, or, where requests at once are limited, only this side until the replica closes the other: it
        may still be at work on the request.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close once what is written has been sent, for which there is a limit, and call nobody."""
        raise NotImplementedError

    def alive(self, sure: bool) -> bool:
        """While idle: may it take a request? `sure`: ask the kernel, for requests that can't be sent twice."""
        raise NotImplementedError


class Keeper:
    """Who looks after exchanges: routes, picks, holds, retries and counts."""

    __slots__ = ()

    def lost(self, exchange: Exchange, failure: Failure) -> None:
        """The replica failed before its final head. Send it again, hold it, or answer `failure`."""
        raise NotImplementedError

    def resumed(self, exchange: Exchange) -> None:
        """A stream that was begun while it was held goes on with what the replica says."""
        raise NotImplementedError

    def leave(self, exchange: Exchange) -> None:
        """The client of a held exchange is gone."""
        raise NotImplementedError

    def waits(self, exchange: Exchange, now: float) -> None:
        """It has not been sent yet, and the time that was set for it is over. May set another."""
        raise NotImplementedError

    def ended(self, exchange: Exchange) -> None:
        """It is over: count, log, free the slot."""
        raise NotImplementedError
