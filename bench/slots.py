"""Exact concurrency: how long a replica is idle while requests wait at several workers, and what a warm request costs.

- *Handing on*: replicas of `concurrency: 1`, requests that wait at all workers of a node; from the moment at which an
  answer leaves a replica to the one at which its next request is there. Never two at once.
- *Warm*: CPU per request of one service with `concurrency` over that of one without, in interleaved rounds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import report, throughput
from bench.connections import answer, connect, request
from bench.load import WORKS
from bench.machine import Cores
from bench.process import BenchError, wait_until
from bench.product import Form, Product, backend_files, backend_service

REPLICAS = 10
REQUESTS = 400
WORKERS = 4
WORK = 0.05  # seconds
LIMIT = 1000  # of the warm service: never reached
MOST = 1.15  # times the CPU of a warm request without
PROGRAM = Path(__file__).with_name("slots_replica.py")


def handing_on(form: Form, directory: Path) -> list[float]:
    """Milliseconds, each time that a replica was idle while requests waited. BenchError if it ever had two at once."""
    product = Product(form, directory, None, ["--workers", str(WORKERS)])
    seen = directory / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    try:
        product.deploy(
            "slots",
            {"Procfile": "web: exec python3 server.py\n", "server.py": PROGRAM.read_text()},
            env={"OUT": str(seen), "WORK": str(WORK)},
            min_replicas=REPLICAS,
            max_replicas=REPLICAS,
            health_check_path="/health",
            scaling={"concurrency": 1},
        )
        wait_until(lambda: _ready(product) == REPLICAS, "all replicas are ready", 60)
        _ask(product)
    finally:
        product.stop()
    times = [[tuple(map(int, line.split())) for line in file.read_text().splitlines()] for file in seen.iterdir()]
    return _idle(times)


def _ready(product: Product) -> object:
    replicas = product.get("slots")["replicas"]
    return replicas["ready"] if isinstance(replicas, dict) else None


def _ask(product: Product) -> None:
    """All ask at once, so that every request but the first of a replica was waiting when the one before it ended."""
    connections = [connect(product.port) for _ in range(REQUESTS)]
    for number, connection in enumerate(connections):
        connection.sendall(request(product.host("slots"), f"/{number}"))
    if any(answer(connection) != 200 for connection in connections):
        raise BenchError("a request was not answered by 200")
    for connection in connections:
        connection.close()


def _idle(times: Sequence[Sequence[tuple[int, ...]]]) -> list[float]:
    """From (came, left) of each request of each replica, in nanoseconds."""
    idle = []
    for one in times:
        for (_, left), (came, _) in pairwise(sorted(one)):
            if came < left:
                raise BenchError("a replica had two requests at once")
            idle.append((came - left) / 1e6)
    return idle


def warm(form: Form, directory: Path, cores: Cores, rounds: int, seconds: float) -> list[throughput.Sample]:
    """Two services of the same program on one node, of which one has a limit that is never reached."""
    product = Product(form, directory, cores.proxy)
    try:
        proxies = []
        for name, limit in (("without", 0), ("with", LIMIT)):
            files = backend_files(cores.load)
            product.deploy(name, files, **backend_service(), scaling={"concurrency": limit})
            proxies.append(dataclasses.replace(product.proxy(name), name=name))
        return throughput.interleaved(proxies, [WORKS["small"]], rounds, seconds, cores)
    finally:
        product.stop()


def measured(form: Form, directory: Path, cores: Cores, rounds: int, seconds: float) -> dict[str, Any]:
    """Both, as JSON."""
    idle = report.distribution(handing_on(form, directory / "handing-on"))
    samples = warm(form, directory / "warm", cores, rounds, seconds)
    ratio = throughput.ratio(samples, "small", "with", "without")
    return {
        "idle_ms": idle,
        "warm": None if ratio is None else dataclasses.asdict(ratio),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def table(told: Mapping[str, Any]) -> str:
    """Markdown."""
    shown = report.distribution_table("a replica idle while requests wait", "ms", {"one of ten": told["idle_ms"]})
    ratio = told["warm"]
    if ratio is None:
        return shown
    text = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
    return f"{shown}\n\nCPU of a warm request with `concurrency` / without: {text}, at most {MOST} is meant."
