"""Connections that may begin with a preface of the PROXY protocol: only made where proxies are trusted at all.

From a trusted peer a preface is read, or found missing: it may also not send one. From any other peer it isn't looked
for, and so is a malformed request. The connection behind exists from accept on, so that limits, deadlines and draining
are its business from the first byte. What a preface tells is believed once: behind it comes the client, whom
nobody trusts for the proxy's sake, also if the preface doesn't say who it is. Only LOCAL is the proxy itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from gateway.answers import fresh_id
from gateway.errors import Malformed
from gateway.http1.server import ServerConnection
from gateway.proxy_protocol import BadPreface, read
from gateway.refused import Refused

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher


class Prefaces:
    """Counts of a worker: read, and those that could not be."""

    __slots__ = ("malformed", "read")

    def __init__(self) -> None:
        self.read = 0
        self.malformed = 0

    def counters(self) -> dict[str, Any]:
        """Cumulative, for reports."""
        return {"read": self.read, "malformed": self.malformed}


class Prefaced:
    """The protocol of an accepted connection until it is known how it begins."""

    __slots__ = ("_behind", "_counts", "_data", "_down", "_office", "_raw")

    def __init__(self, office: Dispatcher, behind: asyncio.Protocol, down: ServerConnection, counts: Prefaces) -> None:
        """`behind`: the protocol that goes on; `down`: the connection that it is for, maybe the same object."""
        self._office = office
        self._behind = behind
        self._down = down
        self._counts = counts
        self._raw: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._raw = transport
        self._behind.connection_made(transport)
        if not self._down.trusted:
            self._go_on(transport)

    def data_received(self, data: bytes) -> None:
        raw = self._raw
        if raw is None:
            return
        self._data += data
        try:
            preface = read(self._data)
        except BadPreface as error:
            self._refuse(raw, f"PROXY protocol: {error}")
            return
        if preface is None:
            deadline = time.monotonic() + self._office.settings.head_timeout
            if deadline < self._down.deadline:
                self._down.due(deadline)
            return
        self._go_on(raw)
        if preface.found:
            self._counts.read += 1
        if preface.address:
            self._down.told(preface.address)
        elif preface.relayed:
            self._down.distrust()
        if preface.rest and not raw.is_closing():
            self._behind.data_received(preface.rest)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._behind.connection_lost(error)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def _go_on(self, raw: asyncio.Transport) -> None:
        self._raw = None
        raw.set_protocol(self._behind)

    def _refuse(self, raw: asyncio.Transport, why: str) -> None:
        """Closed without an answer (section 2): neither side knows what the other speaks. The access log tells."""
        self._counts.malformed += 1
        self._office.refused(Refused(fresh_id(), self._down, Malformed(why), self._data, 0, 0.0))
        raw.abort()
