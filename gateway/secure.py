"""What a client is told about HTTPS: to come over it, to remember that, or that it asked under another name; and where
a domain is that leads to another one.

Pure but for the look at the certificates in memory. Decisions are remembered by Host field, so that a warm request that
needs none of this costs a comparison of two values.
"""

from __future__ import annotations

from typing import Final

from gateway.challenges import PATH
from gateway.errors import Failure, Redirect
from gateway.exchange import Exchange
from gateway.messages import Request
from gateway.settings import GatewaySettings
from gateway.sides import Downstream
from gateway.table import Special, Table, Unserved, plain_host
from gateway.tls.contexts import Contexts, Material

_REMEMBERED: Final = 4096  # Host fields as they are spelled
_HSTS: Final = b"strict-transport-security:"


class Redirects:
    """From http to https (`--https-redirect`); one per worker."""

    __slots__ = ("_contexts", "_domain", "_every", "_origins", "_port")

    def __init__(self, settings: GatewaySettings, contexts: Contexts[Material]) -> None:
        self._contexts = contexts
        self._every = settings.https_redirect == "on"
        self._domain = "." + settings.domain
        self._port = port_of(settings.public_https_port, 443)
        self._origins: dict[bytes, bytes] = {}  # by Host: where it is served instead, empty: nowhere else

    def location(self, request: Request) -> bytes:
        """Where a request that came without TLS should go; empty: it is served as it is."""
        host = request.host
        origin = self._origins.get(host)
        if origin is None:
            origin = self._decide(host)
        if not origin or request.forwarded_proto == b"https":
            return b""
        target = request.target
        if target.startswith(PATH) or not target.startswith(b"/"):
            return b""
        return origin + target

    def forget(self) -> None:
        """Certificates changed."""
        self._origins.clear()

    def _decide(self, host: bytes) -> bytes:
        name = plain_host(host)
        origin = b"https://" + name + self._port if self._wanted(name.decode("ascii")) else b""
        if len(self._origins) >= _REMEMBERED:
            self._origins.clear()
        self._origins[host] = origin
        return origin

    def _wanted(self, name: str) -> bool:
        material = self._contexts.find(name)
        if material is None:
            return False
        return self._every or (material.trusted and not ("." + name).endswith(self._domain))


class Moves:
    """Where requests go whose domain leads to another one; one per worker. `contexts`: None where TLS isn't spoken."""

    __slots__ = ("_always", "_contexts", "_http_port", "_https_port")

    def __init__(self, settings: GatewaySettings, contexts: Contexts[Material] | None) -> None:
        self._contexts = None if settings.https_redirect == "off" else contexts
        self._always = settings.https_redirect == "on"
        self._http_port = port_of(settings.public_http_port, 80)
        self._https_port = port_of(settings.public_https_port, 443)

    def location(self, exchange: Exchange, host: bytes) -> bytes:
        """The same at `host`: over https if the client came so or it has a certificate to be trusted."""
        target = exchange.request.target
        path = target if target.startswith(b"/") else b""  # `*` is about the host itself (RFC 9110 7.1)
        if exchange.secure or self._upgrades(host.decode("ascii")):
            return b"https://" + host + self._https_port + path
        return b"http://" + host + self._http_port + path

    def _upgrades(self, name: str) -> bool:
        material = self._contexts.find(name) if self._contexts is not None else None
        return material is not None and (self._always or material.trusted)


def port_of(port: int | None, usual: int) -> bytes:
    """As it is written in a URL."""
    return b"" if port is None or port == usual else b":%d" % port


def turn_away(exchange: Exchange, redirects: Redirects | None, table: Table) -> bool:
    """Answer a request that is not to be served over this connection. False: it is, or its host has its own ways."""
    request, down = exchange.request, exchange.down
    if down.secure:
        if request.host == down.authority or not _misdirected(request, down):
            return False
        exchange.answer(Failure(421, "http_request_error", "the connection was made for another host"))
        return True
    location = redirects.location(request) if redirects is not None else b""
    if not location or _special(table, request.host):
        return False
    exchange.answer(Redirect(location))
    return True


def _special(table: Table, host: bytes) -> bool:
    found = table.find(host)
    return isinstance(found, Special) and not isinstance(found, Unserved)


def _misdirected(request: Request, down: Downstream) -> bool:
    """RFC 9110 7.4: a certificate was shown for one name; what it says of others we don't ask it."""
    if not request.host:
        return False  # HTTP/1.0: nothing is routed by it, either
    if plain_host(request.host) != down.server_name:
        return True
    down.authority = request.host
    return False


def hsts_line(seconds: int | None) -> bytes:
    """Strict-Transport-Security with its line end (RFC 6797 6.1), empty: none."""
    return b"" if seconds is None else b"Strict-Transport-Security: max-age=%d\r\n" % seconds


def has_hsts(lines: list[bytes]) -> bool:
    """Whether the replica has said it itself."""
    return any(line[: len(_HSTS)].lower() == _HSTS for line in lines)
