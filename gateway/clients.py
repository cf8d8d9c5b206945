"""The client connections of one worker: how many, which are not being read, and when all are gone."""

from __future__ import annotations

import asyncio
import ipaddress

from gateway.settings import Network
from gateway.sides import Downstream


class Clients:
    """`limit`: connections at once; `trusted`: peers whose X-Forwarded-* and X-Request-Id are believed."""

    __slots__ = ("_limit", "_open", "_trusted", "accepted", "draining", "empty", "paused")

    def __init__(self, limit: int, trusted: tuple[Network, ...]) -> None:
        self._limit = limit
        self._trusted = trusted
        self._open: dict[Downstream, None] = {}
        self.paused: dict[Downstream, None] = {}  # not being read: the kernel alone knows whether the client is there
        self.empty: asyncio.Event | None = None  # set when the last connection is closed
        self.accepted = 0
        self.draining = False

    def opened(self, down: Downstream) -> bool:
        """False: there are too many."""
        self.accepted += 1
        self._open[down] = None
        return len(self._open) <= self._limit

    def closed(self, down: Downstream) -> None:
        self._open.pop(down, None)
        if self.empty is not None and not self._open:
            self.empty.set()
        self.paused.pop(down, None)

    def all(self) -> list[Downstream]:
        return list(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def tend(self, now: float) -> None:
        """From the sweep: who has left?"""
        for down in list(self.paused):
            down.look_for_leaving()

    def trusts(self, address: str) -> bool:
        if not self._trusted:
            return False
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)
