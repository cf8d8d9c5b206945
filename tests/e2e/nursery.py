"""The real worker process under a small supervisor of our own, without a control: what the tests of workers share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from state.codec import encode
from state.kinds import Kind
from state.models import Backend, Endpoint, Route
from state.secret_key import CERTIFICATES, derive
from state.store import REPORTS, Change, Store
from wakegate.config import load
from wakegate.pipe import ENVIRONMENT, Channel
from wakegate.sockets import listen
from wakegate.values import Address

ROOT = Path(__file__).parents[2]
HOST = "api-acme.apps.localhost"
CERTIFICATES_KEY = derive(bytes(32), CERTIFICATES)


async def until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    """The first truthy value of `condition`."""
    try:
        async with asyncio.timeout(seconds):
            while not (value := condition()):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
    return value


class WorkerProcess:
    """One worker, as its supervisor sees it."""

    def __init__(self, process: subprocess.Popen[bytes], registration: str) -> None:
        self.process = process
        self.registration = registration
        self.heard: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.channel: Channel | None = None

    def tell(self, message: dict[str, Any]) -> None:
        assert self.channel is not None
        self.channel.send(message)

    def drain(self, timeout: float = 20) -> None:
        self.tell({"drain": {"timeout": timeout, "reload": False}})

    @property
    def said(self) -> str:
        return "\n".join(message["say"] for message in self.heard if "say" in message)

    async def ready(self) -> WorkerProcess:
        await until(lambda: {"ready": True} in self.heard or self.process.poll() is not None, f"ready: {self.said}")
        assert {"ready": True} in self.heard, self.process.returncode
        return self

    async def exited(self) -> int:
        await until(lambda: self.process.poll() is not None, "the worker has ended")
        return self.process.returncode


class Nursery:
    """The sockets of N workers of a node, and those workers that a test starts."""

    def __init__(
        self, data: Path, store_url: str, workers: int, given: Mapping[str, list[str]], node: str = "n"
    ) -> None:
        self.data = data
        self.node = node
        self.store_url = store_url
        self.http = listen([("--http", Address("127.0.0.1", 0))], workers)
        self.https = listen([("--https", Address("127.0.0.1", 0))], workers)
        self.port, self.secure_port = self.http[0].address.port, self.https[0].address.port
        self.workers: list[WorkerProcess] = []
        self.config = load(given | {"data_dir": [str(data)], "http": [f"127.0.0.1:{self.port}"]}, {}).config

    async def spawn(self, number: int = 1) -> WorkerProcess:
        incarnation = f"i{len(self.workers)}"
        http, https = ([one.descriptors for one in listeners] for listeners in (self.http, self.https))
        start = {
            "config": self.config.to_json(),
            "node": self.node,
            "supervisor": "s",
            "incarnation": incarnation,
            "store": self.store_url,
            "secret_key_file": str(self.data / "secret.key"),
            "api_token": "token",
            "number": number,
            "http": http,
            "https": https,
            "certificates_key": CERTIFICATES_KEY.to_json(),
        }
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wakegate", "worker", str(number)],
                cwd=self.data,
                env=os.environ | {ENVIRONMENT: str(theirs.fileno()), "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno(), *(fd for of_address in (*http, *https) for fd in of_address)],
            )
        worker = WorkerProcess(process, f"{self.node}/s/{number}/{incarnation}")
        self.workers.append(worker)
        worker.channel = await Channel.open(ours, worker.heard.append, worker.ended.set)
        worker.tell({"start": start})
        return worker

    def release_sockets(self) -> None:
        """As the supervisor does before it drains."""
        for listeners in (*self.http, *self.https):
            listeners.close()

    async def get(self, host: str = HOST, path: str = "/") -> tuple[int, bytes]:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await ask(reader, writer, host, path, close=True)
        finally:
            writer.close()

    async def close(self) -> None:
        self.release_sockets()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            await until(worker.ended.is_set, "its pipe has ended")


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str = "/", *, close: bool = False
) -> tuple[int, bytes]:
    ending = "Connection: close\r\n" if close else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{ending}\r\n".encode())
    async with asyncio.timeout(30):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), await reader.readexactly(length)


class ReplicaServer:
    """A replica: answers with its name; `/slow` only once `gate` is open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.slow = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ReplicaServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b" /slow" in head:
                    self.slow += 1
                    await self.gate.wait()
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self._writers.discard(writer)
        writer.close()

    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self.port)


async def publish(
    store: Store, *endpoints: Endpoint, service: str = "s1", host: str = HOST, concurrency: int = 0
) -> int:
    """Commit a service's route and backend."""
    backend = Backend(service, "acme", "api", endpoints=endpoints, concurrency=concurrency)
    return await store.commit(
        [
            Change(Kind.ROUTE, host, encode(Route(service, "acme", "api"))),
            Change(Kind.BACKEND, service, encode(backend)),
        ]
    )


class Reports:
    """The latest report of each worker."""

    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}

    async def listen(self, store: Store) -> None:
        async for _, data in store.subscribe(REPORTS):
            report = json.loads(data)
            self.latest[report["worker"]] = report

    def of(self, worker: WorkerProcess) -> dict[str, Any]:
        return self.latest.get(worker.registration, {"seq": 0, "revision": -1, "services": {}})

    async def acknowledged(self, worker: WorkerProcess, revision: int) -> None:
        await until(lambda: self.of(worker)["revision"] >= revision, f"revision {revision} acknowledged")
