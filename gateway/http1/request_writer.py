"""A request's head as a replica gets it: the fields that are kept, and those that a gateway writes (RFC 9110 7.6)."""

from __future__ import annotations

from gateway.exchange import Exchange


def request_head(exchange: Exchange, via: bytes) -> bytes:
    """`via`: the lines from Via up to the value of X-Request-Id."""
    request = exchange.request
    parts = [request.method, b" ", request.target, b" HTTP/1.1\r\nHost: ", request.host, b"\r\n"]
    if request.lines:
        parts.append(b"\r\n".join(request.lines))
        parts.append(b"\r\n")
    if request.forwarded_for or request.forwarded_proto or request.forwarded_host:
        _relay(exchange, parts)
    else:
        parts.append(exchange.down.forwarded)
        parts.append(request.host)
    parts.append(via)
    parts.append(request.request_id)
    parts.append(b"\r\ntraceparent: ")
    parts.append(request.trace)
    if request.length < 0:
        parts.append(b"\r\nTransfer-Encoding: chunked")
    if request.expects_continue:
        parts.append(b"\r\nExpect: 100-continue")
    if request.upgrade:
        parts.append(b"\r\nConnection: upgrade\r\nUpgrade: " + request.upgrade)
    elif request.takes_trailers:
        parts.append(b"\r\nConnection: TE\r\nTE: trailers")
    parts.append(b"\r\n\r\n")
    return b"".join(parts)


def _relay(exchange: Exchange, parts: list[bytes]) -> None:
    """The forwarded fields behind a trusted proxy."""
    request = exchange.request
    down = exchange.down
    addresses = request.forwarded_for + b", " + down.peer if request.forwarded_for else down.peer
    proto = request.forwarded_proto or (b"https" if down.secure else b"http")
    parts.append(b"X-Forwarded-For: " + addresses + b"\r\nX-Forwarded-Proto: " + proto)
    parts.append(b"\r\nX-Forwarded-Host: " + (request.forwarded_host or request.host))
