"""The host under which the gateway serves the Services API to tenants and forges (`--api-host`): over TLS only.

It forwards to the API of its own node, and says so with a token that the supervisor has given to both, so that the API
takes the client's address from it and nobody for a local caller. Laws kept here: credentials that came in clear text
are never passed on, and who sent them is told; 7 (what is held for the API is bounded, and told when it is in vain).
"""

from __future__ import annotations

import time
from typing import Final

from gateway.errors import Failure, Redirect
from gateway.exchange import Exchange, Limits
from gateway.fields import GATEWAY_FIELD
from gateway.secure import port_of
from gateway.service import Service
from gateway.settings import ApiSettings, GatewaySettings
from gateway.table import Special
from state.models import Backend, Endpoint

NAME: Final = "api"  # in counters and logs, without a namespace
_RESPONSE: Final = 3700.0  # seconds: a call may wait for an hour, a stream gives a sign of life each 15 s
_HOLD: Final = 10.0  # seconds that a request waits for an API that can't be reached…
_HELD: Final = 100  # …and how many do
_AT_ONCE: Final = 1000  # requests at the API, of one worker
_PROBLEM: Final = b"application/problem+json"  # what its clients read (RFC 9457)


class ApiHost(Special):
    """`service`: the API as a service of one replica; None: this node has none."""

    __slots__ = ("_limits", "_origin", "_token_line", "service")

    def __init__(self, api: ApiSettings, settings: GatewaySettings) -> None:
        port = port_of(settings.public_https_port, 443)
        self._origin = b"https://" + api.host.encode("ascii") + port
        self._token_line = GATEWAY_FIELD + b": " + api.token.encode("ascii")
        self._limits = Limits(
            _RESPONSE,
            settings.body_timeout,
            settings.tunnel_timeout,
            settings.half_closed_timeout,
            settings.body_rate,
            -1,  # the API has bounds of its own
        )
        self.service = None if api.address is None else _service(api.address)

    def refusal(self, exchange: Exchange) -> Failure | None:
        """Why a request is not forwarded; None: it is."""
        request = exchange.request
        if exchange.secure:
            request.accept = _PROBLEM
            if self.service is None:
                details = "this node has no API (--role gateway): let the host lead to nodes that have one"
                return Failure(503, "destination_unavailable", details)
            return None
        if request.method in (b"GET", b"HEAD") and request.target.startswith(b"/"):
            return Redirect(self._origin + request.target)
        request.accept = _PROBLEM
        details = "the API is served over https only: credentials that were sent without it must be changed now"
        return Failure(403, "http_request_denied", details)

    def introduce(self, exchange: Exchange) -> None:
        """Before it is forwarded: the API is to know who brings it."""
        exchange.limits = self._limits
        exchange.request.lines.append(self._token_line)

    def __repr__(self) -> str:
        return f"<ApiHost {self._origin!r} {self.service!r}>"


def _service(address: tuple[str, int]) -> Service:
    service = Service(NAME, _HELD, _HOLD)
    replica = Endpoint(NAME, *address)
    backend = Backend(NAME, "", NAME, endpoints=(replica,), concurrency=_AT_ONCE)
    service.apply(backend, _HOLD, time.monotonic())
    service.title = NAME
    return service
