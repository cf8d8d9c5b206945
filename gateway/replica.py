"""A replica as this worker knows it: its address, its health, what is in flight there, and its idle connections."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.health import Health
from gateway.pacing import Pacing
from gateway.starts import Start

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.sides import Upstream


UNLIMITED: Final = 1 << 60  # slots of a replica whose service has no `concurrency`


class Replica(Health):
    """Mutable, owned by its `Service`; lives on after its endpoint is gone until nothing is in flight."""

    __slots__ = (
        "gone",
        "host",
        "id",
        "idle",
        "in_flight",
        "node",
        "pacing",
        "pooled",
        "port",
        "queue",
        "ready",
        "seed",
        "slots",
        "start",
        "token",
    )

    def __init__(self, replica_id: str, host: str, port: int, node: str = "") -> None:
        super().__init__()
        self.id = replica_id
        self.host = host
        self.port = port
        self.node = node  # that it runs on; empty: nobody said
        self.ready = True
        self.gone = False  # no longer an endpoint: forgotten once nothing is in flight
        self.in_flight = 0
        self.start: Start | None = None  # None: it was ready, or known, before, or nobody measured it
        self.slots = UNLIMITED  # requests that this worker may have in flight here
        self.idle: list[Upstream] = []  # newest last
        self.pooled = False  # known to the pool
        self.pacing = Pacing()
        self.queue: deque[Exchange] = deque()  # picked for it, and waiting for a connection of somebody before them
        self.seed = 0  # of its hashes, for services with affinity by prefix (`rendezvous.py`)
        self.token = b""  # names it in the cookie of services with affinity (`affinity.py`), else empty

    def __repr__(self) -> str:
        return f"<Replica {self.id} {self.host}:{self.port} in_flight={self.in_flight} idle={len(self.idle)}>"
