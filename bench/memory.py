"""What an idle keep-alive connection and a held request cost in the workers' memory."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from bench.backend import SMALL
from bench.connections import answer, connect, request
from bench.machine import Cores
from bench.peers import Proxy
from bench.process import BenchError
from bench.product import Form, Product, backend_files, backend_service

IDLE = 10_000
HELD = 1_000
SETTLES = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that each of `count` things added to the workers, averaged."""

    proxy: str
    what: str
    count: int
    uss_each: float
    rss_each: float


def idle_connections(proxy: Proxy, count: int) -> Cost:
    """Open `count` connections, one request on each, and leave them idle."""
    _warm(proxy)
    uss, rss = _settled(proxy)
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(connect(proxy.port))
            connections[-1].sendall(request(proxy.host, SMALL))
            if answer(connections[-1]) != 200:
                raise BenchError(f"{proxy.name} did not answer 200")
        now_uss, now_rss = _settled(proxy)
    finally:
        for connection in connections:
            connection.close()
    return Cost(proxy.name, "idle keep-alive connections", count, (now_uss - uss) / count, (now_rss - rss) / count)


def held_requests(form: Form, directory: Path, cores: Cores, count: int) -> tuple[Cost, dict[str, object]]:
    """Hold `count` requests, on a connection each, for a service that becomes ready when told; then let them go."""
    product = Product(form, directory, cores.proxy, ["--hold-limit", str(count)])
    connections: list[socket.socket] = []
    try:
        gate = directory / "gate"
        product.deploy("warm", backend_files(cores.load), **backend_service())
        product.deploy("held", backend_files(cores.load, gate), wait=False, **backend_service())
        proxy = product.proxy("warm")
        _warm(proxy)
        uss, rss = _settled(proxy)
        for _ in range(count):
            connections.append(connect(product.port))
            connections[-1].sendall(request(product.host("held"), SMALL))
        now_uss, now_rss = _settled(proxy)
        gate.touch()
        released = time.monotonic()
        statuses = [answer(connection) for connection in connections]
        took = time.monotonic() - released
    finally:
        for connection in connections:
            connection.close()
        product.stop()
    cost = Cost(form.name, "held requests", count, (now_uss - uss) / count, (now_rss - rss) / count)
    return cost, {"answered_200": statuses.count(200), "of": count, "seconds_from_opening_the_gate": took}


def _warm(proxy: Proxy) -> None:
    """What only the first requests need is there before the count begins."""
    for _ in range(300):
        connection = connect(proxy.port)
        connection.sendall(request(proxy.host, SMALL))
        answer(connection)
        connection.close()


def _settled(proxy: Proxy) -> tuple[int, int]:
    time.sleep(SETTLES)
    return proxy.uss(), proxy.rss()
