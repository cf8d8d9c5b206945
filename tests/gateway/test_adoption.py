"""Accepting on real sockets, on both event loops: nothing queued is lost, nothing of a neighbour's is closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from gateway.adoption import Listeners

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(debug=True, loop_factory=request.param) as runner:
        yield runner.run


class Greeter(asyncio.Protocol):
    """Says who it is to whoever connects, and goes."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self.name)
        transport.close()


def group(workers: int) -> list[socket.socket]:
    """Listening sockets of `workers` workers on one free address."""
    sockets: list[socket.socket] = []
    for _ in range(workers):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", sockets[0].getsockname()[1] if sockets else 0))
        sock.listen(4096)
        sockets.append(sock)
    return sockets


@contextlib.asynccontextmanager
async def worker(
    sockets: list[socket.socket], number: int, say: Callable[[str], None] = print
) -> AsyncIterator[Listeners]:
    """One worker of several in this process, with copies of the sockets as a child inherits them."""
    name = b"%d" % number
    listeners = Listeners([[sock.dup() for sock in sockets]], number, lambda: Greeter(name), say)
    listeners.start()
    yield listeners
    listeners.close()


async def greetings(address: tuple[str, int], count: int) -> list[bytes]:
    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()

    return await asyncio.gather(*(one() for _ in range(count)))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_each_worker_accepts_on_its_own(run: Run) -> None:
    async def scenario() -> None:
        sockets = group(2)
        async with worker(sockets, 1) as one, worker(sockets, 2) as two:
            names = await greetings(sockets[0].getsockname(), 100)
            assert (one.accepted, two.accepted) == (names.count(b"1"), names.count(b"2"))
            assert one.accepted + two.accepted == 100
            assert min(one.accepted, two.accepted) > 10
        for sock in sockets:
            sock.close()

    run(scenario())


def test_what_waits_at_a_dead_neighbour_is_served_by_whoever_stands_in(run: Run) -> None:
    async def scenario() -> None:
        sockets = group(2)
        async with worker(sockets, 1) as one:
            pending = asyncio.ensure_future(greetings(sockets[0].getsockname(), 60))
            await until(lambda: one.accepted > 0)
            assert not pending.done()  # about half of them wait at number 2, whom nobody serves
            one.adopt([2])
            assert await pending == [b"1"] * 60
            assert one.adopted == {2}
        for sock in sockets:
            sock.close()

    run(scenario())


def test_ending_to_stand_in_leaves_the_queue_to_the_replacement(run: Run) -> None:
    async def scenario() -> None:
        sockets = group(2)
        async with worker(sockets, 1) as one:
            for told in ([2], [2], [], [1, 2, 7], []):
                one.adopt(told)
            pending = asyncio.ensure_future(greetings(sockets[0].getsockname(), 60))
            await until(lambda: one.accepted > 0)
            async with worker(sockets, 2) as two:
                names = await pending
                assert names.count(b"2") == two.accepted > 0
                assert names.count(b"1") == one.accepted
        for sock in sockets:
            sock.close()

    run(scenario())


def test_a_draining_worker_serves_what_is_queued_and_then_refuses(run: Run) -> None:
    async def scenario() -> None:
        sockets = group(1)
        address = sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(200)]  # queued before anyone accepts
        async with worker(sockets, 1) as one:
            sockets[0].close()  # the supervisor closes its copy first
            await one.drain()
            assert one.accepted == 200
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            loop = asyncio.get_running_loop()
            for client in clients:
                client.setblocking(False)
                assert await asyncio.wait_for(loop.sock_recv(client, 10), 5) == b"1"
                client.close()

    run(scenario())


def test_without_descriptors_accepting_pauses_and_nobody_is_turned_away(run: Run) -> None:
    async def scenario() -> None:
        said: list[str] = []
        sockets = group(1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with worker(sockets, 1, said.append) as one:
            clients = [socket.socket() for _ in range(30)]
            used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            fillers: list[int] = []
            try:
                with contextlib.suppress(OSError):
                    while True:
                        fillers.append(os.open("/dev/null", os.O_RDONLY))
                for client in clients:
                    client.connect(sockets[0].getsockname())
                await until(lambda: one.pauses > 0)
            finally:
                for filler in fillers:
                    os.close(filler)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            loop = asyncio.get_running_loop()
            for client in clients:
                client.setblocking(False)
                assert await asyncio.wait_for(loop.sock_recv(client, 10), 5) == b"1"
                client.close()
        assert said[0] == "accepting pauses: Too many open files (1 times so far)"
        sockets[0].close()

    run(scenario())
