"""A service as this worker serves it: its replicas, its waiting room and its counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from activator.room import Room
from gateway import affinity, rendezvous
from gateway.errors import stale
from gateway.health import WARMING
from gateway.replica import UNLIMITED, Replica
from gateway.retry_budget import RetryBudget
from gateway.starts import Start
from state.models import Backend, Endpoint, Phase

if TYPE_CHECKING:
    from gateway.exchange import Exchange


class Service:
    """Mutable; lives as long as the worker, so that its counters never go back, or until it is deleted (`table.py`).

    `id` "": no service at all. `exact`: `concurrency` counts for all workers together, and this one has only what it
    owns of it (`slots.py`).
    """

    __slots__ = (
        "budget",
        "by_prefix",
        "bytes_in",
        "bytes_out",
        "concurrency",
        "deleted",
        "duration",
        "duration_sum",
        "ejections",
        "errors",
        "hold",
        "hold_sum",
        "id",
        "in_flight",
        "keepalive",
        "lending",
        "name",
        "namespace",
        "owned",
        "ready",
        "reason",
        "refusing",
        "replicas",
        "requests",
        "retries",
        "retries_refused",
        "retry_after",
        "room",
        "sticky",
        "title",
        "tokens",
        "waiting_page",
        "woken_at",
    )

    def __init__(self, service_id: str, hold_limit: int, hold_timeout: float, exact: bool = False) -> None:
        self.id = service_id
        self.namespace = ""
        self.name = ""
        self.title = ""  # for the log: namespace/name
        self.replicas: dict[str, Replica] = {}  # those that leave included, until nothing is in flight there
        self.ready: list[Replica] = []
        self.concurrency = 0
        self.owned: dict[str, int] | None = {} if exact else None  # slots by replica; None: all that there are
        self.lending = False  # others wait for slots: whoever keeps them is to know when one is free
        self.refusing = False
        self.reason = ""
        self.retry_after = 1
        self.deleted = False
        self.room: Room[Exchange] = Room(hold_limit, hold_timeout)
        self.woken_at = -1.0
        self.in_flight = 0
        self.requests: dict[int, int] = {}
        self.duration: dict[int, int] = {}
        self.duration_sum = 0.0
        self.hold: dict[int, int] = {}
        self.hold_sum = 0.0
        self.errors: dict[str, int] = {}
        self.retries = 0
        self.retries_refused = 0  # by the budget
        self.ejections = 0  # times that a replica was taken out of the choice
        self.budget = RetryBudget()
        self.sticky = False  # session affinity by cookie
        self.by_prefix = False  # affinity by the beginning of a prompt
        self.tokens: dict[bytes, Replica] = {}  # the ready ones by what their cookie says
        self.keepalive = False  # these two: what who is held gets to see (`patience.py`)
        self.waiting_page = False
        self.bytes_in = 0
        self.bytes_out = 0

    def apply(self, backend: Backend, hold_timeout: float, now: float, news: bool = True) -> list[Replica]:
        """Become what `backend` says (`hold_timeout`: the node's default). The replicas that left the rotation.

        `news`: it has changed just now; else it is only looked at for the first time.
        """
        self.call(backend.namespace, backend.name)
        self.deleted = False
        self.concurrency = backend.concurrency
        self.sticky = backend.affinity == "cookie"
        self.by_prefix = backend.affinity == "prefix"
        self.keepalive = backend.hold_keepalive
        self.waiting_page = backend.waiting_page
        self.refusing = backend.phase is Phase.REFUSING
        self.reason = backend.reason or "the service is not available"
        self.retry_after = backend.retry_after
        self.room.timeout = hold_timeout if backend.hold_timeout is None else float(backend.hold_timeout)
        listed: set[str] = set()
        for endpoint in backend.endpoints:
            listed.add(endpoint.id)
            self._endpoint(endpoint, now, news)
        return self._rotate(listed)

    def remove(self) -> list[Replica]:
        """The backend is gone: nothing is ready, requests in flight finish. The replicas that left the rotation."""
        self.deleted = True
        return self._rotate(set())

    def suspend(self) -> list[Replica]:
        """What is known of it is too old: nobody is sent or held until `apply`. The replicas that left the rotation."""
        self.refusing, self.reason = True, stale().details
        return self._rotate(set())

    def _endpoint(self, endpoint: Endpoint, now: float, news: bool) -> None:
        replica = self.replicas.get(endpoint.id)
        if replica is not None and (replica.host != endpoint.host or replica.port != endpoint.port):
            replica.ready = False
            replica.gone = True
            replica = None
        if replica is None:
            replica = self.replicas[endpoint.id] = Replica(endpoint.id, endpoint.host, endpoint.port, endpoint.node)
            replica.ready = False
            if news and endpoint.ready and endpoint.phases is not None and endpoint.ready_at is not None:
                replica.start = Start(endpoint.phases, endpoint.ready_at, now)
        if endpoint.ready and not replica.ready:
            replica.renewed()  # new, called back or healthy again: whatever it failed at is over
            if self.ready:
                replica.warm_at = now + WARMING  # else all begin at once, and none is warmer than another
        replica.ready = endpoint.ready
        replica.gone = False

    def _rotate(self, listed: set[str]) -> list[Replica]:
        before = self.ready
        for replica_id, replica in list(self.replicas.items()):
            if replica_id not in listed:
                replica.ready = False
                replica.gone = True
                if replica.in_flight == 0:
                    del self.replicas[replica_id]
        self.ready = [replica for replica in self.replicas.values() if replica.ready]
        for replica in self.replicas.values():
            replica.token = affinity.token(self.id, replica.id) if self.sticky else b""
            replica.seed = rendezvous.seed(replica.id) if self.by_prefix else 0
        self.tokens = {replica.token: replica for replica in self.ready} if self.sticky else {}
        self.allot()
        return [replica for replica in before if not replica.ready]

    def allot(self) -> None:
        """How many requests this worker may have in flight at each replica."""
        limit, owned = self.concurrency or UNLIMITED, self.owned if self.concurrency else None
        for replica in self.replicas.values():
            replica.slots = limit if owned is None else owned.get(replica.id, 0)

    def call(self, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self.title = f"{namespace}/{name}"

    def counters(self) -> dict[str, Any]:
        """As `Edge.counters` says."""
        return {
            "namespace": self.namespace,
            "name": self.name,
            "requests": {str(code): count for code, count in self.requests.items()},
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "duration": {str(bucket): count for bucket, count in self.duration.items()},
            "duration_sum": self.duration_sum,
            "hold": {str(bucket): count for bucket, count in self.hold.items()},
            "hold_sum": self.hold_sum,
            "errors": dict(self.errors),
            "retries": self.retries,
            "retries_refused": self.retries_refused,
            "ejections": self.ejections,
        }

    def __repr__(self) -> str:
        return f"<Service {self.id} ready={self.ready} in_flight={self.in_flight} held={len(self.room)}>"
