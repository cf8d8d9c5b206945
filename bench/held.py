"""Thousands of requests held by one worker, then released over four replicas.

Of each service: were all answered, in which order did they reach the replicas, how late was the worker's loop, and
what is left in its memory. They are sent in order, and `concurrency` at once to each replica; they arrive in order
exactly if that is one in all, and else nobody comes earlier than the others in flight allow.
"""

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.api import process
from bench.connections import answer, connect, request
from bench.process import cpu, memory, wait_until
from bench.product import NAMESPACE, WORKER, Form, Product

HELD = 10_000
REPLICAS = 4
PER_ADDRESS = 4000  # connections: a worker takes no more than about 9,000 of one client
PACE = 50  # requests in ten milliseconds
PROGRAM = Path(__file__).with_name("queue_replica.py")
_SAMPLE = re.compile(r"^(wakegate_[a-z_]+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Way:
    """How a service is released: `concurrency` 0 lets go of all as soon as the first replica is ready."""

    name: str
    concurrency: int
    replicas: int = REPLICAS


WAYS = (Way("bounded", 50), Way("unbounded", 0), Way("single", 1, 1))


@dataclass(frozen=True, slots=True)
class Held:
    """What became of the requests of one service.

    `early`: by how many places a request came too early at a replica, at most. `late`: by clock (wall,
    cpu), the upper bound of the histogram's bucket with the longest lateness of the loop, in seconds. Memory in bytes.
    """

    way: str
    count: int
    answered: int
    replicas: Sequence[int]
    early: int
    late: dict[str, float]
    cpu_us_each: float
    before: int
    holding: int
    after: int


def report(form: Form, directory: Path, core: int | None, count: int = HELD, ways: Sequence[Way] = WAYS) -> list[Held]:
    """One after the other on one node."""
    product = Product(form, directory, core, ["--hold-limit", str(count)])
    try:
        return [measured(product, way, count) for way in ways]
    finally:
        product.stop()


def measured(product: Product, way: Way, count: int) -> Held:
    gate, seen = product.directory / f"gate-{way.name}", product.directory / f"seen-{way.name}"
    seen.mkdir()
    seen.chmod(0o777)
    product.deploy(
        way.name,
        {"Procfile": "web: exec python3 server.py\n", "server.py": PROGRAM.read_text()},
        wait=False,
        env={"GATE": str(gate), "OUT": str(seen)},
        min_replicas=way.replicas,
        max_replicas=way.replicas,
        health_check_path="/health",
        scaling={"concurrency": way.concurrency},
    )
    wait_until(lambda: len(list(seen.iterdir())) == way.replicas, "all replicas have started", 60)
    worker = process(product, WORKER.search)
    before, used, lateness = memory(worker).rss, cpu([worker]), Samples(product)
    with held(product, way.name, count) as connections:
        holding = memory(worker).rss
        gate.touch()
        answered = sum(answer(connection) == 200 for connection in connections)
        ended = f'wakegate_requests_total{{code="200",namespace="{NAMESPACE}",service="{way.name}"}}'
        wait_until(lambda: Samples(product).get(ended) == answered, "all answers are counted", 60)
        late = {clock: Samples(product).latest(lateness, clock) for clock in ("wall", "cpu")}
    wait_until(lambda: Samples(product)["wakegate_connections"] == 0, "all connections are closed", 60)
    order, each = arrivals(seen)
    return Held(
        way.name,
        count,
        answered,
        each,
        early(order),
        late,
        (cpu([worker]) - used).total / count,
        before,
        holding,
        memory(worker).rss,
    )


@contextmanager
def held(product: Product, name: str, count: int) -> Iterator[list[socket.socket]]:
    """`count` connections whose requests, `/0`, `/1`…, came in this order and are all held."""
    connections: list[socket.socket] = []
    try:
        for number in range(count):
            connections += [connect(product.port, f"127.0.0.{2 + number // PER_ADDRESS}")]
        wait_until(lambda: Samples(product)["wakegate_connections"] == count, "all connections are accepted", 60)
        for number, connection in enumerate(connections):
            connection.sendall(request(product.host(name), f"/{number}"))
            if number % PACE == 0:
                time.sleep(0.01)
        wait_until(lambda: Samples(product)["wakegate_held"] == count, "all requests are held", 60)
        yield connections
    finally:
        for connection in connections:
            connection.close()


class Samples(dict[str, float]):
    """The metrics of a node now, by name and labels."""

    def __init__(self, product: Product) -> None:
        found = _SAMPLE.findall(product.metrics())
        super().__init__({f"{name}{{{labels}}}" if labels else name: float(value) for name, labels, value in found})

    def latest(self, before: "Samples", clock: str) -> float:
        """The bound under which all lateness since `before` stayed, in seconds."""
        prefix = f'wakegate_loop_lag_seconds_bucket{{clock="{clock}",le="'
        grown = {name: value - before.get(name, 0.0) for name, value in self.items() if name.startswith(prefix)}
        total = grown[f'{prefix}+Inf"}}']
        return min(float(name.removeprefix(prefix).rstrip('"}')) for name, value in grown.items() if value == total)


def arrivals(seen: Path) -> tuple[list[int], list[int]]:
    """The numbers of the requests in the order of their arrival at any replica, and how many each replica had."""
    each = [[line.split() for line in file.read_text().splitlines()] for file in sorted(seen.iterdir())]
    order = sorted((int(at), int(target[1:])) for lines in each for at, target in lines)
    return [number for _, number in order], [len(lines) for lines in each]


def early(order: Sequence[int]) -> int:
    """By how many places the one that came too early the most did."""
    return max(number - place for place, number in enumerate(order))


def table(rows: Sequence[Held]) -> str:
    columns = ("answered", "early by at most", "loop late by at most", "of it computing", "CPU each", "memory")
    lines = ["| held, then released | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        wall, own = (f"{row.late[clock] * 1000:g} ms" for clock in ("wall", "cpu"))
        mib = ", ".join(f"{value / 2**20:.0f}" for value in (row.before, row.holding, row.after))
        cells = (f"{row.answered:,}", f"{row.early}", wall, own, f"{row.cpu_us_each:.0f} µs", f"{mib} MiB")
        lines.append(f"| {row.count:,} over {len(row.replicas)}, {row.way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
