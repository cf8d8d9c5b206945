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

from activator import tombstones
from activator.acks import NOBODY_READ, Acknowledgements
from activator.agenda import Agenda
from activator.autoscaler import PANIC_WINDOW, STABLE_WINDOW, Decision, Memory, Signals, Spec, decide
from activator.averages import Average
from activator.backends import backoff
from activator.coldstarts import ColdStarts
from activator.demand import Demand, Load
from activator.journal import Journal
from activator.ledger import Ledger
from activator.planning import Outlook, Plan, plan
from activator.racing import within
from activator.settings import Settings
from activator.views import Catalog, View
from state.codec import encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import DeploymentState, Replica, ReplicaState, Service
from state.store import Change, Conflict, Fence, Fenced, Store, StoreError

log = logging.getLogger(__name__)

_AT_ONCE: Final = 32  # services looked at concurrently
_WATCHES_ITSELF: Final = 10.0  # seconds of idle time that a new leader does not take from the store
_BATCH: Final = 64  # services whose last activity one commit stores
_SWEEP_EVERY: Final = 3600.0  # seconds between looks for tombstones that are over


class Watch:
    """What a leader remembers of a service that is not asleep. All times are monotonic seconds."""

    def __init__(self, memory: Memory, now: float) -> None:
        self.memory = memory
        self.average = Average(now)
        self.since: dict[tuple[str, ReplicaState], float] = {}
        self.woken_at: float | None = None
        self.stored_at = now

    def age(self, replica: Replica, now: float) -> float:
        """For how long it has been seen in its state."""
        return now - self.since.get((replica.id, replica.state), now)

    def see(self, view: View, now: float) -> None:
        self.since = {(r.id, r.state): self.since.get((r.id, r.state), now) for r in view.replicas.values()}


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
        cold_starts: ColdStarts,
        settings: Settings,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._lease = lease
        self._ledger = ledger
        self._catalog = catalog
        self._demand = demand
        self._acks = acks
        self._journal = journal
        self._cold_starts = cold_starts
        self._settings = settings
        self._watches: dict[str, Watch] = {}
        self._agenda = Agenda(_AT_ONCE)
        self._more = asyncio.Event()
        self._attention: set[str] = set()
        self._draining: set[str] = set()
        self._roster = NOBODY_READ
        self._fence: Fence | None = None
        self._passes: asyncio.TaskGroup | None = None
        self._noted: set[str] = set()
        self._closed = False
        self._keeping_house = False
        self._swept_at = float("-inf")

    @property
    def leads(self) -> bool:
        return self._lease.fence is not None

    async def run(self) -> None:
        await self._mirror.synced()
        ticked_at = float("-inf")
        async with asyncio.TaskGroup() as self._passes:
            while True:
                await within(self._more, ticked_at + self._settings.tick - time.monotonic())
                self._more.clear()
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

    def woken(self, service: str) -> None:
        """Somebody is held for it and nobody is ready."""
        watch = self._watches.get(service)
        if watch is not None and watch.woken_at is None:
            watch.woken_at = time.monotonic()
        self._look((service,), urgent=True)

    def reported(self, services: Iterable[str]) -> None:
        """A report told the load of these. Urgent is who is held, and what drains."""
        now = time.monotonic()
        for service in services:
            watch = self._watches.get(service)
            if watch is not None:
                load = self._demand.load(service, now)
                watch.average.observe(load.in_flight + load.held, now)
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
        self._watches.clear()
        self._agenda.clear()
        for replica_id in self._noted:
            self._acks.note(replica_id, ())
        self._noted.clear()
        self._draining.clear()
        self._attention = set(self._mirror.records(Kind.SERVICE))
        self._roster = NOBODY_READ
        return self._fence is not None

    async def _tick(self) -> None:
        if self._fence is None or not self._mirror.connected:
            return
        try:
            await self._read_roster()
        except StoreError:
            return
        now = time.monotonic()
        loaded = self._demand.services(now)
        self._agenda.put((service for service in loaded if self._demand.held(service, now)), urgent=True)
        self._agenda.put(loaded)
        self._agenda.put(self._attention)
        if self._passes is not None and not self._keeping_house:
            self._keeping_house = True
            self._passes.create_task(self._keep_house(self._fence), name="housekeeping")

    async def _read_roster(self) -> None:
        """Raises Unavailable."""
        self._roster = await self._acks.roster()
        self._demand.keep(self._roster.workers)

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
            await self._read_roster()
            if self._fence != fence:
                raise Fenced("the tenure ended while the workers were read")
            fresh = self._catalog.view(service)
            if fresh is None:
                return
            view = fresh
        now = time.monotonic()
        watch = self._watch(view, now)
        load = self._demand.load(service, now)
        outlook = self._outlook(view, watch, load, now)
        planned = plan(view, outlook, new_id)
        self._attend(view, load)
        await self._carry_out(view, planned, watch, now, fence)

    async def _carry_out(self, view: View, planned: Plan, watch: Watch, now: float, fence: Fence) -> None:
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
        self._time_starts(view, planned.view, watch, now)
        try:
            # a look at what was before this commit could only end in a conflict
            async with asyncio.timeout(self._settings.tick):
                await self._mirror.reached(revision)
        except TimeoutError:
            self._attention.add(service)

    # -- what is known beyond the store

    def _watch(self, view: View, now: float) -> Watch:
        service = view.service
        watch = self._watches.get(service.id)
        if watch is None:
            idle = self._idle_before(view)
            watch = self._watches[service.id] = Watch(Memory(view.scale.desired, now - idle), now)
        watch.see(view, now)
        if watch.memory.desired != view.scale.desired:
            # what is stored rules: a switch or a wake that was given up is not this clock's decision
            woke = watch.memory.desired == 0
            active_at = now if woke else watch.memory.active_at
            watch.memory = replace(watch.memory, desired=view.scale.desired, active_at=active_at, fewer_since=None)
        return watch

    def _idle_before(self, view: View) -> float:
        """Idle seconds taken from the store, where the wall clock may have been stepped: never the last of them."""
        if view.scale.active_at is None:
            return 0.0
        idle = max(0.0, (now_us() - view.scale.active_at) / 1e6)
        return min(idle, max(0.0, self._idle_timeout(view.service) - _WATCHES_ITSELF))

    def _idle_timeout(self, service: Service) -> float:
        own = service.scaling.idle_timeout
        return self._settings.idle_timeout if own is None else float(own)

    def _outlook(self, view: View, watch: Watch, load: Load, now: float) -> Outlook:
        settled = self._settled(view)
        decision = self._decide(view, watch, load, settled, now)
        watch.memory = replace(decision.memory, desired=view.scale.desired)
        draining = [r for r in view.replicas.values() if r.state is ReplicaState.DRAINING]
        failed = [r for r in view.replicas.values() if r.state is ReplicaState.FAILED]
        return Outlook(
            now=now_us(),
            desired=decision.desired,
            load=load,
            settled=settled,
            drained=frozenset(r.id for r in draining if self._drained(view, r)),
            overdue=frozenset(r.id for r in draining if self._overdue(view, watch, r, now)),
            rested=frozenset(r.id for r in failed if watch.age(r, now) >= backoff(r, view.scale)),
            stable=self._stable(view, watch, now),
            node=self._settings.node,
        )

    def _decide(self, view: View, watch: Watch, load: Load, settled: bool, now: float) -> Decision:
        service = view.service
        scaling = service.scaling
        spec = Spec.of(
            service.min_replicas,
            service.max_replicas,
            scaling.target_concurrency,
            scaling.concurrency,
            scaling.scale_down_delay,
            self._idle_timeout(service),
        )
        watch.average.observe(load.in_flight + load.held, now)
        active_at = max(watch.memory.active_at, self._demand.active_at(service.id) or watch.memory.active_at)
        ready = sum(r.state is ReplicaState.READY for r in view.of(view.serving))
        signals = Signals(
            busy=load.busy,
            stable=watch.average.over(STABLE_WINDOW, now),
            panic=watch.average.over(PANIC_WINDOW, now),
            ready=ready,
            complete=settled,
        )
        return decide(spec, signals, replace(watch.memory, active_at=active_at), now)

    def _settled(self, view: View) -> bool:
        """Every registered worker has been heard under this run of the store (law 3)."""
        run_id = self._mirror.run_id
        return self._roster.covers(0, run_id) and self._demand.complete(self._roster.workers, run_id)

    def _drained(self, view: View, replica: Replica) -> bool:
        version = view.version(Kind.REPLICA, replica.id)
        workers, run_id = self._roster.workers, self._mirror.run_id
        if not self._roster.covers(version, run_id):
            return False
        self._acks.note(replica.id, self._demand.missing(version, workers, run_id))
        self._noted.add(replica.id)
        return self._demand.drained(view.service.id, replica.id, version, workers, run_id)

    def _overdue(self, view: View, watch: Watch, replica: Replica, now: float) -> bool:
        """The drain time is over, and every worker has taken it out of rotation all the same."""
        version = view.version(Kind.REPLICA, replica.id)
        patience = 0.0 if view.service.forced else self._settings.drain_timeout
        run_id = self._mirror.run_id
        over = watch.age(replica, now) >= patience and self._roster.covers(version, run_id)
        return over and not self._demand.missing(version, self._roster.workers, run_id)

    def _stable(self, view: View, watch: Watch, now: float) -> bool:
        ready = (r for r in view.of(view.serving) if r.state is ReplicaState.READY)
        return any(watch.age(r, now) >= self._settings.stable_after for r in ready)

    # -- keeping house

    def _attend(self, view: View, load: Load) -> None:
        """Services asleep in peace are not looked at again before something happens."""
        service = view.service.id
        latest = view.latest
        moving = latest is not None and latest.state.in_progress and latest.state is not DeploymentState.BUILDING
        awake = view.serving is not None and max(view.scale.desired, view.service.min_replicas) > 0
        if view.replicas or moving or awake or load.busy or view.service.deleted_at is not None:
            self._attention.add(service)
        else:
            self._attention.discard(service)
            self._watches.pop(service, None)
        if any(r.state is ReplicaState.DRAINING for r in view.replicas.values()):
            self._draining.add(service)
        else:
            self._draining.discard(service)
        for replica in view.replicas.values():
            if replica.id in self._noted and replica.state is not ReplicaState.DRAINING:
                self._noted.discard(replica.id)
                self._acks.note(replica.id, ())

    def _forget(self, service: str) -> None:
        self._attention.discard(service)
        self._draining.discard(service)
        self._watches.pop(service, None)
        self._demand.forget(service)

    def _time_starts(self, before: View, after: View, watch: Watch, now: float) -> None:
        created = after.replicas.keys() - before.replicas.keys()
        cold = not any(r.state is ReplicaState.READY for r in before.replicas.values())
        for replica_id in created:
            self._cold_starts.begin(replica_id, now if watch.woken_at is None else watch.woken_at, cold=cold)
            self._cold_starts.reached(replica_id, "decide", time.monotonic())
        watch.woken_at = None

    async def _keep_house(self, fence: Fence) -> None:
        """Off the path of wakes: what is only written for later."""
        try:
            await self._store_activity(fence)
            if time.monotonic() - self._swept_at > _SWEEP_EVERY:
                self._swept_at = time.monotonic()
                await tombstones.sweep(self._store, self._settings.tombstone_ttl, now_us(), fence)
        except Exception:
            log.exception("what is only written for later is written later")
        finally:
            self._keeping_house = False

    async def _store_activity(self, fence: Fence) -> None:
        """Remember the last activity for a successor."""
        found = [change for service in list(self._watches) if (change := self._activity(service)) is not None]
        for start in range(0, len(found), _BATCH):
            try:
                await self._store.commit(found[start : start + _BATCH], fence=fence)
            except StoreError as error:
                log.debug("the last activity of some services is stored later: %s", error)

    def _activity(self, service: str) -> Change | None:
        now, watch, view = time.monotonic(), self._watches[service], self._catalog.view(service)
        due = now - watch.stored_at >= self._settings.activity_interval
        if view is None or not due or watch.memory.active_at < watch.stored_at:
            return None
        watch.stored_at = now
        active_at = now_us() - int((now - watch.memory.active_at) * 1e6)
        value = encode(replace(view.scale, active_at=active_at))
        return Change(Kind.SCALE, service, value, view.version(Kind.SCALE, service))
