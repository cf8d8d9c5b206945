"""A control plane under test: the real store, driver and replicas, and workers that keep their side of the protocol.

A `Worker` here is a gateway worker without its sockets: it follows the store by a real mirror, registers, picks,
counts, holds, wakes and reports as the real one does, and its requests really go to the replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from node_under_test import Repository

from activator.activation import Activation
from activator.drivers.process import ProcessDriver
from activator.gpu import Source
from activator.logs import Collector, LogStore
from activator.settings import Settings
from activator.views import KINDS, View
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import (
    Backend,
    Deployment,
    DeploymentState,
    Endpoint,
    Event,
    Offer,
    Phase,
    Replica,
    ReplicaState,
    Route,
    RunSpec,
    Scale,
    Scaling,
    Service,
)
from state.store import ABSENT, REPORTS, WAKES, Change, Conflict, Store, StoreError

APP = """
import os, signal, socket, sys, threading, time
with open(os.environ["STARTS"], "a") as starts:
    starts.write(f"{os.getpid()}\\n")
time.sleep(float(os.environ.get("SLOW", "0")))
status = os.environ.get("STATUS", "200 OK")
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=512)
print("listening", flush=True)
def answer(connection):
    with connection:
        head = connection.recv(65536).decode()
        if "/slow/" in head:
            time.sleep(float(head.split("/slow/")[1].split(" ")[0]))
        if "/exit/" in head:
            os._exit(int(head.split("/exit/")[1].split(" ")[0]))
        if "/status" in head and os.path.exists(os.environ["STARTS"] + ".ill"):
            connection.sendall(b"HTTP/1.1 500 Ill\\r\\nContent-Length: 0\\r\\n\\r\\n")
            return
        body = f"{os.getpid()}"
        connection.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
while True:
    connection, _ = listener.accept()
    threading.Thread(target=answer, args=(connection,), daemon=True).start()
"""

OFFER = Offer("process", "us-east-1")
QUICK = Settings(node="n1", tick=0.2, stop_grace=2.0, health_interval=0.2, idle_timeout=3600, drain_timeout=5.0)


async def until(
    condition: Callable[[], object], timeout: float = 40.0, what: Callable[[], object] = lambda: ""
) -> None:
    """Wait for something outside this process."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not come: {what()}"
        await asyncio.sleep(0.005)


class Running:
    """A task with an owner."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.task = asyncio.get_running_loop().create_task(work)

    async def cancel(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


class Control:
    """One control process' worth of activation; `kill` leaves everything where it is."""

    def __init__(
        self,
        plane: Plane,
        number: int,
        settings: Settings,
        supervisor: str,
        store: Store | None,
        wrapped: Callable[[ProcessDriver], Any] = lambda driver: driver,
        offer: Offer = OFFER,
        gpus: Sequence[Source] = (),
    ) -> None:
        self.store = store or Store(plane.url)
        self.mirror = Mirror(self.store, [*KINDS], lambda touched: self.activation.changed(touched), slices=True)
        self.lease = Lease(self.store, "leader", holder=f"c{number}", owner=f"{settings.node}-{supervisor}", ttl=1.0)
        self.collector = Collector(plane.logs)
        data_dir = plane.data_of(settings.node)
        git_url = f"file://{plane.place}/git/{{repo}}"
        self.driver = ProcessDriver(data_dir, git_url=git_url, logs=self.collector, gpus=offer.gpus)
        self.unacknowledged: list[list[str]] = []
        self.activation = Activation(
            self.store,
            self.mirror,
            wrapped(self.driver),
            self.lease,
            settings,
            supervisor=supervisor,
            environment=lambda service, run: run.env,
            build_log=plane.logs.build_log,
            offer=offer,
            on_unacknowledged=self.unacknowledged.append,
            gpus=gpus,
        )
        self._tasks = [
            Running(self.collector.run()),
            Running(self.mirror.run()),
            Running(self.lease.run(self.activation.gained, self.activation.lost)),
            Running(self.activation.run()),
        ]

    def view(self, service: str) -> View | None:
        return self.activation.catalog.view(service)

    async def kill(self) -> None:
        """Everything ends where it is, as far as one process can play that."""
        for running in reversed(self._tasks):
            await running.cancel()
        await self.driver.close(keep=True)  # also one that was still adopting
        await self.collector.close()
        await self.store.close()

    async def close(self) -> None:
        await self.activation.close(keep=False)
        await self.kill()


class Worker:
    """One gateway worker, in so far as control knows it."""

    def __init__(self, plane: Plane, number: int, node: str = "n1", supervisor: str = "s1") -> None:
        self.name = f"{node}/{supervisor}/{number}/w{new_id()}"
        self.store = Store(plane.url)
        self.mirror = Mirror(self.store, [Kind.BACKEND, Kind.ROUTE], self._applied)
        self.in_flight: dict[str, Counter[str]] = {}
        self.held: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.first_bytes: dict[str, int] = {}
        self.silent = False
        self._seq = 0
        self._applied_event = asyncio.Event()
        self._report_now = asyncio.Event()
        self._woken: dict[str, float] = {}
        self._tasks: list[Running] = []

    async def open(self) -> Worker:
        await self.store.register(self.name)
        self._tasks.append(Running(self.mirror.run()))
        await self.mirror.synced()
        self._tasks.append(Running(self._report()))
        return self

    async def stall(self) -> None:
        """It says nothing and applies nothing from here on; what it has in flight goes on."""
        self.silent = True
        await self._tasks[0].cancel()

    async def close(self, *, unregister: bool = True) -> None:
        for running in reversed(self._tasks):
            await running.cancel()
        if unregister:
            with contextlib.suppress(StoreError):
                await self._publish(last=True)
                await self.store.unregister([self.name])
        await self.store.close()

    def backend(self, service: str) -> Backend | None:
        return self.mirror.decoded(Kind.BACKEND, service, Backend)

    async def request(self, service: str, path: str = "/", timeout: float = 60.0) -> tuple[int, str]:
        """As the gateway answers it: pick, or hold until there is somebody to pick."""
        self.requests[service] += 1
        endpoint = self._pick(service)
        held = endpoint is None
        if endpoint is None:
            status = await self._hold(service, timeout)
            if status is not None:
                self.answers[status] += 1
                return status, ""
            endpoint = self._pick(service)
            assert endpoint is not None
        counts = self.in_flight.setdefault(service, Counter())
        counts[endpoint.id] += 1
        try:
            status, body = await get(endpoint, path)
            if held and endpoint.ready_at is not None:
                self.first_bytes.setdefault(endpoint.id, now_us() - endpoint.ready_at)
        finally:
            counts[endpoint.id] -= 1
            if counts[endpoint.id] == 0:
                del counts[endpoint.id]
                self._report_now.set()
        self.answers[status] += 1
        return status, body

    def _pick(self, service: str) -> Endpoint | None:
        backend = self.backend(service)
        ready = [] if backend is None else [e for e in backend.endpoints if e.ready]
        return min(ready, key=lambda e: self.in_flight.get(service, Counter())[e.id], default=None)

    async def _hold(self, service: str, timeout: float) -> int | None:
        """None = somebody is ready; else the status of the refusal."""
        deadline = time.monotonic() + timeout
        self.held[service] += 1
        try:
            while True:
                backend = self.backend(service)
                if self._pick(service) is not None:
                    return None
                if backend is None or backend.phase is Phase.REFUSING:
                    return 503
                self._applied_event.clear()
                await self._wake(service)
                try:
                    async with asyncio.timeout(min(1.0, deadline - time.monotonic())):
                        await self._applied_event.wait()
                except TimeoutError:
                    if time.monotonic() >= deadline:
                        return 504
        finally:
            self.held[service] -= 1
            self.held += Counter()

    async def _wake(self, service: str) -> None:
        if time.monotonic() - self._woken.get(service, 0.0) > 0.1:
            self._woken[service] = time.monotonic()
            await self.store.publish(WAKES, service.encode())

    def _applied(self, touched: object) -> None:
        self._applied_event.set()
        self._report_now.set()

    async def _report(self) -> None:
        while True:
            self._report_now.clear()
            if not self.silent:
                with contextlib.suppress(StoreError):
                    await self._publish()
            try:
                async with asyncio.timeout(0.3):
                    await self._report_now.wait()
            except TimeoutError:
                pass

    async def _publish(self, *, last: bool = False) -> None:
        self._seq += 1
        report = self._told() | ({"last": True} if last else {})
        await self.store.publish(REPORTS, json.dumps(report).encode())

    def _told(self) -> dict[str, Any]:
        services = {}
        for service in self.in_flight.keys() | self.held.keys():
            replicas = dict(self.in_flight.get(service, {}))
            load = {"in_flight": sum(replicas.values()), "held": self.held[service], "held_ms": 0, "replicas": replicas}
            if replicas or load["held"]:
                services[service] = load
        counters = {s: {"requests": {"200": n}} for s, n in self.requests.items()}
        return {
            "worker": self.name,
            "seq": self._seq,
            "run_id": self.mirror.run_id,
            "revision": self.mirror.revision,
            "services": services,
            "first_bytes": self.first_bytes,
            "counters": {"services": counters},
        }


async def get(endpoint: Endpoint, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        if not head:
            raise ConnectionResetError("it died before it answered")
        return int(head.split(" ")[1]), body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Plane:
    """A store, a node's directory, repositories, and whatever control and workers a test opens on them."""

    def __init__(self, place: Path, url: str) -> None:
        self.place = place
        self.url = url
        self.data_dir = place / "data"
        self.data_dir.mkdir()
        self.scratch = place / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o777)
        self.logs = LogStore(self.data_dir / "logs")
        self.store = Store(url)
        self.controls: list[Control] = []
        self.workers: list[Worker] = []
        self._numbers = iter(range(1, 10_000))

    def control(
        self,
        settings: Settings = QUICK,
        *,
        supervisor: str = "s1",
        store: Store | None = None,
        wrapped: Callable[[ProcessDriver], Any] = lambda driver: driver,
        offer: Offer = OFFER,
        gpus: Sequence[Source] = (),
        **changes: Any,
    ) -> Control:
        """`wrapped` makes of the real driver the one that it calls. Another `node` has a directory of its own."""
        changed = replace(settings, **changes)
        control = Control(self, next(self._numbers), changed, supervisor, store, wrapped, offer, gpus)
        self.controls.append(control)
        return control

    def data_of(self, node: str) -> Path:
        if node == QUICK.node:
            return self.data_dir
        other = self.place / node
        other.mkdir(exist_ok=True)
        return other

    async def worker(self, number: int = 1, **where: str) -> Worker:
        worker = await Worker(self, number, **where).open()
        self.workers.append(worker)
        return worker

    async def kill(self, control: Control) -> None:
        self.controls.remove(control)
        await control.kill()

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close()
        for control in self.controls:
            await control.close()
        await self.store.close()

    def repository(self, name: str = "app", procfile: str = "web: python3 app.py\n") -> None:
        Repository(self.place / "git" / "acme" / name).commit({"Procfile": procfile, "app.py": APP})

    async def create(
        self,
        name: str = "app",
        *,
        namespace: str = "acme",
        repo: str = "acme/app",
        env: dict[str, str] | None = None,
        **fields: Any,
    ) -> str:
        """What the API writes for a new service; returns its id."""
        service_id, deployment_id, now = new_id(), new_id(), now_us()
        path = str(fields.pop("health_check_path", "/"))
        starts = self.scratch / name
        starts.touch()
        starts.chmod(0o666)  # another node may have another uid for the namespace
        environment = {"STARTS": str(starts), **(env or {})}
        run = RunSpec(repo=repo, branch=str(fields.pop("branch", "main")), health_check_path=path, env=environment)
        values: dict[str, Any] = {
            "gpu": "none",
            "gpu_count": None,
            "min_replicas": 0,
            "max_replicas": 1,
            "target_gpu_utilization": 70,
            "region": "us-east-1",
            "custom_domain": None,
            "scaling": Scaling(),
            **fields,
        }
        service = Service(
            service_id,
            namespace,
            name,
            f"{name}-{namespace}",
            run,
            created_at=now,
            updated_at=now,
            latest=deployment_id,
            **values,
        )
        deployment = Deployment(deployment_id, service_id, DeploymentState.PENDING, run, now)
        changes = [
            Change(Kind.SERVICE, service_id, encode(service), ABSENT),
            Change(Kind.DEPLOYMENT, deployment_id, encode(deployment), ABSENT),
            Change(Kind.SCALE, service_id, encode(Scale(desired=max(1, service.min_replicas))), ABSENT),
            Change(Kind.BACKEND, service_id, encode(Backend(service_id, namespace, name)), ABSENT),
            Change(
                Kind.ROUTE, f"{name}-{namespace}.apps.localhost", encode(Route(service_id, namespace, name)), ABSENT
            ),
        ]
        revision = await self.store.commit(changes)
        for worker in self.workers:
            await worker.mirror.reached(revision)
        return service_id

    async def delete(self, service_id: str, *, force: bool = False) -> int:
        while True:
            record = await self.store.get(Kind.SERVICE, service_id)
            assert record is not None
            service = decode(Service, record.value)
            gone = replace(service, deleted_at=now_us(), forced=force)
            route = Route(service_id, "acme", service.name, deleted_at=now_us())
            changes = [
                Change(Kind.SERVICE, service_id, encode(gone), record.version),
                Change(Kind.ROUTE, f"{service.label}.apps.localhost", encode(route)),
            ]
            with contextlib.suppress(Conflict):  # control wrote in between, as its own deletes find it
                return await self.store.commit(changes)

    def starts(self, name: str = "app") -> list[int]:
        """The pids of every replica that was ever started, as they wrote them."""
        path = self.scratch / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def events(self, service: str) -> list[Event]:
        return [told.event for told in await self.store.events(service)]


def states(view: View | None) -> list[ReplicaState]:
    return [] if view is None else [replica.state for replica in view.replicas.values()]


def only(view: View | None) -> Replica:
    assert view is not None
    (replica,) = view.replicas.values()
    return replica
