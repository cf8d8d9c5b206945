"""The Services API and the fleet behind it, with few services stored and with many.

What is asked over HTTP, how long a worker takes to start, and what one change costs all processes of a node. Nothing
runs in these services, so that the figures are of what is stored alone.
"""

import asyncio
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from bench import fleet
from bench.process import BenchError, command_line, wait_until
from bench.product import NAMESPACE, WORKER, Form, Product
from bench.report import distribution
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Route, Scale, Service
from state.store import Change, Store

FEW = 10
KEYS = 20  # in turn, as of many programs
REQUESTS = 1000  # of each kind
ROUNDS = 5
CHANGES = 500  # in a round, of one service; and a fifth of it of services that come and go
ROLES = {
    "worker": WORKER.search,
    "control": lambda line: "-m wakegate control" in line,
    "store": lambda line: "valkey-server" in line,
}
SETTLED = 2.0  # seconds in which the processes come to rest
CHANGES_BESIDE = 20  # a second, while the busy figures are taken

Told = dict[str, Any]


def report(form: Form, directory: Path, stored: int) -> Told:
    """Two nodes side by side, one with `FEW` services and one with `stored`: other work slows both alike."""
    with ExitStack() as stack:
        nodes: dict[int, Product] = {}
        ids: dict[int, list[str]] = {}
        for count in (FEW, stored):
            nodes[count] = Product(form, directory / str(count), core=None)
            stack.callback(nodes[count].stop)
            ids[count] = fleet.fill(nodes[count], range(count))
            wait_until(partial(lists, nodes[count], count), f"{count} services listed", 120)
        product = nodes[stored]
        return {
            "stored": stored,
            "requests": latencies(product, make_keys(product), stored, ids[stored]),
            "start_seconds": starts(product),
            "change_cpu_us": [
                {count: cost_of_changes(nodes[count], ids[count][-1]) for count in (FEW, stored)} for _ in range(ROUNDS)
            ],
        }


def make_keys(product: Product) -> list[str]:
    made = []
    for number in range(KEYS):
        body = {"name": f"bench-{number}", "namespace": NAMESPACE, "scope": "read"}
        status, answer = product.call("POST", "/auth/v1/keys", body)
        if status != 201:
            raise BenchError(f"creating a key: {status} {answer}")
        made.append(str(answer["key"]))
    return made


def lists(product: Product, count: int) -> bool:
    return product.call("GET", f"/{NAMESPACE}/services?limit=1")[1].get("total") == count


# Requests


def latencies(product: Product, keys: Sequence[str], stored: int, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds from a request's first byte to its answer's last, one after the other on one connection.

    `busy`: while services anywhere in the list change, each of which makes the list by status look again.
    """
    last = -(-stored // 100)
    paths = {
        "get": [f"/{NAMESPACE}/service/{fleet.name(n * 7919 % stored)}" for n in range(REQUESTS)],
        "list, first page": [f"/{NAMESPACE}/services"],
        "list, first 100": [f"/{NAMESPACE}/services?limit=100"],
        "list, last 100": [f"/{NAMESPACE}/services?limit=100&page={last}"],
        "list, failed": [f"/{NAMESPACE}/services?status=failed"],
        "list, failed, last 100": [f"/{NAMESPACE}/services?status=failed&limit=100&page={-(-last // 10)}"],
    }
    found = {}
    control = {"control": process(product, ROLES["control"])}
    for what, asked in paths.items():
        before = usage(control)["control"]
        found[what] = distribution(ask(product, keys, asked))
        found[what]["cpu_ms"] = (usage(control)["control"] - before) / REQUESTS / 1000
        with changing(product, ids):
            found[f"{what}, busy"] = distribution(ask(product, keys, asked))
    return found


def ask(product: Product, keys: Sequence[str], paths: Sequence[str]) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", product.api_port, timeout=30)
    credentials = cycle(keys)
    taken = []
    for path in islice(cycle(paths), REQUESTS):
        headers = {"Authorization": f"Bearer {next(credentials)}"}
        began = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        taken.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise BenchError(f"{path}: {answer.status} {body.decode()}")
    connection.close()
    return taken


@contextmanager
def changing(product: Product, ids: Sequence[str]) -> Iterator[None]:
    """`CHANGES_BESIDE` a second, of services all over the list."""
    stop = threading.Event()

    async def change(store: Store) -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            await touch(store, ids[number * 7919 % len(ids)])
            await asyncio.sleep(1 / CHANGES_BESIDE)

    thread = threading.Thread(target=fleet.with_store, args=(product, change))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# Changes


async def touch(store: Store, service: str) -> None:
    """What the leader writes of a service as it is used: its scale, and its backend with it."""
    backend = await store.get(Kind.BACKEND, service)
    if backend is None:
        raise BenchError(f"the service {service} has no backend")
    scale = Scale(active_at=now_us())
    await store.commit([Change(Kind.SCALE, service, encode(scale)), Change(Kind.BACKEND, service, backend.value)])


async def come_and_go(store: Store, number: int) -> None:
    """A service is created and deleted; the leader removes what is left of it."""
    service_id, changes = fleet.service(number)
    await store.commit(changes)
    created = next(change for change in changes if change.kind is Kind.SERVICE)
    route = next(change for change in changes if change.kind is Kind.ROUTE)
    assert created.value is not None
    service = replace(decode(Service, created.value), deleted_at=now_us())
    tombstone = Route(service_id, NAMESPACE, service.name, deleted_at=now_us())
    await store.commit(
        [
            Change(Kind.SERVICE, service_id, encode(service)),
            Change(Kind.ROUTE, route.id, encode(tombstone)),
            Change(Kind.NAME, f"{NAMESPACE}/{service.name}", None),
        ]
    )


def cost_of_changes(product: Product, service: str) -> dict[str, dict[str, float]]:
    """Microseconds of CPU of each process for one change, what it uses at rest taken off."""

    async def touches(store: Store) -> None:
        for _ in range(CHANGES):
            await touch(store, service)

    async def comings_and_goings(store: Store) -> None:
        for number in range(CHANGES // 5):
            await come_and_go(store, 90_000 + number)

    return {
        "a change": cpu_of(product, touches, CHANGES),
        "a service that comes and goes": cpu_of(product, comings_and_goings, CHANGES // 5),
    }


def cpu_of(product: Product, work: Callable[[Store], Any], count: int) -> dict[str, float]:
    pids = {role: process(product, ours) for role, ours in ROLES.items()}
    resting, began = usage(pids), time.monotonic()
    time.sleep(SETTLED)
    before, at_rest = usage(pids), time.monotonic() - began
    began = time.monotonic()
    fleet.with_store(product, work)
    time.sleep(SETTLED)  # what is done later belongs to it
    after, took = usage(pids), time.monotonic() - began
    idle = {role: (before[role] - resting[role]) / at_rest for role in pids}
    return {role: (after[role] - before[role] - idle[role] * took) / count for role in pids}


def process(product: Product, ours: Callable[[str], object]) -> int:
    return next(pid for pid in product.running.tree() if ours(command_line(pid)))


def usage(pids: Mapping[str, int]) -> dict[str, float]:
    """Microseconds of CPU used by all threads so far."""

    def of(pid: int) -> float:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000

    return {role: of(pid) for role, pid in pids.items()}


# Starts


def starts(product: Product) -> dict[str, list[float]]:
    """Seconds from a worker's death until the one in its place answers; it is the only one of the node."""
    host = f"{fleet.name(0)}-{NAMESPACE}.apps.localhost"  # failed: answered by the worker itself
    return {"worker, killed and replaced": [restart_worker(product, host) for _ in range(ROUNDS)]}


def restart_worker(product: Product, host: str) -> float:
    time.sleep(SETTLED)  # a worker that dies young is restarted later
    worker = process(product, WORKER.search)
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=60)
        try:
            connection.request("GET", "/", headers={"Host": host})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            if time.monotonic() - began > 60:
                raise BenchError("the worker does not come back") from None
            continue
        finally:
            connection.close()
        if status != 503:
            raise BenchError(f"the new worker answered {status} for {host}")
        return time.monotonic() - began


def table(told: Told) -> str:
    """A Markdown table of each part."""
    names = ("p50", "p90", "p99", "max")
    head = f"| the API, {told['stored']:,} services (ms) | {' | '.join(names)} | CPU of control |"
    lines = [head, "|---|" + "---:|" * (len(names) + 1)]
    for what, row in told["requests"].items():
        cells = [*(f"{row[name]:.1f}" for name in names), f"{row['cpu_ms']:.2f}" if "cpu_ms" in row else "-"]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    head = f"| CPU of one change (µs) | {FEW} services | {told['stored']:,} services | ratio |"
    lines += ["", head, "|---|---:|---:|---:|", *change_rows(told)]
    lines += ["", "| start (s) | median | longest |", "|---|---:|---:|"]
    for what, seconds in told["start_seconds"].items():
        lines.append(f"| {what} | {median(seconds):.2f} | {max(seconds):.2f} |")
    return "\n".join(lines)


def change_rows(told: Told) -> Iterator[str]:
    """Medians of the rounds; of the ratios, too, with their extremes."""
    rounds, stored = told["change_cpu_us"], told["stored"]
    for what, roles in rounds[0][stored].items():
        for role in roles:
            few, many = ([each[count][what][role] for each in rounds] for count in (FEW, stored))
            ratios = [m / f for f, m in zip(few, many, strict=True)]
            spread = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            yield f"| {what}, {role} | {median(few):.0f} | {median(many):.0f} | {spread} |"
