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
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from activator.drivers import (
    Artifact,
    ArtifactMissing,
    BuildJob,
    BuildLog,
    Launch,
    Needed,
    NoRoom,
    Observed,
    OnExit,
    Started,
    StartFailed,
)
from activator.drivers.files import told
from activator.drivers.gpus import free_gpus
from activator.drivers.process import Limits
from activator.drivers.process.forge import Forge
from activator.drivers.process.ports import NoPortError, Ports, local_port_range, own_range
from activator.logs import ReplicaLogs

from .body import HOST, Identity, container_body, container_name, node_label
from .credentials import Credentials
from .engine import Engine, EngineError
from .failures import start_failed
from .fleet import Fleet, runs
from .images import Images
from .networks import Networks
from .records import Records
from .references import Shelf
from .replica import Replica, terminate
from .source import Sources

log = logging.getLogger(__name__)

_STOP_GRACE: Final = 10.0
_CLOSE: Final = 30.0  # seconds for all replicas to end; an engine that does not answer is not waited for longer
_PRUNES: Final = 5
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
        self._gpus = gpus or {}
        self._ports = Ports(ports or own_range(local_port_range()))
        limits = limits or Limits()
        self._root = root
        self._shared = uid is not None
        self._logs = logs
        self._records = Records(root / "replicas")
        self._fleet = Fleet(engine, node, self._records, logs)
        self._replicas = self._fleet.replicas
        self._networks = Networks(engine, node)
        sources = Sources(root / "clones", Forge.of(git_url), uid, limits)
        self._images = Images(engine, Shelf(node), sources, self._networks, credentials or Credentials(), limits)
        self._launching: dict[str, Identity] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._builds: set[asyncio.Task[Artifact]] = set()

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
        await asyncio.to_thread(self._prepare)
        self._fleet.watch(on_exit)
        await self._images.open()
        found = await self._engine.containers(node_label(self._node))
        recorded = {record.replica_id: record for record in await asyncio.to_thread(lambda: list(self._records.all()))}
        for container in found:
            identity = Identity.from_labels(container.get("Labels") or {})
            if identity is None or container.get("State") in _NEVER_RAN:
                await self._engine.remove(container["Id"])  # it never started
                continue
            recorded.pop(identity.replica_id, None)
            if identity.replica_id not in self._replicas:
                await self._adopt(identity, container)
        for identity in recorded.values():
            if identity.replica_id not in self._replicas:
                await self._recall(identity)

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
        self._fleet.know(identity, container["Id"], found)

    async def _recall(self, identity: Identity) -> None:
        """A replica without a container: its end was told, or somebody removed it, or it never had one."""
        name = identity.replica_id
        how = await asyncio.to_thread(self._records.exit, name)
        if how is not None:
            self._replicas[name] = Replica(identity, self._records.directory(name), None, how)
            return
        self._logs.add(self._fleet.source(identity))
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

    async def made(self, job: BuildJob) -> Artifact | None:
        return await self._images.made(job)

    async def verify(self, replica_id: str) -> bool:
        """Images are known by their content: what was built can't have been changed."""
        return True

    async def prune(self, needed: Needed) -> None:
        for left in reversed(range(_PRUNES)):
            try:
                await self._prune(needed)
            except EngineError as error:  # Podman can't list images while one of them is being removed
                if not left:
                    log.warning("images and networks that nothing needs are kept for now: %s", error)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _prune(self, needed: Needed) -> None:
        kept = await self._images.prune(needed, self._used)
        await self._networks.prune(
            lambda namespace: namespace in kept or self._runs_any(namespace) or self._images.builds(namespace)
        )

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
            raise NoRoom("no port of its node is free", str(error)) from error

    async def start(self, launch: Launch) -> Started:
        # a start that is cancelled goes on: its container may be there already, and must be known
        return await asyncio.shield(self._fleet.own(self._start(launch)))

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
            with self._fleet.starting(container):
                await self._engine.start(container)
                return self._fleet.know(identity, container, await self._engine.inspect(container))
        except EngineError as error:
            await self._undo(launch.replica_id, container)
            if error.status == 404 and container is None and "image" in error.message.lower():
                raise ArtifactMissing("its image is not on this node", launch.artifact) from error
            raise start_failed(error, launch.env) from error

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
            return runs(await self._engine.inspect(replica.container))
        except EngineError:
            return True

    async def usurped(self) -> Collection[str]:
        """The engine holds the ports for as long as the containers run."""
        return ()

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
        await self._images.close()
        if not keep:
            try:
                async with asyncio.timeout(_CLOSE):
                    await asyncio.gather(*(self.stop(name, _STOP_GRACE) for name in list(self._replicas)))
            except TimeoutError:
                log.warning("containers are left behind: the engine did not end them in %.0f s", _CLOSE)
        await self._fleet.close()
        await self._engine.close()

    def _lock(self, replica_id: str) -> asyncio.Lock:
        return self._locks.setdefault(replica_id, asyncio.Lock())
