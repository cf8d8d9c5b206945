"""Thousands of requests held by one worker, then released over four replicas.

Of each service: were all answered, in which order did they reach the replicas, how late was the worker's loop, how long
did somebody wait meanwhile who asked another service, and what is left in the worker's memory. They are sent in order,
and `concurrency` at once to each replica; they arrive in order exactly if that is one in all, and else nobody comes
earlier than the others in flight allow.
"""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.api import process
from bench.connections import answer, connect, request
from bench.process import cpu, memory, wait_until
from bench.product import NAMESPACE, WORKER, Form, Product
from bench.visitor import Visits, summary

HELD = 10_000
REPLICAS = 4
PER_ADDRESS = 4000  # connections: a worker takes no more than about 9,000 of one client
PACE = 50  # requests in ten milliseconds
SETTLES = 13.0  # seconds until a worker has given back what it can (`gateway/tidying.py`)
CLOCKS = ("wall", "cpu")
PHASES = ("come", "are answered", "leave")
WARM = "warm"  # the service that is asked meanwhile
PROGRAM = Path(__file__).with_name("queue_replica.py")
ROOT = Path(__file__).resolve().parent.parent
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
    """What became of the requests of one service, and meanwhile of the `visits` to another, by phase: as the requests
    come, as they are answered, as their clients close all at once.

    `early`: by how many places a request came too early at a replica, at most. `late`: by clock (wall,
    cpu), the upper bound of the histogram's bucket with the longest lateness of the loop, in seconds. Memory in bytes.
    """

    way: str
    count: int
    answered: int
    replicas: Sequence[int]
    early: int
    late: dict[str, float]
    late_closing: dict[str, float]
    visits: dict[str, Visits]
    cpu_us_each: float
    before: int
    holding: int
    after: int


def report(form: Form, directory: Path, core: int | None, count: int = HELD, ways: Sequence[Way] = WAYS) -> list[Held]:
    """One after the other on one node."""
    product = Product(form, directory, core, ["--hold-limit", str(count)])
    try:
        queue(product, WARM, Way(WARM, 0, 1)).touch()
        wait_until(lambda: product.get(WARM)["status"] == "running", "the service that is asked meanwhile runs", 60)
        return [measured(product, way, count) for way in ways]
    finally:
        product.stop()


def measured(product: Product, way: Way, count: int) -> Held:
    gate = queue(product, way.name, way)
    worker = process(product, WORKER.search)
    before, used, lateness = memory(worker).rss, cpu([worker]), Samples(product)
    phases = [time.monotonic()]
    with visiting(product) as visits:
        with held(product, way.name, count) as connections:
            holding = memory(worker).rss
            phases.append(time.monotonic())
            gate.touch()
            answered = sum(answer(connection) == 200 for connection in connections)
            ended = f'wakegate_requests_total{{code="200",namespace="{NAMESPACE}",service="{way.name}"}}'
            wait_until(lambda: Samples(product).get(ended) == answered, "all answers are counted", 60)
            phases.append(time.monotonic())
            all_answered = Samples(product)
        wait_until(lambda: Samples(product)["wakegate_connections"] <= 1, "all connections are closed", 60)
        phases.append(time.monotonic())
        after = Samples(product)
        spent = cpu([worker]) - used
    time.sleep(SETTLES)
    order, each = arrivals(product.directory / f"seen-{way.name}")
    return Held(
        way.name,
        count,
        answered,
        each,
        early(order),
        {clock: all_answered.latest(lateness, clock) for clock in CLOCKS},
        {clock: after.latest(all_answered, clock) for clock in CLOCKS},
        {name: summary(visits, *phases[at : at + 2]) for at, name in enumerate(PHASES)},
        spent.total / count,
        before,
        holding,
        memory(worker).rss,
    )


def queue(product: Product, name: str, way: Way) -> Path:
    """Deploy a service whose replicas are healthy once the file is there whose path is returned, and wait for them."""
    gate, seen = product.directory / f"gate-{name}", product.directory / f"seen-{name}"
    seen.mkdir()
    seen.chmod(0o777)
    product.deploy(
        name,
        {"Procfile": "web: exec python3 server.py\n", "server.py": PROGRAM.read_text()},
        wait=False,
        env={"GATE": str(gate), "OUT": str(seen)},
        min_replicas=way.replicas,
        max_replicas=way.replicas,
        health_check_path="/health",
        scaling={"concurrency": way.concurrency},
    )
    wait_until(lambda: len(list(seen.iterdir())) == way.replicas, f"all replicas of {name} have started", 60)
    return gate


@contextmanager
def visiting(product: Product) -> Iterator[list[tuple[float, float]]]:
    """Somebody asks the warm service all the while. In the list, at the end: when each began, and how long it took."""
    command = [sys.executable, "-m", "bench.visitor", str(product.port), product.host(WARM)]
    visits: list[tuple[float, float]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as visitor:
        yield visits
        told, _ = visitor.communicate()
    visits += json.loads(told)


@contextmanager
def held(product: Product, name: str, count: int) -> Iterator[list[socket.socket]]:
    """`count` connections whose requests, `/0`, `/1`…, came in this order and are all held."""
    connections: list[socket.socket] = []
    try:
        for number in range(count):
            connections += [connect(product.port, f"127.0.0.{2 + number // PER_ADDRESS}")]
        wait_until(lambda: Samples(product)["wakegate_connections"] >= count, "all connections are accepted", 60)
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
    columns = ["answered", "early by at most", "loop late by at most", "of it computing", "computing as they leave"]
    columns += [*(f"another's request as they {phase}" for phase in PHASES), "CPU each", "memory"]
    lines = ["| held, then released | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        wall, own, closing = (f"{late * 1000:g} ms" for late in (*row.late.values(), row.late_closing["cpu"]))
        mib = ", ".join(f"{value / 2**20:.0f}" for value in (row.before, row.holding, row.after))
        visits = [f"{one.p50:.1f}, {one.p99:.0f}, {one.longest:.0f} ms" for one in row.visits.values()]
        cells = [f"{row.answered:,}", f"{row.early}", wall, own, closing, *visits]
        cells += [f"{row.cpu_us_each:.0f} µs", f"{mib} MiB"]
        lines.append(f"| {row.count:,} over {len(row.replicas)}, {row.way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
