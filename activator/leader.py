"""The part of control that decides, in whichever control holds the lease.

Laws kept here: 2 (wakes and reports are levels: each only has the service looked at again), 3 (nothing is drained or
stopped before every registered worker has been heard, and what stops has been let go of by all of them), 4 (each pass
derives the next view from the stored one; killed at any line, the next leader goes on from what is stored), 6 (commits
are fenced and compare-and-set; after a conflict the service is looked at again).

Durations run on this process' monotonic clock; a new leader takes only the idle time from the store, and waits itself
for the last seconds of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from activator.acks import Acknowledgements
from activator.agenda import Agenda
from activator.backends import ALIVE
from activator.demand import Demand, Load
from activator.gpu.levels import Levels
from activator.housekeeping import Housekeeping
from activator.journal import Journal
from activator.ledger import Ledger
from activator.nodes import Nodes
from activator.outlooks import Outlooks
from activator.planning import Plan, plan
from activator.racing import within
from activator.settings import Settings
from activator.views import Catalog, View
from state.alarms import Alarms
from state.ids import new_id
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import DeploymentState, ReplicaState
from state.store import Conflict, Fence, Fenced, Store, StoreError

log = logging.getLogger(__name__)

_AT_ONCE: Final = 32  # services looked at concurrently
_WATCHES_ITSELF: Final = 10.0  # seconds of idle time that a new leader does not take from the store
_BATCH: Final = 64  # services whose last activity one commit stores
_SWEEP_EVERY: Final = 3600.0  # seconds between looks for tombstones that are over


class Leader:
    """`run` for ever. `changed`, `woken` and `reported` have services looked at at once, the tick has all others."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        lease: Lease,
        *,
        ledger: Ledger,
        catalog: Catalog,
        demand: Demand,
        acks: Acknowledgements,
        journal: Journal,
        settings: Settings,
        nodes: Nodes,
        gpus: Levels,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._lease = lease
        self._ledger = ledger
        self._catalog = catalog
        self._demand = demand
        self._journal = journal
        self._settings = settings
        self._outlooks = Outlooks(mirror, demand, acks, settings, nodes.fleet, catalog.per_node, gpus)
        self._housekeeping = Housekeeping(store, catalog, settings, self._outlooks.watches)
        self._agenda = Agenda(_AT_ONCE)
        self._alarms = Alarms()
        self._more = asyncio.Event()
        self._attention: set[str] = set()
        self._draining: set[str] = set()
        self._building: set[str] = set()
        self._woken: dict[str, float] = {}
        self._fence: Fence | None = None
        self._passes: asyncio.TaskGroup | None = None
        self._closed = False

    @property
    def leads(self) -> bool:
        return self._lease.fence is not None

    async def run(self) -> None:
        await self._mirror.synced()
        ticked_at = float("-inf")
        async with asyncio.TaskGroup() as self._passes:
            while True:
                at = min(ticked_at + self._settings.tick, self._alarms.next() or float("inf"))
                await within(self._more, at - time.monotonic())
                self._more.clear()
                self._agenda.put(self._alarms.due(time.monotonic()))
                if self._take_over() or time.monotonic() - ticked_at >= self._settings.tick:
                    ticked_at = time.monotonic()
                    await self._tick()
                self._dispatch()

    def hurry(self) -> None:
        """The lease was gained or lost."""
        self._more.set()

    def close(self) -> None:
        """Decide nothing any more."""
        self._closed = True

    def changed(self, services: Iterable[str]) -> None:
        """The mirror has something new about these services."""
        self._look(services)

    def fleet_changed(self) -> None:
        """A node came, was lost, returned or offers something else."""
        self._look(self._attention | self._building)

    def woken(self, service: str) -> None:
        """Somebody is held for it and nobody is ready."""
        if self._lease.fence is not None:
            self._woken.setdefault(service, time.monotonic())
        self._look((service,), urgent=True)

    def reported(self, services: Iterable[str]) -> None:
        """A report told the load of these. Urgent is who is held, and what drains."""
        now = time.monotonic()
        for service in services:
            self._outlooks.heard(service, now)
        self._look((service for service in services if self._demand.held(service, now)), urgent=True)
        self._look(self._draining, urgent=True)

    def _look(self, services: Iterable[str], *, urgent: bool = False) -> None:
        if self._lease.fence is None:
            return
        self._agenda.put(services, urgent=urgent)
        if self._agenda:
            self._more.set()

    # -- the rounds

    def _take_over(self) -> bool:
        """Whether a tenure has just begun; it remembers nothing of one before."""
        if self._fence == self._lease.fence:
            return False
        self._fence = self._lease.fence
        self._outlooks.clear()
        self._agenda.clear()
        self._alarms.clear()
        self._draining.clear()
        self._building.clear()
        self._woken.clear()
        self._attention = set(self._mirror.records(Kind.SERVICE))
        return self._fence is not None

    async def _tick(self) -> None:
        if self._fence is None or not self._mirror.connected:
            return
        try:
            await self._outlooks.read_roster()
        except StoreError:
            return
        now = time.monotonic()
        loaded = self._demand.services(now)
        self._agenda.put((service for service in loaded if self._demand.held(service, now)), urgent=True)
        self._agenda.put(loaded)
        self._agenda.put(self._attention)
        if self._passes is not None and not self._housekeeping.under_way:
            self._passes.create_task(self._housekeeping.run(self._fence), name="housekeeping")

    def _dispatch(self) -> None:
        """Look at what is on the agenda, several at a time, so that none waits for another's store."""
        if self._fence is None or not self._mirror.connected or self._passes is None or self._closed:
            return
        while (service := self._agenda.take()) is not None:
            self._passes.create_task(self._pass(service, self._fence), name=f"service {service}")

    async def _pass(self, service: str, fence: Fence) -> None:
        """Look at one service and make the next view true. What fails is looked at again.

        `fence` is of the tenure that it began in: what it decides must never be committed under another, or none.
        """
        try:
            await self._advance(service, fence)
        except Conflict as conflict:
            # another writer was faster; what he wrote comes by the feed
            await self._ledger.catch_up(conflict)
            self._agenda.put((service,))
        except Fenced:
            log.warning("service %s: another tenure has begun", service)
            self._attention.add(service)
        except StoreError as error:
            log.warning("service %s: %s", service, error)
            self._attention.add(service)
        except Exception:
            log.exception("service %s can't be looked after", service)
            self._attention.add(service)
        finally:
            self._agenda.done(service)
            if self._agenda:
                self._more.set()

    async def _advance(self, service: str, fence: Fence) -> None:
        """Raises Conflict, Fenced, Unavailable."""
        view = self._catalog.view(service)
        if view is None:
            if self._catalog.service(service) is None:
                self._forget(service)
            return
        if any(r.state is ReplicaState.DRAINING for r in view.replicas.values()):
            await self._outlooks.read_roster()
            if self._fence != fence:
                raise Fenced("the tenure ended while the workers were read")
            fresh = self._catalog.view(service)
            if fresh is None:
                return
            view = fresh
        now = time.monotonic()
        watch = self._outlooks.watch(view, now)
        load = self._demand.load(service, now)
        outlook = replace(self._outlooks.outlook(view, watch, load, now), waited=self._waited(view, load, now))
        self._alarms.set(service, self._outlooks.again_at(view, watch, now))
        planned = plan(view, outlook, new_id)
        self._attend(view, load)
        await self._carry_out(view, planned, fence)

    async def _carry_out(self, view: View, planned: Plan, fence: Fence) -> None:
        service = view.service.id
        if planned.view == view and view.backend == view.derived():
            return
        if planned.view is None:
            # before the commit: afterwards nobody is left who must do it
            await self._store.forget_events(service)
        revision = await self._ledger.commit(view, planned.view, fence)
        self._journal.tell(service, planned.notes)
        if planned.view is None:
            return
        try:
            # a look at what was before this commit could only end in a conflict
            async with asyncio.timeout(self._settings.tick):
                await self._mirror.reached(revision)
        except TimeoutError:
            self._attention.add(service)

    # -- what is looked at again

    def _attend(self, view: View, load: Load) -> None:
        """Services asleep in peace are not looked at again before something happens."""
        service = view.service.id
        latest = view.latest
        building = latest is not None and latest.state is DeploymentState.BUILDING
        moving = latest is not None and latest.state.in_progress and not building
        troubled = view.scale.stranded is not None or bool(view.scale.lost)
        awake = view.serving is not None and max(view.scale.desired, view.service.min_replicas) > 0
        if view.replicas or moving or awake or troubled or load.busy or view.service.deleted_at is not None:
            self._attention.add(service)
        else:
            self._attention.discard(service)
            self._outlooks.watches.pop(service, None)
        draining = any(r.state is ReplicaState.DRAINING for r in view.replicas.values())
        for members, member in ((self._draining, draining), (self._building, building)):
            (members.add if member else members.discard)(service)
        self._outlooks.settle(view)

    def _forget(self, service: str) -> None:
        self._alarms.set(service, None)
        self._attention.discard(service)
        self._draining.discard(service)
        self._building.discard(service)
        self._outlooks.forget(service)
        self._woken.pop(service, None)
        self._demand.forget(service)

    def _waited(self, view: View, load: Load, now: float) -> int | None:
        """Microseconds since the wake that asks for a decision; none can be made of what is not built, and it is made
        once anything is on its way."""
        service, serving = view.service.id, view.serving
        built = serving is not None and serving.artifact is not None
        if not load.busy or not built or any(r.state in ALIVE for r in view.replicas.values()):
            self._woken.pop(service, None)
        at = self._woken.get(service)
        return None if at is None else round((now - at) * 1e6)
