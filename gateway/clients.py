"""The client connections of one worker: how many, whose, which are not being read, and when all are gone.

Laws kept here: no address takes the whole worker; who comes when the worker is full is let in, and whoever has gone
longest without a request makes room (as HAProxy and Envoy do under load), for a client beyond its limit one of its own;
refusing and making room are counted, and both stay cheap under a flood: the table of addresses is no longer than that
of connections, and one look for idle connections frees many places.
"""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import math
import socket
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from gateway.settings import Network
from gateway.sides import Downstream

_SHED_SHARE: Final = 128  # of all connections, one in so many is closed at a time…
_SHED_LEAST: Final = 8  # …but this many
_LOOKED_AT: Final = 1000  # paused connections at one tick of the sweep: some milliseconds
NEVER: Final = math.inf


class Clients:
    """`limit`: connections at once; `address_limit`: of one client (0: no limit), an IPv6 client being a /64.

    `trusted`: peers whose X-Forwarded-* and X-Request-Id are believed; they carry the connections of many clients, so
    that the limit of one doesn't count for them. `shed_age`: seconds for which one has to be idle to make room.
    """

    __slots__ = (
        "_address_limit",
        "_addresses",
        "_limit",
        "_open",
        "_searched",
        "_shed_age",
        "_trusted",
        "accepted",
        "complain",
        "draining",
        "empty",
        "hurried",
        "paused",
        "refused_address",
        "refused_full",
        "shed",
    )

    def __init__(self, limit: int, trusted: tuple[Network, ...], address_limit: int = 0, shed_age: float = 0.0) -> None:
        self._limit = limit
        self._address_limit = address_limit
        self._trusted = trusted
        self._shed_age = shed_age
        self._open: dict[Downstream, None] = {}
        self._addresses: dict[bytes, int] = {}  # connections by client; none that is zero
        self._searched: set[bytes] = set()  # clients (empty: all) with nobody idle: no new look before the next tick
        self.paused: dict[Downstream, None] = {}  # not being read: the kernel alone knows whether the client is there
        self.empty: asyncio.Event | None = None  # set when the last connection is closed
        self.accepted = 0
        self.refused_full = 0  # closed at once: the worker is full, and nobody was idle
        self.refused_address = 0  # the same: the client has too many
        self.shed = 0  # closed while idle, to make room
        self.draining = False  # every response is the last one of its connection
        self.hurried = False  # connections between two requests are closed rather than waited for
        self.complain: Callable[[str], None] | None = None  # a line for the operator

    def opened(self, down: Downstream, address: str, trusted: bool) -> bool:
        """Count it, for its client too unless `trusted`. False: there are too many; `closed` is to follow all the same.

        Making room may close other connections.
        """
        self.accepted += 1
        full = len(self._open) >= self._limit and not self.make_room()
        self._open[down] = None
        if full:
            self.refused_full += 1
            self._tell(self.refused_full, f"{self._limit} client connections, none of them idle: closing new ones")
            return False
        return trusted or self.claim(down, address)

    def claim(self, down: Downstream, address: str) -> bool:
        """From now on `down` counts for `address`: the peer's, or what a trusted proxy told. False: it has too many."""
        if self._address_limit == 0:
            return True
        self._unclaim(down)
        client = client_of(address)
        count = self._addresses.get(client, 0)
        if count >= self._address_limit and self.make_room(client):
            count = self._addresses.get(client, 0)
        if count >= self._address_limit:
            self.refused_address += 1
            self._tell(self.refused_address, f"{address} has {count} connections here: closing new ones")
            return False
        self._addresses[client] = count + 1
        down.client = client
        return True

    def _unclaim(self, down: Downstream) -> None:
        client = down.client
        if client:
            down.client = b""
            count = self._addresses[client] - 1
            if count:
                self._addresses[client] = count
            else:
                del self._addresses[client]

    def closed(self, down: Downstream) -> None:
        self._open.pop(down, None)
        self._unclaim(down)
        if self.empty is not None and not self._open:
            self.empty.set()
        self.paused.pop(down, None)

    def make_room(self, client: bytes = b"") -> int:
        """Close those, of one client or of all, that have gone longest without a request, a few at a time.

        Who was heard of a moment ago may have the next request on the way, and is not idle. Returns how many it closed.
        """
        if client in self._searched:
            return 0
        most = max(len(self._open) // _SHED_SHARE, _SHED_LEAST)
        latest = time.monotonic() - self._shed_age
        idle = [
            (down.idle_since(), number, down)
            for number, down in enumerate(self._open)
            if not client or down.client == client
        ]
        longest = [entry for entry in heapq.nsmallest(most, idle) if entry[0] <= latest]
        for _, _, down in longest:
            self.closed(down)
            down.shed()
        self.shed += len(longest)
        if not longest:
            self._searched.add(client)
        return len(longest)

    def _tell(self, times: int, text: str) -> None:
        if self.complain is not None and times & (times - 1) == 0:  # the 1st, 2nd, 4th, 8th…
            self.complain(f"{text} ({times} so far)")

    def all(self) -> list[Downstream]:
        return list(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def counters(self) -> dict[str, int]:
        """Cumulative, for reports."""
        return {
            "connections": len(self._open),
            "accepted": self.accepted,
            "refused_full": self.refused_full,
            "refused_address": self.refused_address,
            "shed": self.shed,
        }

    def tend(self, now: float) -> None:
        """From the sweep: who has left?"""
        if self._searched:
            self._searched.clear()
        for down in list(islice(self.paused, _LOOKED_AT)):
            if down not in self.paused:
                continue  # one before it has left, which made room for this one: it is read again, or has gone too
            del self.paused[down]  # behind the others, whose turn comes at the next tick
            self.paused[down] = None
            down.look_for_leaving()

    def trusts(self, address: str) -> bool:
        if not self._trusted:
            return False
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)


def client_of(address: str) -> bytes:
    """Whom a connection from `address` counts for: an IPv4 address, or the /64 that one IPv6 client commonly has."""
    if ":" not in address:
        return address.encode()
    try:
        return b"/64 " + socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8]
    except OSError:
        return address.encode()
