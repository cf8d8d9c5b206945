"""The slow start of connections to a replica: as arithmetic, and against a real server with a short listen queue."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest
from wire import Conversation, Peer, Starter, get, lines, until

from gateway.pacing import Pacing
from state.models import Endpoint


def settle_round(pacing: Pacing) -> int:
    """As many connections as may be under way at once, all of which settle. How many that were."""
    count = 0
    while pacing.may_connect():
        pacing.began()
        count += 1
    for _ in range(count):
        pacing.settled()
    return count


def test_the_window_doubles_up_to_its_limit() -> None:
    pacing = Pacing()
    assert [settle_round(pacing) for _ in range(8)] == [2, 4, 8, 16, 32, 64, 128, 128]
    assert repr(pacing) == "<Pacing 0/128.0>"


def test_a_burst_that_stalls_closes_it_once_and_it_opens_slowly_from_half() -> None:
    pacing = Pacing()
    while pacing.window < 16:
        settle_round(pacing)
    for _ in range(16):
        pacing.began()
    pacing.stalled(1.0, 1.025)
    pacing.stalled(1.001, 1.026)
    assert not pacing.may_connect()
    for _ in range(16):
        pacing.settled()
    assert 8 <= pacing.window < 10
    before = pacing.window
    settle_round(pacing)
    assert before + 0.8 < pacing.window <= before + 1


def test_it_never_closes_completely() -> None:
    pacing = Pacing()
    for at in range(1, 10):
        pacing.stalled(float(at), at + 0.5)
    assert pacing.may_connect()


def test_a_failure_begins_anew() -> None:
    pacing = Pacing()
    settle_round(pacing)
    pacing.began()
    pacing.failed()
    assert settle_round(pacing) == 2


def test_patience_grows_with_what_was_in_vain_and_with_the_distance() -> None:
    pacing = Pacing()
    seen = []
    for at in range(8):
        seen.append(pacing.patience())
        pacing.stalled(float(at), at + 0.5)
    assert seen == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    pacing.connected(0.2)
    assert pacing.patience() == pytest.approx(0.825)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(params=[HTTPServer, ThreadingHTTPServer])
def naive(request: pytest.FixtureRequest) -> Iterator[HTTPServer]:
    """Python's own server: five may wait to be accepted."""
    server: HTTPServer = request.param(("127.0.0.1", 0), Handler)
    assert server.request_queue_size == 5
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def hold(talk: Conversation, count: int) -> list[Peer]:
    talk.serve()
    clients = [await talk.client() for _ in range(count)]
    for client in clients:
        await client.send(get())
    await until(lambda: talk.held == count)
    return clients


async def test_a_short_listen_queue_is_not_overrun(talk: Conversation, naive: HTTPServer) -> None:
    clients = await hold(talk, 200)
    talk.serve(Endpoint("naive", "127.0.0.1", naive.server_address[1], True))
    for client in clients:
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert talk.edge.counters()["services"]["service-app.test"]["errors"] == {}


async def test_a_slow_answerer_gets_a_thousand_at_once(conversation: Starter) -> None:
    talk = await conversation()
    clients = await hold(talk, 1000)
    seen: list[asyncio.StreamWriter] = []
    complete = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer)
        if len(seen) == 1000:
            complete.set()

    server = await asyncio.start_server(answer_late, "127.0.0.1", 0, backlog=4096)
    async with server:
        talk.serve(Endpoint("slow", "127.0.0.1", server.sockets[0].getsockname()[1], True))
        async with asyncio.timeout(60):
            await complete.wait()  # all of them before the first is answered
        for writer in seen:
            writer.write(lines("HTTP/1.1 200 OK", "Content-Length: 0", "Connection: close"))
            writer.close()
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_a_full_listen_queue_is_tried_again_until_there_is_room(talk: Conversation) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = await hold(talk, 3)
        talk.serve(Endpoint("full", "127.0.0.1", listener.getsockname()[1], True))
        await until(lambda: talk.in_flight == 3)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        for _ in clients:
            accepted, _ = await loop.sock_accept(listener)
            with accepted:
                await loop.sock_recv(accepted, 65536)
                await loop.sock_sendall(accepted, lines("HTTP/1.1 200 OK", "Content-Length: 0", "Connection: close"))
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
