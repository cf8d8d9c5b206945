"""The replicas of a node while control runs: who they are, and that each one's end is noticed, kept and told once.

The engine's events say when a container ends; looking now and then finds what no event told (law 4: what runs is learnt
from the engine, and an engine that is being restarted is waited for). What an ended container wrote is in the log, and
how it ended is on disk, before anybody is told; then the container goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Final, TypeVar

from activator.drivers import OnExit
from activator.logs import ReplicaLogs, Source, last_lines

from .body import Identity, node_label
from .engine import Engine, EngineError
from .follow import Follower
from .records import Records
from .replica import Replica, how_it_ended, stop_signal

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LAST_LINES: Final = 20
_LOOK: Final = 15.0  # seconds after which the engine is asked what runs, should an event have been lost
_LOOK_UNTOLD: Final = 1.0  # the same while it tells no events
_RETRY: Final = 0.5


class Fleet:
    """`watch` them once those that were found are known; `close` lets go of all."""

    def __init__(self, engine: Engine, node: str, records: Records, logs: ReplicaLogs) -> None:
        self.replicas: dict[str, Replica] = {}
        self._engine = engine
        self._node = node
        self._records = records
        self._logs = logs
        self._starting: dict[str, bool] = {}  # containers being started; True: ended meanwhile
        self._tasks: set[asyncio.Task[Any]] = set()
        self._look_now = asyncio.Event()
        self._told = False  # of events
        self._trouble = ""
        self._endless: list[asyncio.Task[None]] = []

    def watch(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit
        for task in self._endless:  # of an attempt before this one
            task.cancel()
        self._endless = [self.own(self._listen()), self.own(self._look())]

    def own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Work that `close` waits for, for a moment."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """What runs is left running."""
        for task in (*self._endless, *(replica.following for replica in self.replicas.values())):
            if task is not None:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_RETRY)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def starting(self, container: str) -> Iterator[None]:
        """Its end is remembered from here on, until `know` is called inside."""
        self._starting[container] = False
        try:
            yield
        finally:
            del self._starting[container]

    def know(self, identity: Identity, container: str, found: Mapping[str, Any] | None) -> Replica:
        """A container that was started or adopted; `found` is what `inspect` says of it by now."""
        replica = Replica(identity, self._records.directory(identity.replica_id), container)
        replica.stop_signal = stop_signal(found or {})
        replica.follower = Follower(self._engine, container, replica.directory)
        replica.following = self.own(replica.follower.run())
        self.replicas[identity.replica_id] = replica
        self._logs.add(self.source(identity))
        if self._starting.get(container) or not runs(found):
            self._ended(replica)
        return replica

    def source(self, identity: Identity) -> Source:
        """Where its output is."""
        directory = self._records.directory(identity.replica_id)
        return Source(identity.service_id, identity.deployment_id, identity.replica_id, directory)

    async def _listen(self) -> None:
        """Be told of containers that end, for as long as the engine lives, and again once it is back."""
        while True:
            try:
                async with contextlib.aclosing(self._engine.deaths(node_label(self._node))) as deaths:
                    async for container in deaths:
                        self._died(container)
            except EngineError as error:
                self._complain(f"the container engine tells no events: {error}")
            self._told = False
            await asyncio.sleep(_RETRY)

    def _complain(self, trouble: str) -> None:
        """Once, until the engine is back."""
        if trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble

    def _died(self, container: str | None) -> None:
        """`None`: from now on we are told; what was before is to be looked for."""
        if container is None:
            self._told = True
            self._trouble = ""
            self._look_now.set()
        elif container in self._starting:
            self._starting[container] = True
        else:
            for replica in self.replicas.values():
                if replica.container == container:
                    self._ended(replica)

    async def _look(self) -> None:
        """Now and then, find by looking what no event told."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK if self._told else _LOOK_UNTOLD):
                    await self._look_now.wait()
                    await asyncio.sleep(_RETRY)
            self._look_now.clear()
            known = [replica for replica in self.replicas.values() if replica.exit is None]
            try:
                containers = await self._engine.containers(node_label(self._node))
            except EngineError as error:
                self._complain(f"what runs is not known for now: {error}")
                continue
            running = {container["Id"] for container in containers if container.get("State") == "running"}
            for replica in known:
                if replica.container not in running:
                    self._ended(replica)

    def _ended(self, replica: Replica) -> None:
        if not replica.ending:
            replica.ending = True
            self.own(self._finish(replica))

    async def _finish(self, replica: Replica) -> None:
        """It seems to have ended: if it has, take in its last lines, tell, remove its container."""
        name, container = replica.identity.replica_id, replica.container or ""
        found = await self._inspect(container)
        if runs(found):
            replica.ending = False
            self._look_now.set()
            return
        await self._last_output(replica, gone=found is None)
        await self._logs.finish(name)
        lines = await asyncio.to_thread(last_lines, replica.directory, _LAST_LINES)
        how = how_it_ended(found, stopped=replica.stopping, last_lines=lines)
        try:
            await asyncio.to_thread(self._records.ended, name, how)
        except OSError as error:
            log.warning("can't record how replica %s ended: %s", name, error)  # told again, if control is killed now
        replica.exit = how
        self._on_exit(name, how)
        try:
            await self._engine.remove(container)
        except EngineError as error:
            log.warning("the container of replica %s is left for the next start: %s", name, error)
        replica.done.set()

    async def _inspect(self, container: str) -> dict[str, Any] | None:
        """However long the engine takes to come back."""
        while True:
            try:
                return await self._engine.inspect(container)
            except EngineError as error:
                self._complain(f"waiting for the container engine: {error}")
                await asyncio.sleep(_RETRY)

    async def _last_output(self, replica: Replica, *, gone: bool) -> None:
        if replica.following is not None:
            replica.following.cancel()
            await asyncio.wait([replica.following])
        if replica.follower is None or gone:
            return
        try:
            await replica.follower.rest()
        except (EngineError, OSError) as error:
            log.warning("the last output of replica %s is lost: %s", replica.identity.replica_id, error)


def runs(found: Mapping[str, Any] | None) -> bool:
    """Whether a container that was inspected runs, be it paused."""
    state = {} if found is None else found.get("State") or {}
    return bool(state.get("Running") or state.get("Paused"))
