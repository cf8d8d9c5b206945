"""Replicas as local processes (SPEC section 5).

Laws kept here: what runs is learnt from the disk and the kernel, so control may be killed at any line (law 4): the
record is written first, the child adds its pid and start time and then execs, a record without them after 1 s never
started, and whatever runs without a record is a stray and killed. Every replica has its own session, and relays to log
files that outlive us.
Namespaces are apart by uid where we are root (law 8).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
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
from activator.drivers.files import told
from activator.drivers.gpus import cuda_environment, least_used
from activator.logs import ReplicaLogs, Source, last_lines

from . import relay
from .addresses import Addresses
from .build import Builder, Checkout
from .clones import Clones
from .cloning import Limits
from .forge import Forge
from .layout import Layout
from .listening import listeners
from .ports import local_port_range, own_range
from .procfs import boot_id, uid_of
from .records import Record, Records
from .relay import Relays
from .replica import HOST, Replica, terminate
from .run import Runner
from .spawn import Command, Process, base_environment, spawn
from .sweep import Scope, Sweeper
from .users import Identity, Users, UsersError, setpriv

log = logging.getLogger(__name__)

PROCESS_UIDS = range(61_000, 62_000)
_NEVER_STARTED = 1.0  # seconds without a pid file
_LAST_LINES = 20
STOP_GRACE = 10.0  # seconds from SIGTERM to SIGKILL when all replicas end with the node


class ProcessDriver:
    """The driver of one data directory; `open` it in the running loop, and `close` it.

    `logs` takes in the replicas' output; `uids` are for namespaces, used only where we are root (`isolated`); `gpus`
    are those of `--gpus`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        git_url: str,
        logs: ReplicaLogs,
        uids: range = PROCESS_UIDS,
        ports: range | None = None,
        limits: Limits | None = None,
        gpus: Mapping[str, int] | None = None,
    ) -> None:
        self._isolated = os.geteuid() == 0
        self._layout = Layout(data_dir.absolute(), self._isolated)
        self._forge = Forge.of(git_url)
        self._logs = logs
        self._uids = uids
        self._addresses = Addresses(ports or own_range(local_port_range()))
        self._build_limits = limits or Limits()
        self._gpus = gpus or {}
        self._given: dict[str, Sequence[str]] = {}  # GPUs of replicas that are being started
        self._records = Records(self._layout.replicas)
        self._replicas: dict[str, Replica] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._builds: set[asyncio.Task[Artifact]] = set()
        self._prepared = False
        self._preparing: asyncio.Task[Users | None] | None = None
        self._users: Users | None = None
        self._all_known = asyncio.Event()

    @property
    def limits(self) -> Literal["enforced", "none"]:
        return "none"

    @property
    def isolated(self) -> bool:
        return self._isolated

    async def open(self, on_exit: OnExit) -> None:
        """Adopt what an earlier control left and kill its strays. Raises `OSError`, `UsersError` with the fix."""
        self._on_exit = on_exit
        if not self._prepared:  # by an attempt before this one
            await self._make_ready()
            self._prepared = True
        for record in await asyncio.to_thread(lambda: list(self._records.all())):
            if record.replica_id not in self._replicas:
                await self._adopt(record)
        self._all_known.set()
        await self._sweeper.sweep()

    async def _make_ready(self) -> None:
        self._boot = boot_id()
        if self._users is None:
            self._preparing = asyncio.get_running_loop().create_task(asyncio.to_thread(self._prepare))
            self._users = await asyncio.shield(self._preparing)
        scope = Scope(self._layout.homes)
        if self._users is not None:
            scope = Scope(self._layout.homes, self._users.uids, self._users.exclusive)
        self._sweeper = Sweeper(scope)
        runner = Runner(self._sweeper)
        limits, clones = self._build_limits, self._clones()
        if clones is not None:
            await clones.open()
        self._builder = Builder(self._layout, self._users, runner, self._forge, limits, self._in_use, clones)

    def _prepare(self) -> Users | None:
        if not self._isolated:
            self._layout.prepare(self._forge)
            return None
        self._layout.prepare(Forge(self._forge.template))
        setpriv()
        self._addresses.open()
        self._reserve_again()
        users = self._addresses.users = Users(self._layout.uids, self._uids[:-1], admit=self._addresses.admit)
        if self._forge.private and self._git_uid in users.uids:
            users.close()
            raise UsersError(f"uid {self._git_uid}, git's own, is a namespace's already: widen --process-uids")
        return users

    def _reserve_again(self) -> None:
        """Before their namespaces are bound to what is reserved: what an earlier control started may be on its way to
        its port, and must not be refused it."""
        for record in self._records.all():
            if self._records.exit(record.replica_id) is None:
                self._addresses.reserve(record.port, record.uid)

    @property
    def _git_uid(self) -> int:
        """The last of `--process-uids`: no namespace gets it."""
        return self._uids[-1]

    def _clones(self) -> Clones | None:
        """Namespaces clone for themselves, unless they would see the node's credentials by that."""
        if not (self._isolated and self._forge.private):
            return None
        return Clones(self._layout.clones, self._forge, self._git_uid, self._build_limits)

    async def build(self, job: BuildJob, log: BuildLog) -> Artifact:
        task = asyncio.get_running_loop().create_task(self._builder.build(job, log))
        self._builds.add(task)
        try:
            return await task  # cancelling us cancels it
        finally:
            self._builds.discard(task)

    async def made(self, job: BuildJob) -> Artifact | None:
        return await self._builder.made(job)

    def allocate(self, in_use: Collection[int]) -> int:
        own = {replica.record.port for replica in self._replicas.values()}
        return self._addresses.allocate({*in_use, *own})

    async def start(self, launch: Launch) -> Started:
        async with self._lock(launch.replica_id):
            known = self._replicas.get(launch.replica_id)
            if known is None:
                known = await self._start(launch)
            if known.process is None or known.exit is not None:
                raise StartFailed(f"the replica has {known.exit} already")
            return Started(HOST, known.record.port, known.process.pid)

    async def _start(self, launch: Launch) -> Replica:
        self._given[launch.replica_id] = gpus = self._devices(launch)
        try:
            record, command = await asyncio.to_thread(self._ready, launch, gpus)
            # no await from here until it is known: a cancelled start has either not begun or is in `_replicas`
            process, relays = self._spawn(record, command)
        except (OSError, UsersError) as error:
            raise StartFailed("the node could not start it", told(error)) from error
        finally:
            del self._given[launch.replica_id]
        return self._know(record, process, relays)

    def _devices(self, launch: Launch) -> Sequence[str]:
        """The numbers of the GPUs that the replica is to use. Nothing keeps a process from others, and where all are
        in use it shares one: a new deployment starts beside the old one."""
        if launch.gpu == "none":
            return ()
        alive = (replica.record.gpus for replica in self._replicas.values() if replica.exit is None)
        uses = Counter(device for devices in (*alive, *self._given.values()) for device in devices)
        return least_used(self._gpus, launch.gpu, max(1, launch.gpu_count), uses)

    def _ready(self, launch: Launch, gpus: Sequence[str]) -> tuple[Record, Command]:
        """Write the record. File work."""
        checkout = self._builder.find(launch.namespace, launch.service_id, launch.artifact)
        if checkout is None:
            raise ArtifactMissing("it is not built on this node", f"commit {launch.artifact}")
        who = self._builder.identity(launch.namespace)
        env = self._environment(launch, checkout, who, gpus)
        record = Record.of(launch, env["HOME"], who, self._boot, gpus)
        self._records.create(record)
        return record, Command(checkout.web, checkout.source, env, who)

    def _environment(self, launch: Launch, checkout: Checkout, who: Identity, gpus: Sequence[str]) -> dict[str, str]:
        """SPEC section 5: a plain environment, the service's own, and nothing else of the node but its GPUs."""
        home = self._layout.home(launch.namespace, launch.service_id, who)
        base = base_environment(home, checkout.bin_dir)
        return {**base, "HOST": HOST, **cuda_environment(gpus), **launch.env, "PORT": str(launch.port)}

    def _spawn(self, record: Record, command: Command) -> tuple[Process, Relays]:
        """Its port and the relays first: the process must never find another there, nor write to nobody."""
        self._addresses.reserve(record.port, record.uid)
        directory = self._records.directory(record.replica_id)
        pid = os.open(directory / "pid", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with Relays(directory, record.uid) as relays:
                stdout, stderr = relays.outputs
                return spawn(command, record=pid, stdout=stdout, stderr=stderr), relays
        finally:
            os.close(pid)

    async def listens(self, replica_id: str) -> bool:
        replica = self._replicas.get(replica_id)
        if replica is None or replica.exit is not None:
            return False
        return replica.uid in (await asyncio.to_thread(listeners)).get(replica.record.port, ())

    async def usurped(self) -> Collection[str]:
        return await self._addresses.usurped(self._replicas.values())

    async def verify(self, replica_id: str) -> bool:
        replica = self._replicas.get(replica_id)
        if replica is None:
            return True
        record = replica.record
        others = (other for name, other in self._replicas.items() if name != replica_id)
        if any(_runs_from(other, record.service_id, record.artifact) for other in others):
            return True
        return await self._builder.verify(record.namespace, record.service_id, record.artifact)

    def _in_use(self, service: str, artifact: str) -> bool:
        return any(_runs_from(replica, service, artifact) for replica in self._replicas.values())

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        replica = self._replicas.get(replica_id)
        if replica is not None and not replica.done.is_set():
            await terminate(replica, self._sweeper, grace_seconds)

    async def observe(self) -> list[Observed]:
        return [replica.observed() for replica in self._replicas.values()]

    async def forget(self, replica_id: str) -> None:
        await self.stop(replica_id, 0)
        async with self._lock(replica_id):
            self._replicas.pop(replica_id, None)
            await asyncio.to_thread(self._records.remove, replica_id)

    async def prune(self, needed: Needed) -> None:
        def also_used(service: str) -> Collection[str] | None:
            found = needed(service)
            used = {r.record.artifact for r in self._replicas.values() if r.record.service_id == service}
            return None if found is None else used.union(found)

        await self._builder.prune(also_used)

    async def close(self, *, keep: bool) -> None:
        builds = list(self._builds)
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)
        if not keep:
            await asyncio.gather(*(self.stop(name, STOP_GRACE) for name in list(self._replicas)))
        if not self._all_known.is_set():
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=not self._all_known.is_set())
        for replica in self._replicas.values():
            if replica.process is not None and replica.exit is None:
                replica.process.close()
            if replica.relays is not None:
                replica.relays.let_go()
        if self._preparing is not None:
            # the thread of an `open` that was cancelled ends when it ends, and has taken uids and ports by then
            await asyncio.wait([self._preparing])
            if self._preparing.exception() is None:
                self._users = self._preparing.result()
        if self._users is not None:
            self._users.close()
        self._addresses.close()

    def _lock(self, replica_id: str) -> asyncio.Lock:
        return self._locks.setdefault(replica_id, asyncio.Lock())

    async def _adopt(self, record: Record) -> None:
        name = record.replica_id
        how = await asyncio.to_thread(self._records.exit, name)
        if how is not None:
            self._replicas[name] = Replica(record, self._records.directory(name), how=how)
            return
        process = await self._find(record) if record.boot == self._boot else None
        if process is not None:
            self._addresses.reserve(record.port, record.uid)
            self._know(record, process)
        elif record.boot == self._boot and self._records.process(name) is None:
            log.warning("replica %s was never started", name)
            self._addresses.release(record.port)
            await asyncio.to_thread(self._records.remove, name)
        else:
            self._logs.add(self._source(record))
            replica = Replica(record, self._records.directory(name), how=None)
            await self._finish(replica)
            self._replicas[name] = replica

    async def _find(self, record: Record) -> Process | None:
        """The very process of the record; waits for its pid file while that may still come."""
        age = await asyncio.to_thread(self._records.age, record.replica_id, time.time())
        deadline = time.monotonic() + _NEVER_STARTED - max(0.0, age)
        while (stat := await asyncio.to_thread(self._records.process, record.replica_id)) is None:
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(0.02)
        process = Process.adopt(stat.pid, stat.start)
        if process is not None and record.uid is not None and uid_of(stat.pid) != record.uid:
            process.close()  # its shell wrote what the tenant's environment made it write
            return None
        return process

    def _know(self, record: Record, process: Process, relays: Relays | None = None) -> Replica:
        directory = self._records.directory(record.replica_id)
        replica = Replica(record, directory, process=process, relays=relays, how=None)
        self._replicas[record.replica_id] = replica
        self._sweeper.owners[record.replica_id] = replica.owner(process)
        self._logs.add(self._source(record))
        process.watch(lambda: self._own(self._finish(replica)))
        return replica

    def _source(self, record: Record) -> Source:
        directory = self._records.directory(record.replica_id)
        return Source(record.service_id, record.deployment_id, record.replica_id, directory)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, replica: Replica) -> None:
        """Its first process has ended: end the rest, take in its last lines, tell."""
        await replica.grace_over.wait()
        name, process = replica.record.replica_id, replica.process
        code = number = None
        if process is not None:
            code, number = process.reap()
            await self._all_known.wait()  # one that was not adopted yet would be taken for a stray
            owner = self._sweeper.owners.pop(name)
            await self._sweeper.sweep(owner)
            process.close()
        self._addresses.release(replica.record.port)
        if not await relay.ended(replica.directory, replica.relays):
            log.warning("replica %s: a process that hides still holds its output", name)
        await self._logs.finish(name)
        how = replica.ended(code, number, await asyncio.to_thread(last_lines, replica.directory, _LAST_LINES))
        try:
            await asyncio.to_thread(self._records.ended, name, how)
        except OSError as error:
            log.warning("can't record how replica %s ended: %s", name, error)  # found ended again, without its code
        self._on_exit(name, how)
        replica.done.set()


def _runs_from(replica: Replica, service: str, artifact: str) -> bool:
    return replica.exit is None and (replica.record.service_id, replica.record.artifact) == (service, artifact)
