"""Replicas as containers of a Docker or Podman engine (SPEC section 5).

Laws kept here: what runs is learnt from the engine, so control may be killed at any line (law 4): containers carry
labels that say whose they are, those that another control left are adopted, those that never started are removed, and
how a replica ended is on disk before it is told. Containers have an init process, limits, and a network per namespace
(law 8). A container is removed as soon as it has ended and its output is in the log; an engine that is being restarted
is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from weakref import WeakValueDictionary

from activator.drivers import (
    Artifact,
    ArtifactMissing,
    BuildJob,
    BuildLog,
    Launch,
    Needed,
    Observed,
    OnExit,
    Started,
    StartFailed,
)
from activator.drivers.process import Limits
from activator.drivers.process.files import told
from activator.drivers.process.ports import NoPortError, Ports, local_port_range, own_range
from activator.logs import ReplicaLogs, Source, last_lines

from .body import HOST, Identity, container_body, container_name, free_gpus, node_label
from .credentials import Credentials
from .engine import Engine, EngineError
from .failures import start_failed
from .follow import Follower
from .images import Images
from .networks import Networks
from .records import Records
from .references import Shelf
from .replica import Replica, how_it_ended, stop_signal, terminate
from .source import Sources

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LAST_LINES: Final = 20
_STOP_GRACE: Final = 10.0
_CLOSE: Final = 30.0  # seconds for all replicas to end; an engine that does not answer is not waited for longer
_LOOK: Final = 15.0  # seconds after which the engine is asked what runs, should an event have been lost
_RETRY: Final = 0.5
_NEVER_RAN: Final = ("created", "configured", "initialized")


class ContainerDriver:
    """The driver of one node; `open` it in the running loop with an engine that is connected, and `close` it.

    `logs` takes in the replicas' output; `uid` is git's own where we are root; `gpus` are those of `--gpus`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        node: str,
        engine: Engine,
        git_url: str,
        logs: ReplicaLogs,
        uid: int | None = None,
        gpus: Mapping[str, int] | None = None,
        credentials: Credentials | None = None,
        ports: range | None = None,
        limits: Limits | None = None,
    ) -> None:
        root = data_dir.absolute() / "container"
        self._engine = engine
        self._node = node
        self._logs = logs
        self._gpus = gpus or {}
        self._ports = Ports(ports or own_range(local_port_range()))
        limits = limits or Limits()
        self._root = root
        self._shared = uid is not None
        self._records = Records(root / "replicas")
        self._networks = Networks(engine, node)
        sources = Sources(root / "clones", git_url, uid, limits)
        self._images = Images(engine, Shelf(node), sources, credentials or Credentials(), limits)
        self._replicas: dict[str, Replica] = {}
        self._launching: dict[str, Identity] = {}
        self._starting: dict[str, bool] = {}  # containers being started; True: ended meanwhile
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._builds: set[asyncio.Task[Artifact]] = set()
        self._look_now = asyncio.Event()
        self._watching: list[asyncio.Task[None]] = []

    @property
    def limits(self) -> Literal["enforced", "none"]:
        return "enforced" if self._engine.flavour.limits else "none"

    @property
    def isolated(self) -> bool:
        return True

    @property
    def gpus(self) -> Mapping[str, int]:
        """What replicas can have: nothing with an engine that ignores requests for GPUs."""
        return self._gpus if self._engine.flavour.gpus else {}

    async def open(self, on_exit: OnExit) -> None:
        """Adopt what an earlier control left. Raises `OSError`, `EngineError`."""
        self._on_exit = on_exit
        await asyncio.to_thread(self._prepare)
        await self._images.open()
        found = await self._engine.containers(node_label(self._node))
        recorded = {record.replica_id: record for record in await asyncio.to_thread(lambda: list(self._records.all()))}
        for container in found:
            identity = Identity.from_labels(container.get("Labels") or {})
            if identity is None or container.get("State") in _NEVER_RAN:
                await self._engine.remove(container["Id"])  # it never started
                continue
            recorded.pop(identity.replica_id, None)
            await self._adopt(identity, container)
        for identity in recorded.values():
            await self._recall(identity)
        self._watching = [self._own(self._listen()), self._own(self._look())]

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o711 if self._shared else 0o700)
        self._records.prepare()

    async def _adopt(self, identity: Identity, container: Mapping[str, Any]) -> None:
        """A container that runs or has ended; one whose end has been told is only removed."""
        name = identity.replica_id
        await asyncio.to_thread(self._records.create, identity)
        how = await asyncio.to_thread(self._records.exit, name)
        if how is not None:
            await self._engine.remove(container["Id"])
            self._replicas[name] = Replica(identity, self._records.directory(name), None, how)
            return
        found = await self._engine.inspect(container["Id"])
        replica = self._know(identity, container["Id"], found or {})
        if not _runs(found):
            self._ended(replica)

    async def _recall(self, identity: Identity) -> None:
        """A replica without a container: its end was told, or somebody removed it, or it never had one."""
        name = identity.replica_id
        how = await asyncio.to_thread(self._records.exit, name)
        if how is not None:
            self._replicas[name] = Replica(identity, self._records.directory(name), None, how)
            return
        self._logs.add(self._source(identity))
        await self._logs.finish(name)
        await asyncio.to_thread(self._records.remove, name)

    # -- building

    async def build(self, job: BuildJob, log: BuildLog) -> Artifact:
        task = asyncio.get_running_loop().create_task(self._images.make(job, log))
        self._builds.add(task)
        try:
            return await task  # cancelling us cancels it
        finally:
            self._builds.discard(task)

    async def verify(self, replica_id: str) -> bool:
        """Images are known by their content: what was built can't have been changed."""
        return True

    async def prune(self, needed: Needed) -> None:
        try:
            kept = await self._images.prune(needed, self._used)
            await self._networks.prune(lambda namespace: namespace in kept or self._runs_any(namespace))
        except EngineError as error:
            log.warning("images and networks that nothing needs are kept for now: %s", error)

    def _used(self, service: str) -> set[str]:
        return {identity.artifact for identity in self._identities() if identity.service_id == service}

    def _runs_any(self, namespace: str) -> bool:
        return any(identity.namespace == namespace for identity in self._identities())

    def _identities(self) -> list[Identity]:
        """Of all replicas that are not ended, those included that are being started."""
        alive = (replica.identity for replica in self._replicas.values() if replica.exit is None)
        return [*alive, *self._launching.values()]

    # -- starting

    def allocate(self, in_use: Collection[int]) -> int:
        own = {replica.identity.port for replica in self._replicas.values()}
        try:
            return self._ports.allocate({*in_use, *own})
        except NoPortError as error:
            raise StartFailed("no port is free for another replica", str(error)) from error

    async def start(self, launch: Launch) -> Started:
        # a start that is cancelled goes on: its container may be there already, and must be known
        return await asyncio.shield(self._own(self._start(launch)))

    async def _start(self, launch: Launch) -> Started:
        async with self._lock(launch.replica_id):
            known = self._replicas.get(launch.replica_id)
            if known is None:
                try:
                    known = await self._run(launch)
                except OSError as error:
                    raise StartFailed("the node could not start it", told(error)) from error
                finally:
                    self._launching.pop(launch.replica_id, None)
            if known.exit is not None:
                raise StartFailed(f"the replica has {known.exit} already")
            return Started(HOST, known.identity.port)

    async def _run(self, launch: Launch) -> Replica:
        """The record, then the container. Raises `StartFailed`, `OSError`; nothing is left of it then."""
        identity = self._launching[launch.replica_id] = Identity.of(launch, self._node, self._devices(launch))
        await asyncio.to_thread(self._records.create, identity)
        container: str | None = None
        try:
            await self._networks.make(launch.namespace)
            container = await self._create(launch, identity)
            self._starting[container] = False
            await self._engine.start(container)
            found = await self._engine.inspect(container)
        except EngineError as error:
            await self._undo(launch.replica_id, container)
            if error.status == 404 and container is None and "image" in error.message.lower():
                raise ArtifactMissing("its image is not on this node", launch.artifact) from error
            raise start_failed(error, launch.env) from error
        finally:
            ended = container is not None and self._starting.pop(container, False)
        replica = self._know(identity, container, found or {})
        if ended or not _runs(found):
            self._ended(replica)
        return replica

    async def _create(self, launch: Launch, identity: Identity) -> str:
        """What an interrupted start of the same replica left goes first. Raises `EngineError`."""
        name = container_name(launch.replica_id)
        body = container_body(launch, identity, self._engine.flavour)
        try:
            return await self._engine.create(name, body)
        except EngineError as error:
            if error.status not in (409, 500) or await self._engine.inspect(name) is None:
                raise
        await self._engine.remove(name)
        return await self._engine.create(name, body)

    async def _undo(self, replica_id: str, container: str | None) -> None:
        with contextlib.suppress(EngineError):  # the next open removes it
            await self._engine.remove(container or container_name(replica_id))
        await asyncio.to_thread(self._records.remove, replica_id)

    def _devices(self, launch: Launch) -> tuple[str, ...]:
        """The numbers of GPUs that nobody has. Raises `StartFailed`."""
        if launch.gpu == "none":
            return ()
        if not self._engine.flavour.gpus:
            detail = f"{self._engine.flavour.name} ignores requests for GPUs: use Docker"
            raise StartFailed("the container engine of the node gives no GPUs", detail)
        in_use = {device for identity in self._identities() for device in identity.gpus}
        free = free_gpus(self._gpus, launch.gpu, max(1, launch.gpu_count), in_use)
        if free is None:
            raise StartFailed(f"too few {launch.gpu} GPUs are free on the node for another replica")
        return tuple(free)

    async def listens(self, replica_id: str) -> bool:
        """Its port is published by the engine for as long as the container runs, so nobody else can have it.

        An engine that is being restarted takes nothing from what runs: then what was known last counts.
        """
        replica = self._replicas.get(replica_id)
        if replica is None or replica.exit is not None or replica.ending or replica.container is None:
            return False
        try:
            return _runs(await self._engine.inspect(replica.container))
        except EngineError:
            return True

    # -- ending

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        async with self._lock(replica_id):  # a start under way is waited for
            replica = self._replicas.get(replica_id)
        if replica is not None and not replica.done.is_set():
            await terminate(replica, self._engine, grace_seconds)

    async def observe(self) -> list[Observed]:
        return [replica.observed() for replica in self._replicas.values()]

    async def forget(self, replica_id: str) -> None:
        await self.stop(replica_id, 0)
        async with self._lock(replica_id):
            self._replicas.pop(replica_id, None)
            await asyncio.to_thread(self._records.remove, replica_id)

    async def close(self, *, keep: bool) -> None:
        builds = list(self._builds)
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)
        if not keep:
            try:
                async with asyncio.timeout(_CLOSE):
                    await asyncio.gather(*(self.stop(name, _STOP_GRACE) for name in list(self._replicas)))
            except TimeoutError:
                log.warning("containers are left behind: the engine did not end them in %.0f s", _CLOSE)
        for task in (*self._watching, *(replica.following for replica in self._replicas.values())):
            if task is not None:
                task.cancel()
        await asyncio.wait(self._tasks, timeout=_RETRY) if self._tasks else None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.close()

    def _lock(self, replica_id: str) -> asyncio.Lock:
        return self._locks.setdefault(replica_id, asyncio.Lock())

    def _own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _source(self, identity: Identity) -> Source:
        directory = self._records.directory(identity.replica_id)
        return Source(identity.service_id, identity.deployment_id, identity.replica_id, directory)

    # -- watching

    def _know(self, identity: Identity, container: str, found: Mapping[str, Any]) -> Replica:
        replica = Replica(identity, self._records.directory(identity.replica_id), container)
        replica.stop_signal = stop_signal(found)
        replica.follower = Follower(self._engine, container, replica.directory)
        replica.following = self._own(replica.follower.run())
        self._replicas[identity.replica_id] = replica
        self._logs.add(self._source(identity))
        return replica

    async def _listen(self) -> None:
        """Be told of containers that end, for as long as the engine lives, and again once it is back."""
        while True:
            try:
                async with contextlib.aclosing(self._engine.deaths(node_label(self._node))) as deaths:
                    async for container in deaths:
                        self._died(container)
            except EngineError as error:
                log.warning("what the container engine does is not known for now: %s", error)
            await asyncio.sleep(_RETRY)

    def _died(self, container: str | None) -> None:
        """`None`: from now on we are told; what was before is to be looked for."""
        if container is None:
            self._look_now.set()
        elif container in self._starting:
            self._starting[container] = True
        else:
            for replica in self._replicas.values():
                if replica.container == container:
                    self._ended(replica)

    async def _look(self) -> None:
        """Now and then, find by looking what no event told."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._look_now.wait()
                    await asyncio.sleep(_RETRY)
            self._look_now.clear()
            known = [replica for replica in self._replicas.values() if replica.exit is None]
            try:
                containers = await self._engine.containers(node_label(self._node))
            except EngineError as error:
                log.warning("what runs is not known for now: %s", error)
                continue
            running = {container["Id"] for container in containers if container.get("State") == "running"}
            for replica in known:
                if replica.container not in running:
                    self._ended(replica)

    def _ended(self, replica: Replica) -> None:
        if not replica.ending:
            replica.ending = True
            self._own(self._finish(replica))

    async def _finish(self, replica: Replica) -> None:
        """It seems to have ended: if it has, take in its last lines, tell, remove its container."""
        name, container = replica.identity.replica_id, replica.container or ""
        found = await self._inspect(container)
        if _runs(found):
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
                log.warning("waiting for the container engine: %s", error)
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


def _runs(found: Mapping[str, Any] | None) -> bool:
    """Whether a container that was inspected runs, be it paused."""
    state = {} if found is None else found.get("State") or {}
    return bool(state.get("Running") or state.get("Paused"))
