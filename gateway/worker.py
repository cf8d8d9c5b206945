"""The runtime of one gateway worker: sockets, the copy of the store, reports, and the data plane between them.

The order of its life keeps the acknowledgement protocol (DESIGN): register, read the snapshot, acknowledge, and only
then accept; to end: stop accepting, finish what is in flight, report for the last time, deliver what was counted and
give back the slots, and only then unregister.
With the store out of reach at the start it serves from the local cache and makes up for the rest when it can (law 1);
with a shared store, no longer than the stale limit.
Every task has its owner here; one that fails ends the worker, loudly.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from gateway import cache
from gateway.access_log import AccessLog
from gateway.adoption import Listeners
from gateway.certificates import StoredCertificates
from gateway.courier import Courier
from gateway.edge import Edge
from gateway.freshness import Freshness
from gateway.membership import Membership
from gateway.reporter import Reporter
from gateway.settings import GatewaySettings
from gateway.slots import WorkerSlots
from gateway.source import RecordSource
from gateway.table import Table
from gateway.telemetry import Telemetry
from gateway.tidying import Tidying
from state.kinds import Kind
from state.mirror import Mirror
from state.rollups import Rollups
from state.secret_key import FINGERPRINT_ID, DerivedKey
from state.secrets import Vault
from state.slots import Slots
from state.store import Store, StoreError

_KINDS: Final = (Kind.ROUTE, Kind.BACKEND, Kind.CERTIFICATE, Kind.CHALLENGE)
_PATIENCE: Final = 1.0  # seconds for the store to answer at the start, before the cache is used
_SNAPSHOT_PATIENCE: Final = 10.0  # seconds for the snapshot, once the store has answered
_DISMISSED: Final = 3.0  # seconds for those who are held to the end to be told so
_CUT: Final = 1.0  # seconds for connections that were cut to be over
_MANY: Final = 1000  # changes at one go that are taken as "everything"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One worker of a node. `registration` is `<node>/<supervisor>/<number>/<incarnation>`."""

    registration: str
    number: int
    store: str  # URL
    cache: Path
    writes_cache: bool  # one worker of the node does
    certificates_key: DerivedKey
    stale_limit: float | None  # seconds cut off from a shared store until nothing is served; None: the store is private
    gateway: GatewaySettings


class WrongKey(Exception):
    """The store was written with another secret key than this node has: starting again is pointless."""


class Supervisor(Protocol):
    """The worker's end of the pipe."""

    def send(self, message: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...


class Worker:
    """`await run(addresses)` is its whole life; `told()` gets the supervisor's messages, at any time from the start."""

    def __init__(
        self,
        settings: WorkerSettings,
        supervisor: Supervisor,
        access_log: AccessLog,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._store = Store(settings.store)
        self._mirror = Mirror(self._store, _KINDS, self._changed)
        self._source = RecordSource(self._mirror, self._say)
        self._membership = Membership(self._store, settings.registration)
        self._reporter = Reporter(self._store, settings.registration, self._mirror)
        self._access_log = access_log
        self._table = table = Table(self._source, settings.gateway.hold_limit, settings.gateway.hold_timeout)
        self._certificates = StoredCertificates(self._source, Vault(settings.certificates_key))
        self._slots = WorkerSlots(Slots(self._store), settings.registration, self._membership, self._version)
        self._edge = Edge(
            settings.gateway, table, access_log, self._reporter, self._certificates, telemetry, self._slots
        )
        self._slots.serve(self._edge.release)
        self._edge.complain_to(self._say)
        self._reporter.watch(self._edge)
        self._courier = Courier(self._store, Rollups(self._store), settings.registration, self._edge.books)
        self._freshness = Freshness(
            self._mirror, self._reporter, settings.stale_limit, self._turned_stale, self._membership.doubt
        )
        self._tidying = Tidying(self._edge)
        self._listeners: list[Listeners] = []
        self._neighbours: Sequence[int] = ()
        self._run_id = ""
        self._drain: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends = math.inf  # once draining: when what is left is cut (the loop's clock)
        self._patient = True
        self._finishing: asyncio.Timeout | None = None
        self._caching: asyncio.Task[None] | None = None

    def told(self, message: dict[str, Any]) -> None:
        """A message of the supervisor; both are levels and may be repeated."""
        if "adopt" in message:
            self._neighbours = message["adopt"]
            for listeners in self._listeners:
                listeners.adopt(self._neighbours)
        if "drain" in message:
            self.drain(float(message["drain"]["timeout"]), patient=bool(message["drain"].get("reload")))

    def drain(self, timeout: float, patient: bool = False) -> None:
        """End gracefully: `run` returns within about `timeout` seconds. Another call can only hurry it.

        `patient`: another worker has taken over, so there is time for idle connections to be told (`Edge.drain`).
        """
        self._ends = min(self._ends, asyncio.get_running_loop().time() + timeout)
        self._patient = self._patient and patient
        if not self._drain.done():
            self._drain.set_result(None)
        elif self._finishing is not None and not self._finishing.expired():
            self._finishing.reschedule(self._ends)
            if not self._patient:
                self._edge.hurry()

    async def run(
        self, addresses: Sequence[Sequence[socket.socket]], secure: Sequence[Sequence[socket.socket]] = ()
    ) -> None:
        """Serve until told to drain. `addresses[a][number - 1]`: the listening sockets of all workers; `secure`: those
        for TLS.

        Raises WrongKey in a group.
        """
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._follow(), name="mirror"),
                tasks.create_task(self._membership.keep(), name="membership"),
                tasks.create_task(self._freshness.watch(), name="freshness"),
                tasks.create_task(self._slots.run(), name="slots"),
            ]
            if self._settings.writes_cache:
                self._caching = tasks.create_task(self._cache_writer().run(), name="cache")
                background.append(self._caching)
            if await self._unless_drained(tasks.create_task(self._first_state(), name="first state")):
                background.append(tasks.create_task(self._reporter.run(), name="reporter"))
                background.append(tasks.create_task(self._courier.run(), name="courier"))
                await self._serve(addresses, secure)
                await self._last_words()
            for task in background:
                task.cancel()
        await self._membership.leave()
        await self._store.close()

    async def _serve(
        self, addresses: Sequence[Sequence[socket.socket]], secure: Sequence[Sequence[socket.socket]]
    ) -> None:
        """Accept, until told to drain, and finish what was accepted."""
        self._tidying.start()
        self._edge.start()
        doors = ((addresses, self._edge.protocol_factory()), (secure, self._edge.tls_factory()))
        number, make_room = self._settings.number, self._edge.make_room
        self._listeners = [
            Listeners(sockets, number, factory, self._say, make_room) for sockets, factory in doors if sockets
        ]
        for listeners in self._listeners:
            listeners.adopt(self._neighbours)
            listeners.start()
        self._supervisor.send({"ready": True})
        try:
            await self._drain
            await asyncio.gather(*(listeners.drain() for listeners in self._listeners))
            await self._finish()
        finally:
            for listeners in self._listeners:
                listeners.close()
            self._edge.close()
            self._tidying.stop()

    async def _last_words(self) -> None:
        """Nothing is served any more: what was counted is told, the requests that had to be cut included."""
        await self._edge.drain(_CUT)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reporter.last(), name="last report")
            tasks.create_task(self._courier.last(), name="last windows")
            tasks.create_task(self._slots.leave(), name="last slots")

    async def _finish(self) -> None:
        """Wait until all that was accepted is over, or it is time to cut it: who is still held is told so before.

        The cache is the successor's to write.
        """
        if self._caching is not None:
            self._caching.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends) as self._finishing:
                await self._edge.drain(None, self._patient)
        self._finishing = None
        await self._edge.dismiss(_DISMISSED)

    async def _follow(self) -> None:
        await self._membership.join()
        await self._mirror.run()

    async def _first_state(self) -> None:
        """Returns once there is something to route by: the snapshot, acknowledged, or else the cache."""
        answers = await _within(_PATIENCE, self._membership.joined.wait())
        if not (answers and await _within(_SNAPSHOT_PATIENCE, self._mirror.synced())):
            if self._start_from_cache():
                return
            self._say("the store does not answer, and there is no cache of routes: waiting for it before accepting")
            await self._mirror.synced()
        await self._check_key()
        await self._membership.introduce(self._mirror, self._reporter.report)

    async def _check_key(self) -> None:
        """Every node of a store must have the same secret key. Raises WrongKey."""
        try:
            known = await self._store.get(Kind.META, FINGERPRINT_ID)
        except StoreError:
            return  # then it is told of each certificate whose key can't be opened
        if known is not None and known.value != self._settings.certificates_key.fingerprint.encode():
            raise WrongKey("the store was written with another secret key")

    def _start_from_cache(self) -> bool:
        path = self._settings.cache
        try:
            cached = cache.load(path)
        except (cache.Damaged, OSError) as error:
            self._say(f"the cache of routes is ignored ({path}: {error})")
            return False
        if cached is None or self._mirror.run_id:
            return bool(self._mirror.run_id)
        self._source.start_from(cached)
        self._table.partial = True
        count = len(cached[Kind.ROUTE])
        self._say(f"the store does not answer: serving {count} routes from the cache until it does")
        return True

    async def _unless_drained(self, task: asyncio.Task[None]) -> bool:
        """Wait for `task`; False: we were told to end first, and it was cancelled."""
        await asyncio.wait((task, self._drain), return_when=asyncio.FIRST_COMPLETED)
        return task.done() or not task.cancel()

    def _changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """The mirror applied a change, or everything anew. Acknowledged at once, after it took effect."""
        if self._mirror.run_id != self._run_id:
            self._run_id = self._mirror.run_id
            self._membership.doubt()
            self._slots.doubt()
            self._resync(touched)
        elif len(touched) > _MANY:
            self._resync(touched)
        else:
            for kind, object_id in touched:
                self._apply(kind, object_id)
        if touched:
            self._reporter.hurry()

    def _apply(self, kind: Kind, object_id: str) -> None:
        if kind is Kind.ROUTE:
            self._edge.reroute(object_id)
        elif kind is Kind.CERTIFICATE:
            self._recertify(object_id)
        elif kind is Kind.CHALLENGE:
            self._edge.challenge(object_id, self._source.challenge(object_id))
        elif (backend := self._source.backend(object_id)) is not None:
            self._edge.update(backend)
        else:
            self._edge.forget(object_id)

    def _recertify(self, name: str) -> None:
        self._certificates.forget(name)
        self._edge.recertify(name)

    def _resync(self, touched: Sequence[tuple[Kind, str]]) -> None:
        self._source.follow()
        self._table.partial = False
        for kind, object_id in touched:
            if kind in (Kind.CERTIFICATE, Kind.CHALLENGE):
                self._apply(kind, object_id)
        self._edge.resync()
        if self._listeners:
            gc.freeze()  # the new records too

    def _turned_stale(self, stale: bool) -> None:
        self._edge.mark(stale)
        if stale:
            self._slots.forfeit()
            self._say(f"cut off from the store for {self._settings.stale_limit:g} s (--stale-limit): answering 503")
        else:
            self._say("in sync with the store again: serving")

    def _cache_writer(self) -> cache.Writer:
        return cache.Writer(self._settings.cache, self._applied, self._mirror.records, self._say)

    def _applied(self) -> object:
        """What the cache is a copy of; None before the first snapshot."""
        return (self._mirror.run_id, self._mirror.revision) if self._mirror.run_id else None

    def _version(self, service_id: str) -> int:
        """The revision of a service's backend, as applied; 0: there is none, or it is the cache's."""
        record = self._mirror.get(Kind.BACKEND, service_id)
        return 0 if record is None else record.version

    def _say(self, text: str) -> None:
        self._supervisor.say(f"worker {self._settings.number}: {text}")


async def _within(seconds: float, work: Awaitable[object]) -> bool:
    """Whether `work` was done in time."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
