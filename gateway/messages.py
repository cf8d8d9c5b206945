"""Requests and responses as the exchange sees them, whatever HTTP version carried them.

Fields are kept as validated lines, `b"Name: value"` without line end, because that is how they arrive and leave in
HTTP/1; hop-by-hop fields (RFC 9110 7.6.1) and those that the gateway writes itself are not among them.
"""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = -1  # a body whose length is not known beforehand


class Request:
    """A request head. `length`: bytes of the body, 0 = none, UNKNOWN = until its end is told."""

    __slots__ = (
        "accept",
        "expects_continue",
        "forwarded_for",
        "forwarded_host",
        "forwarded_proto",
        "host",
        "keep_alive",
        "length",
        "lines",
        "max_forwards",
        "method",
        "nominated",
        "old",
        "parent",
        "request_id",
        "takes_trailers",
        "target",
        "trace",
        "upgrade",
        "user_agent",
    )

    def __init__(self, method: bytes, target: bytes, old: bool) -> None:
        self.method = method
        self.target = target  # origin form or `*` (RFC 9112 3.2)
        self.old = old  # HTTP/1.0: no interim responses, no chunks
        self.host = b""  # as it came: with port, in any case
        self.lines: list[bytes] = []
        self.length = 0
        self.keep_alive = not old
        self.expects_continue = False
        self.takes_trailers = False
        self.nominated: list[bytes] | None = None  # fields that `Connection` named, in lower case
        self.upgrade = b""  # the protocol asked for (RFC 9110 7.8), empty: none
        self.max_forwards = -1
        self.accept = b""
        self.request_id = b""
        self.trace = b""  # traceparent that came along, then the one that is sent on
        self.parent: bytes | None = None  # the span above ours, empty: it is the root; None: there is none of ours
        self.user_agent = b""  # its line, for the log
        self.forwarded_for = b""
        self.forwarded_proto = b""
        self.forwarded_host = b""

    @property
    def idempotent(self) -> bool:
        """RFC 9110 9.2.2: may be sent again although a replica may have seen it."""
        return self.method in _IDEMPOTENT

    def __repr__(self) -> str:
        return f"<Request {self.method!r} {self.target!r} host={self.host!r} length={self.length}>"


class Response:
    """A response head. `length` as in Request; `bodiless`: none follows whatever `length` says (HEAD, 204, 304)."""

    __slots__ = (
        "bodiless",
        "chunked",
        "dated",
        "keep_alive",
        "length",
        "lines",
        "nominated",
        "old",
        "reason",
        "reuse_for",
        "status",
        "upgrade",
    )

    def __init__(self, status: int, reason: bytes) -> None:
        self.status = status
        self.reason = reason
        self.lines: list[bytes] = []
        self.length = UNKNOWN
        self.bodiless = False
        self.chunked = False  # how the body came
        self.dated = False  # has a Date
        self.old = False  # came in HTTP/1.0
        self.nominated: list[bytes] | None = None  # fields that `Connection` named, in lower case
        self.keep_alive = True  # the connection that it came on
        self.reuse_for = 0  # seconds that the peer keeps an idle connection, 0: it did not say
        self.upgrade = b""

    def __repr__(self) -> str:
        return f"<Response {self.status} length={self.length}>"


_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})
