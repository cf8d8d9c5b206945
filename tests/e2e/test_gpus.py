"""A service scales by its GPUs' utilization: 1 → 3 → 1, by what a DCGM exporter said, with a real node."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from e2e_node import ROOT, Node, eventually

RECORDED = (ROOT / "tests/activator/gpu/dcgm_t4.txt").read_text()
SERVER = (Path(__file__).parent / "replica.py").read_text()
HOST = "llm-acme.apps.localhost"


class Exporter(ThreadingHTTPServer):
    """The recorded text, in which every GPU is as busy as `percent` says."""

    percent = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Metrics)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


class Metrics(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        text = re.sub(r"^(DCGM_FI_DEV_GPU_UTIL\{.*\}) \d+$", rf"\1 {self.server.percent}", RECORDED, flags=re.MULTILINE)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter() as exporter:
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        yield exporter
        exporter.shutdown()


@contextmanager
def busy(node: Node) -> Iterator[None]:
    """Requests are in flight all the time; all are answered."""
    over = threading.Event()

    def client() -> set[int]:
        statuses = set()
        while not over.is_set():
            statuses.add(node.request(HOST, "/slow?s=1").status)
        return statuses

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(client) for _ in range(3)]
        try:
            yield
        finally:
            over.set()
        assert [one.result() for one in clients] == [{200}] * 3


def ready(node: Node) -> int:
    return int(node.service("acme", "llm")["replicas"]["ready"])


def metric(node: Node, name: str) -> str | None:
    text = node.api("GET", "/metrics").body.decode()
    return next((line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)), None)


def totals(node: Node) -> dict[str, float]:
    found: dict[str, float] = node.api("GET", "/acme/service/llm/analytics").json()["totals"]
    return found


def test_recorded_utilization_scales_up_and_down(make_node: Callable[..., Node], exporter: Exporter) -> None:
    exporter.percent = 95
    node = make_node(workers=1, options=["--gpus", "T4=3", "--dcgm-url", exporter.url, "--git-poll", "0"]).start()
    node.commit("acme/llm", {"Procfile": "web: exec python3 server.py\n", "server.py": SERVER})
    scaling = {"scale_down_delay": 0}
    node.create("acme", "llm", gpu="T4", max_replicas=3, target_gpu_utilization=40, scaling=scaling)
    node.wait_status("acme", "llm", "running")
    with busy(node):
        eventually(lambda: ready(node) == 3, what="three replicas")
        assert metric(node, 'wakegate_gpu_utilization_ratio{namespace="acme",service="llm"}') == "0.95"
        exporter.percent = 10
        eventually(lambda: ready(node) == 1, what="one replica")
    eventually(lambda: 10 <= totals(node)["gpu_utilization"] <= 95, what="it is in the analytics")
    told = [event["reason"] for event in node.api("GET", "/acme/service/llm/events").json()["items"]]
    assert "from 1 to 3: GPU utilization is 95 %, its target 40 %" in told
    assert metric(node, "wakegate_gpu_reads_failed_total{source=" + f'"{exporter.url}"' + "}") == "0.0"
