"""`kill -9` of the process that orders, at every await of an order: it is done after a restart, with one order more at
most, and no key was on a disk in the clear.

The awaits are enumerated from the code; one that no order came by fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from certs.spending import of_namespace
from state.certificates import Issuance
from state.codec import decode
from state.kinds import Kind
from state.store import Change, Store
from tests.acme_proxy import AcmeProxy
from tests.certs.issuing import DEADLINE, NAMESPACE, Edge, World
from tests.certs.order_awaits import Place, awaits
from tests.conftest import Valkey
from tests.pebble import Pebble


class AskedEdge(Edge):
    """It also tells how much it knows."""

    async def _http(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/revision":
            return web.Response(text=str(self.mirror.revision))
        return await super()._http(request)


class Processes:
    """One control after the other, forked from one that has loaded everything."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._pid = 0

    async def start(self, kill_at: Place | None = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"kill_at": kill_at}).encode() + b"\n")
        self._pid = await self._answer()

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        return await self._answer()

    async def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        assert await self._answer() == -signal.SIGKILL

    async def _answer(self) -> int:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            return int(await self._process.stdout.readline())


@pytest.fixture
async def edge(store: Store, calm_pebble: Pebble, tmp_path: Path) -> AsyncIterator[AskedEdge]:
    async with AskedEdge(store, calm_pebble, tmp_path).running() as made:
        assert isinstance(made, AskedEdge)
        yield made


@contextlib.asynccontextmanager
async def processes(world: World, valkey: Valkey, noted: Path) -> AsyncIterator[Processes]:
    pebble = world.pebble
    options = {"store": valkey.url, "directory": world.proxy.directory, "trust": pebble.ca, "edge": pebble.http_port}
    given = [word for name, value in {**options, "noted": noted}.items() for word in (f"--{name}", str(value))]
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.certs.issuing_process", *given), stdin=pipe, stdout=pipe
    )
    try:
        yield Processes(started)
    finally:
        started.kill()
        await started.wait()


@pytest.mark.timeout(600)
async def test_an_order_goes_on_after_a_kill_at_every_await(
    store: Store, valkey: Valkey, world_of: World, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    noted.touch()
    async with processes(world_of, valkey, noted) as control:
        await control.start()
        await world_of.hold("0.acme.test")
        await finished(store, "0.acme.test")
        await control.kill()
        places = sorted(seen(noted))
        for number, place in enumerate(places, 1):
            name, before = f"{number}.acme.test", world_of.orders
            await forget(store, world_of.proxy.directory)
            await world_of.hold(name)
            await control.start(kill_at=place)
            assert await control.ended() == -signal.SIGKILL, f"{place} was not come by"
            nothing_in_the_clear(valkey.directory)
            await control.start()
            await finished(store, name)
            await control.kill()
            assert world_of.orders - before <= 2, place
    assert sorted(awaits() - set(places)) == [], "awaits that no order came by"
    nothing_in_the_clear(valkey.directory)


@pytest.fixture
async def world_of(store: Store, calm_pebble: Pebble, edge: AskedEdge) -> AsyncIterator[World]:
    """The CA behind the proxy; who orders are processes of their own."""
    async with AcmeProxy(calm_pebble) as proxy:
        yield World(store, calm_pebble, proxy, edge, None, calm_pebble.minica.client())  # type: ignore[arg-type]


async def forget(store: Store, directory: str) -> None:
    """The account, and what the namespace spent: all the kills together take more than its budget."""
    await store.commit([Change(Kind.ACCOUNT, directory, None), Change(Kind.BUDGET, of_namespace(NAMESPACE), None)])


async def finished(store: Store, name: str) -> None:
    """Once it has its certificate, and nothing is left of the order."""

    async def there() -> bool:
        certificate, challenge = await store.get(Kind.CERTIFICATE, name), await store.get(Kind.CHALLENGE, name)
        record = await store.get(Kind.ISSUANCE, name)
        issuance = decode(Issuance, record.value) if record is not None else Issuance((name,))
        left = (issuance.order, issuance.key, issuance.began_at)
        return certificate is not None and challenge is None and left == (None, None, None)

    async with asyncio.timeout(DEADLINE):
        while not await there():
            await asyncio.sleep(0.02)


def seen(noted: Path) -> set[Place]:
    lines = (line.split() for line in noted.read_text().splitlines())
    return {(module, int(number)) for module, number in lines}


def nothing_in_the_clear(directory: Path) -> None:
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert files
    assert not any(b"PRIVATE KEY" in file.read_bytes() for file in files)
