"""What the end-to-end tests share: the replica to deploy, what it noted, and many clients at once on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e_node import Node

REPLICA = (Path(__file__).parent / "replica.py").read_text()


class Notes:
    """The directory into which a service's replicas write what they saw; any uid may write there."""

    def __init__(self, node: Node, name: str) -> None:
        self.path = node.root / "notes" / name
        self.path.mkdir(parents=True)
        self.path.chmod(0o777)

    def lines(self, name: str) -> list[list[str]]:
        """The lines of `starts`, `ready`, `requests` or `stops`, split into words."""
        file = self.path / name
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def deploy(node: Node, namespace: str, name: str, *, env: dict[str, str] | None = None, **fields: Any) -> Notes:
    """Create a service of the test's replica; returns its notes. Does not wait."""
    if not (node.git / namespace / "replica").exists():
        node.commit(f"{namespace}/replica", {"Procfile": "web: exec python3 server.py\n", "server.py": REPLICA})
    notes = Notes(node, f"{namespace}-{name}")
    env = {"OUT": str(notes.path), **(env or {})}
    node.create(namespace, name, repo=f"{namespace}/replica", env=env, **fields)
    return notes


def host(namespace: str, name: str) -> str:
    return f"{name}-{namespace}.apps.localhost"


@dataclass(frozen=True)
class Reply:
    """An answer as read from the wire; header names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, target: str = "/x", body: bytes | None = None
) -> Reply:
    """One request on an open connection. Raises ConnectionError or IncompleteReadError when it is cut."""
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    method = "GET" if body is None else "POST"
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {name}\r\n{length}\r\n".encode() + (body or b""))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
    if fields.get("transfer-encoding") == "chunked":
        text = b""
        while size := int(await reader.readline(), 16):
            text += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        text = await reader.readexactly(int(fields.get("content-length", "0")))
    return Reply(int(head[0].split()[1]), fields, text)


async def ask(
    port: int,
    name: str,
    target: str = "/x",
    body: bytes | None = None,
    *,
    timeout: float = 60,
    source: str = "127.0.0.1",
) -> Reply | Exception:
    """One request on a connection of its own, from the address `source`; an error is the answer, too."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            try:
                return await exchange(reader, writer, name, target, body)
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return error


@dataclass
class Traffic:
    """Keep-alive clients that ask at a rate; what went wrong, and on which connection."""

    sent: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)  # answers other than 200
    cut: list[str] = field(default_factory=list)  # connections that broke, each at most once a request


async def _client(port: int, name: str, pause: float, traffic: Traffic, stop: asyncio.Event) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    try:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, 2 * pause)):
                    await stop.wait()
            traffic.sent += 1
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(30):
                    reply = await exchange(*streams, name)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                traffic.cut.append(repr(error))
                if streams is not None:
                    streams[1].close()
                streams = None
                continue
            traffic.answered += 1
            if reply.fields.get("connection") == "close":
                streams[1].close()
                streams = None
            if reply.status != 200:
                traffic.wrong.append(f"{reply.status} {reply.fields.get('proxy-status')}")
    finally:
        if streams is not None:
            streams[1].close()


@contextlib.asynccontextmanager
async def traffic(port: int, name: str, *, rate: float, connections: int) -> AsyncIterator[Traffic]:
    """`connections` clients that together send `rate` requests a second until the block ends."""
    told, stop = Traffic(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_client(port, name, connections / rate, told, stop))
        try:
            yield told
        finally:
            stop.set()
