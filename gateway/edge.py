"""The data plane of one worker process, as its runtime sees it.

The runtime owns the sockets, the mirror of the store and the pipe; `Edge` owns everything between an accepted
connection and a replica. Nothing here waits for the store (law 1); what it asks of the rest of the system is the
`Demand` protocol below, and both of its calls only hurry what the next report would say anyway (law 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.access_log import AccessLog
from gateway.settings import GatewaySettings
from gateway.table import Table
from state.models import Backend


class Demand(Protocol):
    """What the data plane tells the world outside. Both are called on the loop and must not block or raise."""

    def wake(self, service_id: str) -> None:
        """A request is held and no ready replica is known; at most once per service per 100 ms."""

    def changed(self, service_id: str) -> None:
        """The in-flight count of a replica that is draining or gone fell to zero: report now."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one service asks of this worker now. A pick counts as in flight."""

    in_flight: int
    held: int
    held_ms: int  # how long the oldest has been held
    replicas: Mapping[str, int]  # replica id -> in flight; zeros left out


class Edge:
    """Construct, `start()` on the running loop, give `protocol_factory()` to the listeners, `await drain()`, `close()`."""

    def __init__(self, settings: GatewaySettings, table: Table, access_log: AccessLog, demand: Demand) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin the sweep of deadlines (every 250 ms). The loop must be running."""
        raise NotImplementedError

    def protocol_factory(self) -> Callable[[], asyncio.BaseProtocol]:
        """For `loop.create_server(factory, sock=…, backlog=4096)`: one protocol per client connection, plain HTTP."""
        raise NotImplementedError

    def update(self, backend: Backend) -> None:
        """A service's backend changed. Releases held requests as far as there is capacity, or refuses them.

        Takes effect before it returns: an acknowledgement may be sent afterwards. A service that this worker never
        served is not built by this (its backend is looked up through `Table`'s source when first asked for).
        """
        raise NotImplementedError

    def forget(self, service_id: str) -> None:
        """The backend is gone (service removed): held requests get 503, those in flight finish."""
        raise NotImplementedError

    def reroute(self, host: str) -> None:
        """The route of `host` was added, changed or removed. Requests held by a service that was deleted get 503."""
        raise NotImplementedError

    def resync(self) -> None:
        """Everything may have changed: look all known hosts and services up again in `Table`'s source."""
        raise NotImplementedError

    def loads(self) -> dict[str, Load]:
        """By service id; services with nothing in flight and nothing held are left out (zero)."""
        raise NotImplementedError

    def counters(self) -> dict[str, Any]:
        """Cumulative numbers since the start of this worker, plain JSON.

        {"services": {id: {"namespace", "name",
                           "requests": {"200": n}, "bytes_in": n, "bytes_out": n,
                           "duration": {"<bucket>": n}, "duration_sum": seconds,
                           "hold": {"<bucket>": n}, "hold_sum": seconds,      # every hold that ended, however it ended
                           "errors": {"connection_refused": n, …},             # upstream errors by kind
                           "retries": n}},
         "connections": now open, "accepted": n, "log_dropped": lines}
        Buckets are indices of `gateway.histogram` (`upper(index)` = its upper bound in seconds). Requests that reached
        no service are under the id "" with empty names. Services without a single request are left out.
        """
        raise NotImplementedError

    @property
    def connections(self) -> int:
        """Open client connections."""
        raise NotImplementedError

    async def drain(self, timeout: float) -> bool:
        """Close idle client connections, say `Connection: close` on the others, wait until all are gone.

        Held requests go on being held. True: none was left within `timeout` seconds. Doesn't close listeners.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Cut what is left, stop the sweep, drop idle upstream connections. The access log is its owner's to close."""
        raise NotImplementedError
