"""The part of control that looks after the replicas and builds of its own node, whoever leads.

Laws kept here: 4 (on start it adopts what the driver finds; what the store does not know is stopped, what nobody runs
is replaced, nothing is doubled, because every step is taken from what is stored) and 7 (every task has this owner).
What the driver raises that nobody foresaw never ends the node: it is logged, counted in `faults`, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from activator.acks import Acknowledgements
from activator.builds import BUILDABLE, BuildLogs, Builds
from activator.coldstarts import ColdStarts
from activator.demand import Demand
from activator.drivers import Driver, Exit, NodeUnfit, Observed
from activator.journal import Journal
from activator.keeper import Keeper
from activator.ledger import Ledger
from activator.node import Environment, Node
from activator.places import Places
from activator.racing import unless, within
from activator.settings import Settings
from activator.views import Catalog
from state.kinds import Kind
from state.mirror import Mirror
from state.models import DeploymentState

log = logging.getLogger(__name__)

_PRUNE_EVERY: Final = 3600.0  # seconds
_PRUNE_PACE: Final = 1.0  # seconds at least between two looks, however many services are deleted
_SLICE: Final = 1000  # services looked at between two turns of the loop
_ADOPTING: Final = 10.0  # seconds that the driver may take to find what runs, before closing goes on without
_AFTER_A_FAULT: Final = 1.0  # seconds until a keeper or build that raised is taken up again
_LONGEST_PAUSE: Final = 60.0  # seconds; what the whole node needs is tried again after 1 s doubling to that
_CLOSINGS: Final = 3  # attempts

T = TypeVar("T")


class Agent:
    """`run` until `close`; `changed` and `wanted` at any time."""

    def __init__(
        self,
        mirror: Mirror,
        driver: Driver,
        *,
        ledger: Ledger,
        catalog: Catalog,
        demand: Demand,
        acks: Acknowledgements,
        journal: Journal,
        cold_starts: ColdStarts,
        settings: Settings,
        environment: Environment,
        build_log: BuildLogs,
    ) -> None:
        self._mirror = mirror
        self._driver = driver
        self._catalog = catalog
        self._settings = settings
        places = Places(settings.builds_at_once)
        self._builds = Builds(driver, ledger, journal, environment, build_log, places)
        self._node = Node(
            driver, ledger, catalog, demand, acks, journal, cold_starts, settings, environment, self._builds.again
        )
        self._keepers: dict[str, Keeper] = {}
        self._building: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._owned: set[asyncio.Task[None]] = set()
        self.opened = False
        self.faults: Counter[str] = Counter(dict.fromkeys(("open", "replica", "build", "guard", "prune", "close"), 0))
        """What nobody foresaw, by what it was met at."""
        self._untidy = asyncio.Event()
        self._closed = asyncio.Event()
        self._adopted = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Adopt, then keep. Raises NodeUnfit.

        Who is closed before that adopts all the same: only so can what runs be ended.
        """
        await unless(self._closed, self._mirror.synced())
        for observed in await self._insist("open", self._open):
            if observed.alive:
                self._node.running.add(observed.replica_id)
            elif observed.exit is not None and _known(observed.exit):
                self._node.exits[observed.replica_id] = observed.exit
            self._node.ports[observed.replica_id] = observed.port
        self._adopted.set()
        try:
            if not self._closed.is_set():
                await self._keep_all()
        finally:
            self._ended.set()

    async def _open(self) -> list[Observed]:
        if not self.opened:
            await self._driver.open(self._exited)
            self.opened = True
        return await self._driver.observe()

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            try:
                own = {r.id for r in self._catalog.replicas() if r.node == self._settings.node}
                for replica_id in own.union(self._node.ports):
                    self._keep(replica_id)
                await self._look_at_all()
                self._own("guard", self._guard())
                await unless(self._closed, self._prune())
            finally:
                self._tasks = None  # the mirror may tell of changes still; a group that ends takes no more tasks
            for task in self._owned:
                task.cancel()

    @property
    def adopted(self) -> bool:
        """Whether what runs on this node is known."""
        return self._adopted.is_set()

    @property
    def running(self) -> frozenset[str]:
        """The replicas that run on this node, as far as the driver said."""
        return frozenset(self._node.running)

    async def gpus(self) -> Mapping[str, Sequence[str]]:
        """Those of each replica that runs on this node, by number or UUID."""
        if not self.adopted:
            return {}
        return {one.replica_id: one.gpus for one in await self._driver.observe() if one.alive and one.gpus}

    def changed(self, services: Iterable[str], replicas: Iterable[str]) -> None:
        """The mirror has something new about these."""
        if self._tasks is None:
            return
        for replica_id in replicas:
            replica = self._catalog.replica(replica_id)
            keeper = self._keepers.get(replica_id)
            if keeper is not None:
                keeper.nudge()
            elif replica is not None and replica.node == self._settings.node:
                self._keep(replica_id)
        self._look_at(services)

    def forgotten(self) -> None:
        """Records of deployments are gone: what is kept for them may go."""
        self._untidy.set()

    def wanted(self, service: str) -> None:
        """Somebody is held for this service now."""
        for replica_id in self._catalog.replica_ids(service):
            keeper = self._keepers.get(replica_id)
            if keeper is not None:
                keeper.hurry()

    def answered(self, first_bytes: Mapping[str, int]) -> None:
        """By replica, whoever's it is: microseconds from its readiness to the first byte for who was held for it."""
        for replica_id, first_byte in first_bytes.items():
            keeper = self._keepers.get(replica_id)
            if keeper is not None:
                keeper.answered(first_byte)

    async def close(self, *, keep: bool) -> None:
        """End the builds, and the replicas unless they are to be kept for the next control. Nothing is stored of it:
        the next start finds them stopped, and nobody's fault."""
        self._closed.set()
        if not await within(self._adopted, _ADOPTING):
            log.warning("what runs on this node is not known after %.0f s and is left alone", _ADOPTING)
        if self._adopted.is_set():
            await self._ended.wait()
        if self.opened:
            await self._close_driver(keep)

    async def _close_driver(self, keep: bool) -> None:
        for _ in range(_CLOSINGS):
            try:
                await self._driver.close(keep=keep)
            except Exception:
                self._failed("close", "the driver can't be closed")
                await asyncio.sleep(_AFTER_A_FAULT)
            else:
                return

    async def kill(self) -> None:
        """End all replicas at once, however often that has to be tried; once they are known."""
        await self._adopted.wait()
        observed = await self._insist("close", self._driver.observe)
        async with asyncio.TaskGroup() as tasks:
            for replica in observed:
                tasks.create_task(self._kill(replica.replica_id), name=f"kill {replica.replica_id}")

    async def _kill(self, replica_id: str) -> None:
        await self._insist("close", lambda: self._driver.stop(replica_id, 0))

    async def _insist(self, at: str, step: Callable[[], Awaitable[T]]) -> T:
        """What the whole node needs of the driver is tried until it is done. Raises NodeUnfit."""
        pauses = _pauses()
        while True:
            try:
                return await step()
            except NodeUnfit:
                raise
            except Exception:
                pause = next(pauses)
                self._failed(at, "the driver failed at what the node needs (%s): tried again in %.0f s", at, pause)
                await asyncio.sleep(pause)

    def _failed(self, at: str, text: str, *values: object) -> None:
        """Inside of `except`."""
        self.faults[at] += 1
        log.exception(text, *values)

    def _exited(self, replica_id: str, how: Exit) -> None:
        self._node.running.discard(replica_id)
        if self._closed.is_set():
            return
        self._node.exits[replica_id] = how
        keeper = self._keepers.get(replica_id)
        if keeper is not None:
            keeper.nudge()

    def _keep(self, replica_id: str) -> None:
        keeper = self._keepers[replica_id] = Keeper(self._node, replica_id)
        self._own(f"replica {replica_id}", self._kept(keeper, replica_id))

    async def _kept(self, keeper: Keeper, replica_id: str) -> None:
        while True:
            try:
                await keeper.run()
                break
            except Exception:
                self._failed("replica", "replica %s: taken up again", replica_id)
                await asyncio.sleep(_AFTER_A_FAULT)
        del self._keepers[replica_id]

    async def _look_at_all(self) -> None:
        """In slices: 100,000 services at once stopped the loop for a second."""
        services = list({deployment.service for deployment in self._catalog.deployments()})
        for start in range(0, len(services), _SLICE):
            self._look_at(services[start : start + _SLICE])
            await asyncio.sleep(0)

    def _look_at(self, services: Iterable[str]) -> None:
        """Start the builds that are this node's to do, end those that nobody wants any more."""
        if self._tasks is None:
            return
        for service_id in set(services):
            service = self._catalog.service(service_id)
            for deployment in self._catalog.deployments_of(service_id):
                mine = deployment.node == self._settings.node and deployment.state in BUILDABLE
                wanted = mine and service is not None and service.deleted_at is None
                if wanted and service is not None and deployment.id not in self._building:
                    work = self._built(self._builds.run(service, deployment), deployment.id)
                    self._building[deployment.id] = self._own(f"build {deployment.id}", work)
        for deployment_id, task in self._building.items():
            known = self._catalog.deployment(deployment_id)
            moved = known is not None and known.node != self._settings.node
            over = known is None or (known.state is DeploymentState.CANCELLED and known.artifact is None)
            if over or moved:
                task.cancel()  # with an artifact its build has ended, and is about to say so

    async def _built(self, work: Coroutine[Any, Any, None], deployment_id: str) -> None:
        try:
            await work
        except Exception:
            self._failed("build", "build of deployment %s: taken up again", deployment_id)
            await asyncio.sleep(_AFTER_A_FAULT)
        finally:
            del self._building[deployment_id]
        known = self._catalog.deployment(deployment_id)
        if known is not None and not self._closed.is_set():
            self._look_at((known.service,))

    def _own(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._tasks is None:
            raise RuntimeError("the agent does not run")
        task = self._tasks.create_task(work, name=name)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return task

    async def _guard(self) -> None:
        """Ports that strangers took: a check of its own, for the next health check may be ten seconds away."""
        while True:
            try:
                for replica_id in await self._driver.usurped():
                    if (keeper := self._keepers.get(replica_id)) is not None:
                        keeper.usurped()
            except Exception:  # the health checks look, too
                self._failed("guard", "whose the ports of the replicas are can't be seen")
            await asyncio.sleep(self._settings.guard_interval)

    async def _prune(self) -> None:
        """Drop the artifacts that no deployment needs: at the start, when deployments have gone, and now and then."""
        pauses = _pauses()
        while True:
            self._untidy.clear()
            self._node.mended.intersection_update(d.id for d in self._catalog.deployments())
            try:
                await self._driver.prune(self._needed)
            except Exception:
                self._failed("prune", "what nobody needs can't be removed")
                await asyncio.sleep(next(pauses))
            else:
                pauses = _pauses()
                await asyncio.sleep(_PRUNE_PACE)
                await within(self._untidy, _PRUNE_EVERY)

    def _needed(self, service: str) -> Collection[str] | None:
        """What the driver must keep for a service. A build's artifact is not stored before its end."""
        if self._catalog.unreadable(Kind.DEPLOYMENT):  # it may need what nobody else does
            return None
        deployments = self._catalog.deployments_of(service)
        artifacts = {d.artifact for d in deployments if d.artifact is not None}
        building = any(d.state in BUILDABLE for d in deployments)
        gone = self._catalog.service(service) is None and not deployments
        return artifacts if gone or (artifacts and not building) else None


def _pauses() -> Iterator[float]:
    """Seconds between attempts, for ever."""
    pause = _AFTER_A_FAULT
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _known(how: Exit) -> bool:
    """Whether it ended by itself; one that was stopped, or ended with the machine, is nobody's fault."""
    return not how.stopped and (how.code is not None or how.signal is not None)
