"""What a read of a log costs, in a real log of 1 GiB, over HTTP: pages of 10,000 lines, filters, places in the middle.

The log is written by the product's own writing side, in segments of its own size, and read through a running node.
While filters pass over all of it, another client asks for what needs nothing: control's one loop must not wait.
"""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from activator.logs import LogLimits, LogStore, Stream
from activator.logs.line import Piece
from activator.logs.store import Origin
from bench.process import BenchError
from bench.product import NAMESPACE, Form, Product
from bench.report import distribution
from control.contract import times

SIZE = 1 << 30  # bytes
BATCH = 2000  # lines
TIMES = 15
LINE = b"%09d GET /api/v1/orders/%d 200 in 12.3 ms, 2 items, user agent Mozilla/5.0 (X11; Linux x86_64) rv:145.0"
RARE = 100  # lines of a replica that wrote only at the very beginning

Told = dict[str, Any]


def report(form: Form, directory: Path, size: int = SIZE) -> Told:
    product = Product(form, directory, core=None)
    try:
        body = {"name": "chatty", "repo": f"{NAMESPACE}/none", "gpu": "none"}
        status, service = product.call("POST", f"/auth/v1/seed/{NAMESPACE}/services", body)
        if status != 201:
            raise BenchError(f"creating a service: {status} {service}")
        began = time.perf_counter()
        written = write(directory / "data" / "logs", str(service["id"]), size)
        seconds = time.perf_counter() - began
        return {
            **written,
            "lines_per_second_written": written["lines"] / seconds,
            "milliseconds": {what: read(product, query, lines) for what, (query, lines) in queries(product).items()},
            "beside_filters_ms": beside_filters(product),
        }
    finally:
        product.stop()


def write(logs: Path, service: str, size: int) -> dict[str, int]:
    """Fill the log: one line in a hundred goes to stderr."""
    log = LogStore(logs, LogLimits(total=2 * size)).service(service)
    log.append(Origin(Stream.STDOUT, "rare", "old"), [Piece(b"at the beginning", n) for n in range(RARE)])
    out, err = (Origin(stream, "replica", "deployment") for stream in (Stream.STDOUT, Stream.STDERR))
    lines = bytes_ = 0
    while bytes_ < size:
        pieces = [Piece(LINE % (n, n * 7919 % 100_000), n) for n in range(lines, lines + BATCH)]
        bytes_ += log.append(err if lines // BATCH % 100 == 0 else out, pieces)
        lines += BATCH
    log.sync()
    return {"lines": lines + RARE, "bytes": bytes_}


def queries(product: Product) -> dict[str, tuple[dict[str, object], int]]:
    """What is asked, and how many lines must come."""
    path = f"/{NAMESPACE}/service/chatty/logs?limit=1"
    newest = ask(product, path)["items"][0]["time"]
    oldest = ask(product, f"{path}&cursor=0")["items"][0]["time"]
    middle = _between(oldest, newest)
    return {
        "newest 100": ({"limit": 100}, 100),
        "newest 10,000": ({"limit": 10_000}, 10_000),
        "10,000 until the middle": ({"limit": 10_000, "until": middle}, 10_000),
        "10,000 after a cursor at the beginning": ({"limit": 10_000, "cursor": 0}, 10_000),
        "newest 10,000 of stderr (1 in 100)": ({"limit": 10_000, "stream": "stderr"}, 10_000),
        "a replica with 100 lines at the beginning": ({"limit": 100, "replica": "rare"}, RARE),
        "a replica without any": ({"limit": 100, "replica": "none"}, 0),
        "build lines, of which there are none": ({"limit": 100, "stream": "build", "since": oldest}, 0),
    }


def _between(oldest: str, newest: str) -> str:
    return times.iso((times.parse(oldest) + times.parse(newest)) // 2)


def read(product: Product, query: dict[str, object], lines: int) -> dict[str, float]:
    path = f"/{NAMESPACE}/service/chatty/logs?{urlencode(query, quote_via=quote)}"
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        found = ask(product, path)
        taken.append((time.perf_counter() - began) * 1000)
        if len(found["items"]) != lines:
            raise BenchError(f"{path}: {len(found['items'])} lines instead of {lines}")
    return distribution(taken)


def ask(product: Product, path: str) -> Told:
    status, body = product.call("GET", path)
    if status != 200:
        raise BenchError(f"{path}: {status} {body}")
    return body


def beside_filters(product: Product) -> dict[str, dict[str, float]]:
    """`/healthz` over and over, alone and while four clients have the whole log searched."""
    found = {"alone": distribution(healthy(product))}
    with searching(product):
        found["while four search"] = distribution(healthy(product))
    return found


def healthy(product: Product) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", product.api_port, timeout=30)
    taken = []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.002)
    connection.close()
    return taken


@contextmanager
def searching(product: Product) -> Iterator[None]:
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            ask(product, f"/{NAMESPACE}/service/chatty/logs?stream=build&since=2020-01-01T00:00:00Z")

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def table(told: Told) -> str:
    """A Markdown table."""
    names = ("n", "p50", "p90", "max")
    size = f"{told['bytes'] / (1 << 30):.2f} GiB, {told['lines']:,} lines"
    lines = [f"| a log of {size} (ms) | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    rows = {**told["milliseconds"], **{f"/healthz {what}": row for what, row in told["beside_filters_ms"].items()}}
    for what, row in rows.items():
        cells = [f"{row[name]:.0f}" if name == "n" else f"{row[name]:.1f}" for name in names]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)
