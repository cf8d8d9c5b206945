"""Everything that the data plane can be told, as one frozen object. Times are seconds, sizes are bytes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The Services API under a `host` of its own (`api_host.py`). `address`: that of this node's API, None: none here.

    `token`: by which the API knows that it is its own gateway that speaks.
    """

    host: str
    address: tuple[str, int] | None
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The node's defaults; a service's own `hold_timeout` and `concurrency` come with its `Backend`."""

    via: str = "wakegate"  # pseudonym in Via and Proxy-Status (RFC 9110 7.6.3)

    hold_timeout: float = 120.0  # longest hold, then 504
    hold_limit: int = 1000  # held requests per service, then 503
    hold_bytes: int = 256 * 1024 * 1024  # bytes beyond the heads of all held requests together, then 503

    hold_keepalive_every: float = 15.0  # who is held is told so, where the service wants that
    waiting_page_after: float = 3.0  # a browser held for so long gets the waiting page
    waiting_page_again: float = 20.0  # the same, if it shows a page already

    connect_timeout: float = 5.0
    connect_spacing: float = 0.005  # age at which a new connection to a replica is taken for accepted (`pacing.py`)
    response_timeout: float = 300.0  # head of the response; time without a byte once streaming
    head_timeout: float = 30.0  # from a request head's first byte to its last, then 408
    body_timeout: float = 60.0  # time without a byte of a request's body, then 408
    body_rate: int = 500  # bytes a second that a request's body must bring over each `body_timeout`, else 408; 0: any
    keep_alive_timeout: float = 75.0  # idle client connection
    linger_timeout: float = 2.0  # reading on after an early answer (RFC 9112 9.6)
    tunnel_timeout: float = 3600.0  # upgraded connection without a byte either way
    half_closed_timeout: float = 60.0  # the same once one side has said that it sends no more
    drain_timeout: float = 30.0
    drain_grace: float = 1.0  # for a client that is connected and has not sent its first request when draining begins

    upstream_idle_timeout: float = 60.0  # idle connection to a replica
    upstream_idle_limit: int = 256  # idle connections kept per replica
    upstream_idle_total: int = 4096  # and in all; beyond it those that have been idle the longest are closed
    attempts: int = 3  # times that one request may reach replicas

    max_body: int | None = None  # 413 above
    head_limit: int = 64 * 1024  # request head and header section, 431 above
    field_limit: int = 100  # fields of a request, 431 above
    target_limit: int = 8 * 1024  # 414 above
    response_head_limit: int = 256 * 1024  # 502 above
    connection_limit: int = (
        100_000  # client connections of one worker; beyond it idle ones make room, or new ones close
    )
    shed_age: float = 1.0  # seconds for which a connection has to be idle before it has to make room for another
    connect_limit: int = 0  # no connection to a replica gets this descriptor or a higher one; 0: any
    address_limit: int = 10_000  # of one client (IPv6: a /64) at one worker, trusted proxies apart; more close at once

    trusted_proxies: tuple[Network, ...] = ()  # peers whose X-Forwarded-* and X-Request-Id are believed

    domain: str = ""  # platform domain: its names are never redirected to https by "auto"
    https_redirect: str = "auto"  # on: whatever has a certificate; auto: of those, trusted ones of custom domains; off
    public_http_port: int | None = None  # that clients see; None: 80
    public_https_port: int | None = None  # None: 443
    api: ApiSettings | None = None  # None: no host of the gateway is the API's
    hsts: int | None = None  # seconds, the max-age of Strict-Transport-Security (RFC 6797); None: no such field
