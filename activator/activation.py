"""The control side of sleep and wake, wired: what a composition root makes one of.

    mirror = Mirror(store, [*activator.views.KINDS, ...], lambda touched: activation.changed(touched), slices=True)
    activation = Activation(store, mirror, driver, lease, settings, supervisor=..., environment=..., build_log=...)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(mirror.run())
        tasks.create_task(lease.run(activation.gained, activation.lost))
        tasks.create_task(activation.run())

The API gets `acks` (`wait(revision, timeout)`), the metrics get `catalog.counts()` and lend `cold_starts`, the
supervisor gets the list of `on_unacknowledged` and tells who is `gone`. On the way out: `activation.evacuation.begin()`
and `await activation.evacuation.ended()` where the store is shared, then `await activation.close(keep=...)`, after
which `run` may be cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from activator.acks import Acknowledgements
from activator.agent import Agent
from activator.attendance import Leave
from activator.builds import BuildLogs
from activator.coldstarts import ColdStarts
from activator.demand import NEWBORN, Demand, MalformedReport, Report, parse
from activator.draft import Note
from activator.drivers import Driver
from activator.ejections import Ejections
from activator.evacuation import Evacuation
from activator.gpu import Source
from activator.gpu.levels import Levels, MalformedLevel, decode
from activator.gpu.meter import Meter
from activator.journal import Journal
from activator.leader import Leader
from activator.ledger import Ledger
from activator.node import Environment
from activator.nodes import Nodes
from activator.registrations import Registrations
from activator.settings import Settings
from activator.views import Catalog
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import Offer, ReplicaState
from state.store import BEATS, GPUS, REPORTS, WAKES, Fence, Store

log = logging.getLogger(__name__)

OnReport = Callable[[bytes], None]
"""Sees every report of a worker as it came; must not raise or block."""


class Activation:
    """One per control process. `supervisor`: the id of the supervisor's run, as in the workers' registrations."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        driver: Driver,
        lease: Lease,
        settings: Settings,
        *,
        supervisor: str,
        environment: Environment,
        build_log: BuildLogs,
        offer: Offer,
        cold_starts: ColdStarts | None = None,
        on_unacknowledged: Callable[[list[str]], None] = lambda _: None,
        on_report: OnReport = lambda _: None,
        gpus: Sequence[Source] = (),
    ) -> None:
        """`gpus`: what knows how busy those of this node are."""
        self._store = store
        self._on_report = on_report
        self.demand = Demand()
        self.catalog = Catalog(mirror)
        self.cold_starts = cold_starts or ColdStarts()
        self.journal = Journal(store)
        self._ejections = Ejections()
        self.acks = Acknowledgements(store, mirror, self.demand, on_unacknowledged)
        self.registrations = Registrations(
            store,
            mirror,
            self.demand,
            self.acks,
            node=settings.node,
            supervisor=supervisor,
            stale_limit=settings.stale_limit,
        )
        ledger = Ledger(store, mirror, self.catalog)
        self.nodes = Nodes(store, mirror, lease, self.catalog, settings, offer)
        self.gpus = Levels(settings.gpu_patience)
        self.leader = Leader(
            store,
            mirror,
            lease,
            ledger=ledger,
            catalog=self.catalog,
            demand=self.demand,
            acks=self.acks,
            journal=self.journal,
            settings=settings,
            nodes=self.nodes,
            gpus=self.gpus,
        )
        self.agent = Agent(
            mirror,
            driver,
            ledger=ledger,
            catalog=self.catalog,
            demand=self.demand,
            acks=self.acks,
            journal=self.journal,
            cold_starts=self.cold_starts,
            settings=settings,
            environment=environment,
            build_log=build_log,
        )
        self.evacuation = Evacuation(self.catalog, self.nodes, self.agent, settings)
        self.meter = Meter(
            settings.node,
            gpus,
            self.agent.gpus,
            lambda level: store.publish(GPUS, level),
            interval=settings.gpu_interval,
            patience=settings.gpu_patience,
        )

    async def run(self) -> None:
        """For ever. Raises NodeUnfit."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="reports and wakes")
            tasks.create_task(self.journal.run(), name="events")
            tasks.create_task(self.nodes.run(), name="nodes")
            tasks.create_task(self.registrations.run(), name="registrations")
            tasks.create_task(self.agent.run(), name="agent")
            tasks.create_task(self.leader.run(), name="leader")
            tasks.create_task(self.evacuation.run(), name="evacuation")
            tasks.create_task(self.meter.run(), name="GPUs")

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        """For the mirror's `on_change`."""
        services, replicas = self.catalog.changed(touched)
        if services or replicas:
            self.agent.changed(services, replicas)
            self.leader.changed(services)
            self.evacuation.changed()
        if any(kind is Kind.NODE for kind, _ in touched):
            self.nodes.changed()
            self.gpus.keep(self.catalog.mirror.records(Kind.NODE))
            self.leader.fleet_changed()
        if any(kind is Kind.DEPLOYMENT and self.catalog.mirror.get(kind, i) is None for kind, i in touched):
            self.agent.forgotten()

    def gained(self, fence: Fence) -> None:
        """For the lease."""
        log.info("leading, with token %d", fence.token)
        self.nodes.hurry()
        self.leader.hurry()

    def lost(self) -> None:
        """For the lease."""
        log.warning("not leading any more")
        self.leader.hurry()

    def gone(self, incarnations: Iterable[str]) -> None:
        """These workers have ended, says the supervisor."""
        self.registrations.gone(incarnations)

    def gpu_utilization(self) -> dict[str, float]:
        """Percent, the mean over the ready replicas of each service that were measured."""
        found: dict[str, list[float]] = {}
        for node, replica_id, percent in self.gpus.all(time.monotonic()):
            replica = self.catalog.replica(replica_id)
            if replica is not None and replica.node == node and replica.state is ReplicaState.READY:
                found.setdefault(replica.service, []).append(percent)
        return {service: sum(values) / len(values) for service, values in found.items()}

    async def close(self, *, keep: bool) -> None:
        """Nothing is decided or started any more; replicas end unless they are to be kept for the next control."""
        self.leader.close()
        self.nodes.leave(Leave.RELOAD)
        await self.agent.close(keep=keep)

    async def _listen(self) -> None:
        async for channel, data in self._store.subscribe(REPORTS, WAKES, BEATS, GPUS):
            if channel == WAKES:
                self._woken(data.decode(errors="replace"))
            elif channel == BEATS:
                if self.nodes.heard(data):
                    self.leader.fleet_changed()
            elif channel == GPUS:
                self._measured(data)
            else:
                self._reported(data)

    def _woken(self, service: str) -> None:
        if self.catalog.service(service) is not None:
            self.demand.hint(service, time.monotonic())
            self.leader.woken(service)
            self.agent.wanted(service)

    def _measured(self, data: bytes) -> None:
        """What a node says of its GPUs. A node that is not on record is not known to anybody."""
        try:
            level = decode(data)
        except MalformedLevel as error:
            log.warning("%s", error)
            return
        if level.node in self.catalog.mirror.records(Kind.NODE):
            self.gpus.take(level, time.monotonic())

    def _reported(self, data: bytes) -> None:
        try:
            report = parse(data)
        except MalformedReport as error:
            log.warning("%s", error)
            return
        services = self.demand.report(report, time.monotonic())
        self.acks.heard(report)
        self.leader.reported(services)
        for service, load in report.services.items():
            if load.held:
                self.agent.wanted(service)
        self.agent.answered(report.first_bytes)
        self._tell_ejections(report)
        self._on_report(data)

    def _tell_ejections(self, report: Report) -> None:
        """One control hears of them as well as another: the one that leads tells."""
        if report.ejections is None:
            return
        now, known = time.monotonic(), self._ejections.knows(report.worker)
        if not known:
            self._ejections.keep(self.demand.workers, now)
        newborn = not known and report.seq <= NEWBORN
        for service, count in self._ejections.counted(report.worker, report.ejections, now, newborn=newborn).items():
            if self.leader.leads:
                times = "once" if count == 1 else f"{count} times"
                reason = f"{times} a worker left a replica out for a while: requests to it failed in a row"
                self.journal.tell(service, (Note("replica.ejected", reason),))
