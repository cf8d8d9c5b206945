"""The node's own gateway as a caller: it brings requests of clients that came to `--api-host`.

It shows a token that the supervisor made at its start and gave to nobody but its workers and this process. What it
brings is its client's: the address that counts for failures and deliveries is that client's, nobody is a local caller
who comes through it, and the request id is the one that the gateway has in its log. Without the token a request is
whoever's connected, and nothing of what it says of others is believed.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiohttp import web

from control.contract.problem import REQUEST_ID, new_request_id

FIELD: Final = b"wakegate-gateway"  # the worker takes out what a client writes there
BROUGHT: Final = web.RequestKey("brought by the gateway", bool)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Maker = Callable[..., web.Request]


class Gateway:
    """`proxies`: those before it whose `X-Forwarded-For` is believed, as `--trusted-proxies` says."""

    def __init__(self, token: str, proxies: Iterable[Network] = ()) -> None:
        self._token = token.encode()
        self._proxies = tuple(proxies)

    def recognizing(self, make: Maker) -> Maker:
        """What makes requests, such that those of the gateway are made its client's."""

        def made(*arguments: Any, **more: Any) -> web.Request:
            request = make(*arguments, **more)
            return self._of_its_client(request) if self._shows_token(request) else request

        return made

    def _shows_token(self, request: web.Request) -> bool:
        shown = [value for name, value in request.raw_headers if name.lower() == FIELD]
        return len(shown) == 1 and self._token != b"" and hmac.compare_digest(shown[0], self._token)

    def _of_its_client(self, request: web.Request) -> web.Request:
        headers = request.headers
        address = self.client(headers.getall("X-Forwarded-For", []))
        theirs = request.clone(remote=address, scheme="https")
        theirs[BROUGHT] = True
        theirs[REQUEST_ID] = headers.get("X-Request-Id") or new_request_id()
        return theirs

    def client(self, told: Iterable[str]) -> str:
        """The last address that is no trusted proxy's; each proxy writes behind what it was told. Empty: nobody's."""
        addresses = [address.strip() for line in told for address in line.split(",")]
        while len(addresses) > 1 and self._trusts(addresses[-1]):
            addresses.pop()
        return addresses[-1] if addresses else ""

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)
