"""What analytics cost: a day by the minute over HTTP, bytes in the store, and the work of a worker and a leader.

The chunks of services of four kinds are made as the product makes them, over the whole of each retention, and put into
the store of a running node. Work is measured in this process: what a worker does each second, and a leader for each
service, with 10,000 services that all have traffic.
"""

import asyncio
import http.client
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import fleet
from bench.process import BenchError
from bench.product import NAMESPACE, Form, Product
from bench.report import distribution
from control.analytics import chunks
from control.analytics.resolution import DAY, HOUR, TIERS, Tier
from control.contract.times import iso
from gateway.histogram import count
from gateway.windows import Windows
from state.buckets import GROWTH
from state.counts import SLOT, Counts, decode_window
from state.rollups import chunks_key, lines_key
from state.store import Store

SERVICES = 10_000
TIMES = 100
WAITING = 60  # lines of a service until it is tended
WINDOW = 1440 * 60  # seconds of the range that is read
LATENCY = (0.05, 0.6)  # median in seconds and spread of the log-normal distribution

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Of service: requests a second while it has any, on so many hours of the day, and its share of a typical fleet."""

    name: str
    rate: float
    hours: int
    share: float

    def mean(self, at: int, seconds: int) -> float:
        """Requests to be expected in so many seconds from a time on."""
        return self.rate * seconds if at % DAY // HOUR < self.hours else 0.0


KINDS = (
    Kind("busy: 10 requests a second, day and night", 10, 24, 0.05),
    Kind("steady: one a second, day and night", 1, 24, 0.15),
    Kind("office: six a minute for ten hours", 0.1, 10, 0.4),
    Kind("rare: one an hour", 1 / 3600, 24, 0.4),
)


def report(form: Form, directory: Path) -> Told:
    product = Product(form, directory, core=None)
    try:
        ids = {kind.name: _create(product, f"kind-{place}") for place, kind in enumerate(KINDS)}
        sizes = fleet.with_store(product, partial(_fill, ids=ids))
        reads = {kind.name: _read(product, f"kind-{place}") for place, kind in enumerate(KINDS)}
    finally:
        product.stop()
    typical = sum(sizes[kind.name] * kind.share for kind in KINDS)
    return {
        "milliseconds": reads,
        "bytes_per_service": sizes | {"a typical fleet's mean": typical},
        "gib_of_10000": {name: size * SERVICES / 2**30 for name, size in (sizes | {"typical": typical}).items()},
        "worker": asyncio.run(_worker()),
        "leader_ms_per_tended_service": _tended(KINDS[0]),
    }


def table(told: Told) -> str:
    lines = [
        "| analytics: a service that is | bytes in the store | GiB of 10,000 | a day by the minute, ms p50 / p99 |"
    ]
    lines.append("|---|---:|---:|---:|")
    for name, size in told["bytes_per_service"].items():
        read = told["milliseconds"].get(name)
        taken = f"{read['p50']:.1f} / {read['p99']:.1f}" if read else ""
        lines.append(f"| {name} | {size:,.0f} | {size * SERVICES / 2**30:.2f} | {taken} |")
    worker = told["worker"]
    lines += [
        "",
        f"A worker with {SERVICES:,} services that all had a request: a look takes {worker['look_ms']:.0f} ms of CPU, "
        f"at most {worker['longest_ms']:.0f} ms at once; {worker['open_bytes'] / 1024:,.0f} KiB published each second "
        f"in {worker['windows']} messages, {worker['closed_bytes'] / 1024:,.0f} KiB delivered each {SLOT} s. A leader "
        f"tends a busy service in {told['leader_ms_per_tended_service']:.1f} ms, every ten minutes.",
    ]
    return "\n".join(lines)


def _create(product: Product, name: str) -> str:
    body = {"name": name, "repo": f"{NAMESPACE}/none", "gpu": "none"}
    status, service = product.call("POST", f"/auth/v1/seed/{NAMESPACE}/services", body)
    if status != 201:
        raise BenchError(f"creating a service: {status} {service}")
    return str(service["id"])


# The store


async def _fill(store: Store, ids: Mapping[str, str]) -> dict[str, int]:
    """The whole retention of each kind; returns bytes, the overhead of the keys included."""
    sizes = {}
    now = int(time.time())
    for kind in KINDS:
        service, dice = ids[kind.name], random.Random(kind.name)
        stored = _history(kind, now, dice)
        levels: chunks.Levels = [((now - 90 * DAY) * 1000 + n * DAY * 1000, float(n % 2)) for n in range(90)]
        stored[chunks.LEVELS] = chunks.pack_levels(chunks.thinned(levels, now))
        await store.client.hset(chunks_key(service), mapping=stored)
        rows = ((now - n * SLOT, _row(kind, 0, SLOT, dice)) for n in range(WAITING))
        if lines := [chunks.row_line(at, counts) for at, counts in rows if counts.requests]:
            await store.client.rpush(lines_key(service), *lines)
        keys = (chunks_key(service), lines_key(service))
        sizes[kind.name] = sum([await store.client.memory_usage(key, samples=0) or 0 for key in keys])
    return sizes


def _history(kind: Kind, now: int, dice: random.Random) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for tier in TIERS:
        parts: dict[str, chunks.Rows] = {}
        for at, counts in _rows(kind, tier, now, dice).items():
            parts.setdefault(tier.chunk(at), {})[at] = counts
        found |= {name: chunks.pack(rows) for name, rows in parts.items()}
    return found


def _rows(kind: Kind, tier: Tier, now: int, dice: random.Random) -> chunks.Rows:
    rows = {
        at: _row(kind, at, tier.step, dice)
        for at in range((now - tier.retention) // tier.step * tier.step, now, tier.step)
    }
    return {at: counts for at, counts in rows.items() if counts.requests}


def _row(kind: Kind, at: int, seconds: int, dice: random.Random) -> Counts:
    """As many requests as chance will have, each bucket of their durations on its own."""
    mean = kind.mean(at, seconds)
    duration = {index: found for index, part in SHAPE.items() if (found := _poisson(mean * part, dice))}
    requests = sum(duration.values())
    return Counts(
        requests=requests,
        errors=requests // 200,
        bytes_in=requests * dice.randrange(200, 900),
        bytes_out=requests * dice.randrange(500, 9000),
        in_flight_ms=int(requests * LATENCY[0] * 1000),
        duration=duration,
    )


def _poisson(mean: float, dice: random.Random) -> int:
    if mean > 30:
        return max(0, round(dice.gauss(mean, math.sqrt(mean))))
    limit, product, found = math.exp(-mean), dice.random(), 0
    while product > limit:
        product *= dice.random()
        found += 1
    return found


def _shape() -> dict[int, float]:
    """The share of each bucket in log-normal durations."""
    median, spread = LATENCY

    def below(index: int) -> float:
        return 0.5 * (1 + math.erf((index * math.log(GROWTH) - math.log(median)) / (spread * math.sqrt(2))))

    shares = {index: below(index) - below(index - 1) for index in range(-300, 200)}
    return {index: share for index, share in shares.items() if share > 1e-7}


SHAPE = _shape()


def _read(product: Product, name: str) -> dict[str, float]:
    """Milliseconds from the request's first byte to the answer's last: a day by the minute."""
    end = int(time.time()) // 60 * 60
    query = f"from={iso((end - WINDOW) * 1_000_000)}&to={iso(end * 1_000_000)}&step=60"
    connection = http.client.HTTPConnection("127.0.0.1", product.api_port, timeout=30)
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        path = f"/{NAMESPACE}/service/{name}/analytics?{query}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {product.key}"})
        answer = connection.getresponse()
        body = answer.read()
        taken.append((time.perf_counter() - began) * 1000)
        if answer.status != 200 or body.count(b'"time"') != WINDOW // 60:
            raise BenchError(f"{path}: {answer.status} {body[:200].decode()}")
    connection.close()
    return distribution(taken)


# The work


@dataclass
class Book:
    """Counters of a service in a worker."""

    id: str
    requests: dict[int, int] = field(default_factory=dict)
    duration: dict[int, int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    in_flight: int = 0
    room: Sequence[object] = ()

    def end(self, seconds: float) -> None:
        self.requests[200] = self.requests.get(200, 0) + 1
        self.bytes_in += 512
        self.bytes_out += 4096
        count(self.duration, seconds)


async def _worker() -> dict[str, float]:
    """Ten looks, before each of which every service had one request."""
    dice = random.Random(1)
    books = [Book(f"{n:026d}") for n in range(SERVICES)]
    windows = Windows("node/supervisor/1/incarnation")
    longest = worst = spent = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        for look in range(SLOT):
            for book in books:
                book.end(dice.lognormvariate(math.log(LATENCY[0]), LATENCY[1]))
            await asyncio.sleep(0)
            longest, began = 0.0, time.process_time()
            await windows.sample(books, 1_700_000_000.0 + look, float(look))
            told = windows.open()
            await asyncio.sleep(0)
            worst = max(worst, longest)
            spent += time.process_time() - began
        watching.cancel()
    await windows.close(books, 1_700_000_000.0 + SLOT, float(SLOT))
    closed = []
    while (oldest := windows.oldest()) is not None:
        closed.append(oldest[1])
        windows.delivered(oldest[0])
    assert sum(len(decode_window(data).rows) for data in closed) == SERVICES
    return {
        "look_ms": spent / SLOT * 1000,
        "longest_ms": worst * 1000,
        "windows": len(told),
        "open_bytes": sum(map(len, told)),
        "closed_bytes": sum(map(len, closed)),
    }


def _tended(kind: Kind) -> float:
    """Milliseconds of CPU for sixty lines to become parts of half-full chunks."""
    dice, now = random.Random(2), 1_700_000_000
    stored = _history(kind, now, dice)
    lines = chunks.read_lines(chunks.row_line(now - n * SLOT, _row(kind, now, SLOT, dice)) for n in range(WAITING))
    known = {name: stored[name] for name in chunks.touched(lines, now) if name in stored}
    return _milliseconds(lambda: chunks.compacted(known, lines, now))


def _milliseconds(work: Callable[[], object], times: int = 20) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1000
