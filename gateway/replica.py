"""A replica as this worker knows it: its address, what is in flight there, and its idle connections."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.pacing import Pacing

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.sides import Upstream

_FIRST_BACKOFF: Final = 0.25  # seconds out of the choice after a failed connect, doubling
_LONGEST_BACKOFF: Final = 4.0


class Replica:
    """Mutable, owned by its `Service`; lives on after its endpoint is gone until nothing is in flight."""

    __slots__ = (
        "down_until",
        "failures",
        "gone",
        "host",
        "id",
        "idle",
        "in_flight",
        "pacing",
        "port",
        "queue",
        "ready",
    )

    def __init__(self, replica_id: str, host: str, port: int) -> None:
        self.id = replica_id
        self.host = host
        self.port = port
        self.ready = True
        self.gone = False  # no longer an endpoint: forgotten once nothing is in flight
        self.in_flight = 0
        self.idle: list[Upstream] = []  # newest last
        self.pacing = Pacing()
        self.queue: deque[Exchange] = deque()  # picked for it, and waiting for a connection of somebody before them
        self.failures = 0  # connects that failed in a row
        self.down_until = 0.0

    def failed(self, now: float) -> None:
        """A connect failed: pass this replica over for a while that doubles each time."""
        self.down_until = now + min(_FIRST_BACKOFF * 2.0 ** min(self.failures, 8), _LONGEST_BACKOFF)
        self.failures += 1

    def reached(self) -> None:
        """A connect succeeded."""
        self.failures = 0
        self.down_until = 0.0

    def __repr__(self) -> str:
        return f"<Replica {self.id} {self.host}:{self.port} in_flight={self.in_flight} idle={len(self.idle)}>"
