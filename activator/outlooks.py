"""What a leader knows of services beyond the store: loads, ages, acknowledgements; in sum the outlook of a plan.

Durations run on this process' monotonic clock; a new leader takes only the idle time from the store, and waits itself
for the last seconds of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from activator import forecast
from activator.acks import NOBODY_READ, Acknowledgements
from activator.autoscaler import Decision, Memory, decide
from activator.averages import Average
from activator.backends import backoff
from activator.demand import Demand, Load
from activator.gpu.levels import Levels, mean
from activator.offered import Offered
from activator.placement import Fleet, Needs
from activator.planning import Outlook
from activator.settings import Settings
from activator.signals import PANIC_WINDOW, STABLE_WINDOW, Averages, Signals, Spec, concurrency_per_replica
from activator.traffic import Had, Rate
from activator.views import View
from state.ids import now_us
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Replica, ReplicaState, Service

_WATCHES_ITSELF: Final = 10.0  # seconds of idle time that a new leader does not take from the store


class Watch:
    """What a leader remembers of a service that is not asleep. All times are monotonic seconds."""

    def __init__(self, memory: Memory, had: Had, work: float | None, now: float) -> None:
        """`had`: what the service has had before; `work`: what one request took then, if that is known."""
        self.memory = memory
        self.load = Offered(now, had.requests, work)
        self.rate = Rate(had, now)
        self.gpus: Average | None = None  # percent of all ready replicas together; None: not measured
        self.since: dict[tuple[str, ReplicaState], float] = {}
        self.stored_at = now
        self.requested_at: float | None = None  # the last request that reports told of
        self.reserve_at: float | None = None  # when a replica may be reserved next
        self.asleep_at: float | None = None

    def age(self, replica: Replica, now: float) -> float:
        """For how long it has been seen in its state."""
        return now - self.since.get((replica.id, replica.state), now)

    def see(self, view: View, now: float) -> None:
        self.since = {(r.id, r.state): self.since.get((r.id, r.state), now) for r in view.replicas.values()}
        if not view.scale.asleep:
            self.asleep_at = None
        elif self.asleep_at is None:  # with nothing left to drain it has been so for long
            self.asleep_at = now if view.replicas else float("-inf")


class Outlooks:
    """The watches of one tenure. `roster`: the workers that count, as last read; `replicas_of`: how many a node has."""

    def __init__(
        self,
        mirror: Mirror,
        demand: Demand,
        acks: Acknowledgements,
        settings: Settings,
        fleet: Callable[[], Fleet],
        replicas_of: Mapping[str, int],
        gpus: Levels,
    ) -> None:
        self.watches: dict[str, Watch] = {}
        self.roster = NOBODY_READ
        self._mirror = mirror
        self._demand = demand
        self._acks = acks
        self._settings = settings
        self._fleet = fleet
        self._replicas_of = replicas_of
        self._gpus = gpus
        self._noted: set[str] = set()
        self._work: dict[str, float] = {}  # what a request of a service takes, also while it sleeps

    def clear(self) -> None:
        """Another tenure remembers nothing of the one before."""
        self.watches.clear()
        self._work.clear()
        for replica_id in self._noted:
            self._acks.note(replica_id, ())
        self._noted.clear()
        self.roster = NOBODY_READ

    def forget(self, service: str) -> None:
        """It is gone."""
        self.watches.pop(service, None)
        self._work.pop(service, None)

    def heard(self, service: str, now: float) -> None:
        """A report told its load."""
        watch = self.watches.get(service)
        if watch is not None:
            self._observe(service, watch, self._demand.load(service, now), now)

    def _observe(self, service: str, watch: Watch, load: Load, now: float) -> None:
        had = self._demand.traffic.of(service)
        watch.load.observe(load.in_flight, load.held, load.oldest, had.requests, now)
        watch.rate.observe(had, now)
        if watch.load.work is not None:
            self._work[service] = watch.load.work

    async def read_roster(self) -> None:
        """Raises Unavailable."""
        self.roster = await self._acks.roster()
        self._demand.keep(self.roster.workers)

    def settle(self, view: View) -> None:
        """Nobody is asked any more about replicas that do not drain."""
        for replica in view.replicas.values():
            if replica.id in self._noted and replica.state is not ReplicaState.DRAINING:
                self._noted.discard(replica.id)
                self._acks.note(replica.id, ())

    def watch(self, view: View, now: float) -> Watch:
        """The watch of a service, which begins here if there is none."""
        service = view.service
        watch = self.watches.get(service.id)
        if watch is None:
            memory = Memory(view.scale.desired, now - self._idle_before(view))
            had, work = self._demand.traffic.of(service.id), self._work.get(service.id)
            watch = self.watches[service.id] = Watch(memory, had, work, now)
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

    def outlook(self, view: View, watch: Watch, load: Load, now: float) -> Outlook:
        """What the plan needs to know."""
        settled = self._settled(view)
        wall = now_us()
        reserved = _reserved(view, wall)
        watch.reserve_at = self._reserve_at(view, wall, now)
        decision = self._decide(view, watch, load, settled, reserved, now)
        watch.memory = replace(decision.memory, desired=view.scale.desired)
        needs, fleet = Needs.of(view.service), self._fleet()
        able = fleet.able(needs)
        draining = [r for r in view.replicas.values() if r.state is ReplicaState.DRAINING]
        failed = [r for r in view.replicas.values() if r.state is ReplicaState.FAILED]
        return Outlook(
            now=wall,
            desired=decision.desired,
            load=load,
            settled=settled,
            drained=frozenset(r.id for r in draining if self._drained(view, r)),
            overdue=frozenset(r.id for r in draining if self._overdue(view, watch, r, now)),
            rested=frozenset(r.id for r in failed if watch.age(r, now) >= backoff(r, view.scale)),
            stable=self._stable(view, watch, now),
            node=fleet.choose(able, self._replicas_of) or "",
            able=able,
            unfit=fleet.unfit(needs),
            lost=fleet.lost,
            leaving=fleet.leaving(needs),
            evicting=fleet.evicting,
            returned=frozenset(node for node in view.scale.lost if node in fleet.live),
            freed=frozenset(r.id for r in view.replicas.values() if r.node in fleet.lost and self._freed(view, r)),
            called=self._called(view, watch, now),
            reserved=reserved,
            why=decision.reason,
        )

    def again_at(self, view: View, watch: Watch, now: float) -> float | None:
        """When it is to be looked at although nothing happens, on the clock of `now`: the next backoff of a failed
        replica will be over, or a replica reserved. `None`: never."""
        failed = [r for r in view.replicas.values() if r.state is ReplicaState.FAILED]
        moments = [now + backoff(r, view.scale) - watch.age(r, now) for r in failed]
        if watch.reserve_at is not None:
            moments.append(watch.reserve_at)
        return min((moment for moment in moments if moment > now), default=None)

    def _reserve_at(self, view: View, wall: int, now: float) -> float | None:
        """When requests may be expected for which a sleeping service must be woken."""
        history = view.scale.history
        if not view.service.scaling.warm_reserve or history is None or view.scale.desired > 0:
            return None
        return now + forecast.wait(history, wall)

    def _decide(self, view: View, watch: Watch, load: Load, settled: bool, reserved: bool, now: float) -> Decision:
        service = view.service
        scaling = service.scaling
        spec = Spec(
            min_replicas=service.min_replicas,
            max_replicas=service.max_replicas,
            target_concurrency=concurrency_per_replica(scaling.target_concurrency, scaling.concurrency),
            scale_down_delay=scaling.scale_down_delay,
            idle_timeout=self._idle_timeout(service),
            target_rate=scaling.target_requests_per_second,
            target_queue_delay=_seconds(scaling.target_queue_delay_ms),
            target_gpu_utilization=service.target_gpu_utilization,
            reserve=int(reserved),
        )
        self._observe(service.id, watch, load, now)
        watch.requested_at = self._demand.active_at(service.id)
        active_at = max(watch.memory.active_at, watch.requested_at or watch.memory.active_at)
        ready = [r for r in view.of(view.serving) if r.state is ReplicaState.READY]
        signals = Signals(
            busy=load.busy,
            concurrency=Averages(watch.load.over(STABLE_WINDOW, now), watch.load.over(PANIC_WINDOW, now)),
            ready=len(ready),
            complete=settled,
            rate=Averages(watch.rate.requests(STABLE_WINDOW), watch.rate.requests(PANIC_WINDOW)),
            held=load.held,
            queue_delay=max(load.oldest, watch.rate.wait(PANIC_WINDOW)),
            gpu_utilization=self._gpu_utilization(watch, ready, now),
        )
        return decide(spec, signals, replace(watch.memory, active_at=active_at), now)

    def _gpu_utilization(self, watch: Watch, ready: Sequence[Replica], now: float) -> float | None:
        """Percent, the mean over the ready replicas; those that are not measured count as the others do.

        What is averaged over time is their sum: it stays as it is when others come to take a part of it.
        """
        measured = mean(p for r in ready if (p := self._gpus.of(r.node, r.id, now)) is not None)
        if measured is None:
            watch.gpus = None
            return None
        if watch.gpus is None:
            watch.gpus = Average(now, self._settings.gpu_window)
        watch.gpus.observe(measured * len(ready), now)
        return min(100.0, watch.gpus.over(self._settings.gpu_window, now) / len(ready))

    def _settled(self, view: View) -> bool:
        """Every registered worker has been heard under this run of the store (law 3)."""
        run_id = self._mirror.run_id
        return self.roster.covers(0, run_id) and self._demand.complete(self.roster.workers, run_id)

    def _drained(self, view: View, replica: Replica) -> bool:
        version = view.version(Kind.REPLICA, replica.id)
        workers, run_id = self.roster.workers, self._mirror.run_id
        if not self.roster.covers(version, run_id):
            return False
        self._acks.note(replica.id, self._demand.missing(version, workers, run_id))
        self._noted.add(replica.id)
        return self._demand.drained(view.service.id, replica.id, version, workers, run_id)

    def _freed(self, view: View, replica: Replica) -> bool:
        """Every worker knows that it stops."""
        version, run_id = view.version(Kind.REPLICA, replica.id), self._mirror.run_id
        if replica.state is not ReplicaState.STOPPING or not self.roster.covers(version, run_id):
            return False
        return not self._demand.missing(version, self.roster.workers, run_id)

    def _overdue(self, view: View, watch: Watch, replica: Replica, now: float) -> bool:
        """The drain time is over, and every worker has taken it out of rotation all the same."""
        version = view.version(Kind.REPLICA, replica.id)
        patience = 0.0 if view.service.forced else self._settings.drain_timeout
        run_id = self._mirror.run_id
        over = watch.age(replica, now) >= patience and self.roster.covers(version, run_id)
        return over and not self._demand.missing(version, self.roster.workers, run_id)

    def _called(self, view: View, watch: Watch, now: float) -> bool:
        """What workers said before they heard that it sleeps is no wish to wake it."""
        if watch.asleep_at is None:
            return False
        version, run_id = view.version(Kind.SCALE, view.service.id), self._mirror.run_id
        return self._demand.called(view.service.id, version, run_id, watch.asleep_at, now)

    def _stable(self, view: View, watch: Watch, now: float) -> bool:
        ready = (r for r in view.of(view.serving) if r.state is ReplicaState.READY)
        return any(watch.age(r, now) >= self._settings.stable_after for r in ready)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _reserved(view: View, wall: int) -> bool:
    """Never what its owner put to sleep, or what failed to start: that waits for somebody who is held."""
    scale = view.scale
    able = view.service.scaling.warm_reserve and not scale.asleep and scale.failures == 0
    return able and forecast.reserved(scale.history, wall)
