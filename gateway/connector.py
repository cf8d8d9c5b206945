"""Connections to replicas: the one thing on a request's way that needs a coroutine. Owns its tasks.

Linux tells a client that it is connected although the replica's listen queue is full, and then takes up to 31 s to make
it true. So the burst that a wake lets go is spaced: a few connections per replica at a time, each counting for 5 ms,
in order. Python's own `http.server` has a queue of five.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, cast

from gateway.errors import Failure
from gateway.http1.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher
    from gateway.exchange import Exchange
    from gateway.replica import Replica


class Connector:
    """Connects for the dispatcher and tells it how that ended."""

    def __init__(self, office: Dispatcher, timeout: float, spacing: float) -> None:
        self._office = office
        self._timeout = timeout
        self._spacing = spacing
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, exchange: Exchange, replica: Replica) -> None:
        """Ends in `office.connected`, and a little later `office.settled`, or in `office.unreached`."""
        task = asyncio.get_running_loop().create_task(self._connect(exchange, replica))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _connect(self, exchange: Exchange, replica: Replica) -> None:
        up = UpstreamConnection(self._office, replica)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().create_connection(
                    functools.partial(cast, asyncio.BaseProtocol, up),  # one by its methods, so that it compiles
                    replica.host,
                    replica.port,
                )
        except TimeoutError:
            failure = Failure(504, "connection_timeout", "connecting to the replica took too long")
        except ConnectionRefusedError:
            failure = Failure(502, "connection_refused", "the replica refuses connections")
        except (OSError, ValueError) as error:  # ValueError: no address at all
            failure = Failure(502, "destination_ip_unroutable", f"the replica can't be reached: {error}")
        else:
            asyncio.get_running_loop().call_later(self._spacing, self._office.settled, replica)
            self._office.connected(exchange, replica, up, time.monotonic())
            return
        self._office.unreached(exchange, replica, failure)
