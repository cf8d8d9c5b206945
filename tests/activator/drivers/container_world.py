"""A container driver on the session's Podman, with repositories and images of its own, and what it told."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node_under_test import Repository

from activator.drivers import Artifact, BuildJob, Exit, Launch, Started
from activator.drivers.container import ContainerDriver, Engine
from activator.drivers.container.credentials import Credentials
from activator.drivers.container.flavour import Flavour
from activator.drivers.process import Limits
from activator.logs import Collector, LogStore
from activator.logs.reader import Query
from state.ids import new_id
from tests.podman import Engines


@dataclass
class ContainerWorld:
    """A node. `open` and `close` it as often as needed: its data directory stays until `remove`."""

    engines: Engines
    limits: Limits = field(default_factory=Limits)
    gpus: Mapping[str, int] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="wgc-", dir="/tmp"))
        self.place.chmod(0o755)
        self.data_dir = self.place / "data"
        self.data_dir.mkdir(mode=0o711)
        self.data_dir.chmod(0o711)
        self.node = new_id()[-16:]
        self.store = LogStore(self.data_dir / "logs")

    def repository(self, name: str = "app", owner: str = "acme") -> Repository:
        return Repository(self.place / "git" / owner / name)

    async def open(self) -> None:
        self.collector = Collector(self.store)
        self.collecting = asyncio.get_running_loop().create_task(self.collector.run())
        engine = Engine(self.engines.podman.socket)
        engine.flavour = await _flavour(self.engines)
        self.driver = ContainerDriver(
            self.data_dir,
            node=self.node,
            engine=engine,
            git_url=f"file://{self.place}/git/{{repo}}",
            logs=self.collector,
            uid=61_999,
            gpus=self.gpus,
            credentials=Credentials((self.place / "auth.json",)),
            limits=self.limits,
        )
        await self.driver.open(self._exited)

    async def close(self, *, keep: bool = False) -> None:
        await self.driver.close(keep=keep)
        self.collecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.collecting
        await self.collector.close()

    async def reopen(self) -> None:
        """As another control finds it."""
        await self.close(keep=True)
        await self.open()

    def remove(self) -> None:
        for container in self.engines.podman.containers(node=self.node):
            self.engines.podman.call("DELETE", f"/containers/{container['Id']}?force=true", parse=False)
        shutil.rmtree(self.place, ignore_errors=True)

    def _exited(self, replica: str, how: Exit) -> None:
        assert replica not in self.exits
        self.exits[replica] = how

    async def exit(self, replica: str) -> Exit:
        await self.until(lambda: replica in self.exits)
        return self.exits[replica]

    async def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait for something outside this process."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it did not come"
            await asyncio.sleep(0.01)

    async def build(self, service: str = "svc", namespace: str = "acme", **more: Any) -> Artifact:
        values = {"deployment_id": "dep", **({} if "image" in more else {"repo": "acme/app", "branch": "main"}), **more}
        job = BuildJob(service_id=service, namespace=namespace, **values)
        return await self.driver.build(job, self.built.extend)

    def launch(self, artifact: Artifact, **more: Any) -> Launch:
        values = {"service_id": "svc", "namespace": "acme", "replica_id": new_id(), **more}
        return Launch(deployment_id="dep", artifact=artifact.ref, port=self.driver.allocate(()), **values)

    async def start(self, artifact: Artifact, **more: Any) -> tuple[str, Started]:
        launch = self.launch(artifact, **more)
        return launch.replica_id, await self.driver.start(launch)

    async def pulled(self, name: str, **config: Any) -> Artifact:
        """An image of its own, pushed and pulled."""
        return await self.build(image=self.engines.image(name, **config))

    def container(self, replica: str) -> dict[str, Any]:
        """The one container of the replica, inspected."""
        (found,) = self.engines.podman.containers(replica=replica)
        return self.engines.podman.inspect(found["Id"])

    def lines(self, replica: str | None = None, service: str = "svc") -> list[str]:
        return [item.line for item in self.store.read_now(service, Query(limit=10_000, replica=replica)).items]

    async def get(self, started: Started, path: str = "/", seconds: float = 30) -> tuple[int, bytes]:
        """The answer of a replica, once it listens."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return await asyncio.to_thread(_get, started, path)
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline, "it does not listen"
                await asyncio.sleep(0.02)


_known: dict[Path, Flavour] = {}


async def _flavour(engines: Engines) -> Flavour:
    """Asked for once a session: Podman takes half a second for it."""
    socket = engines.podman.socket
    if socket not in _known:
        engine = Engine(socket)
        await engine.connect()
        await engine.close()
        _known[socket] = engine.flavour
    return _known[socket]


def _get(started: Started, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(started.host, started.port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
