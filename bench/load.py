"""The loads, each sent by wrk with one thread, pinned; always bounded in time."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.backend import LARGE, SMALL
from bench.process import BenchError

SCRIPT = Path(__file__).parent / "load.lua"


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of load: what is asked for, over how many connections; `closing`: a new connection for each request."""

    name: str
    title: str
    target: str
    connections: int
    tls: bool = False
    closing: bool = False


WORKS = {
    work.name: work
    for work in (
        Work("small", "Small body (128 bytes)", SMALL, 64),
        Work("large", "1 MiB body", LARGE, 16),
        Work("tls", "Small body over TLS, keep-alive", SMALL, 64, tls=True),
        Work("handshake", "TLS 1.3 handshake, resumed, and one small body", SMALL, 64, tls=True, closing=True),
    )
}


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `work` for `seconds` to the proxy on `port`, as `host`."""

    port: int
    host: str
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client saw; latencies in microseconds."""

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    max_us: int
    errors: int


def run(load: Load, core: int) -> Outcome:
    """Send the load and return when it is over; BenchError if wrk fails or no request was answered."""
    command = ["taskset", "-c", str(core), "wrk", "--threads", "1", "--latency", "--timeout", "30s"]
    command += ["--connections", str(load.work.connections), "--duration", f"{max(1, round(load.seconds))}s"]
    command += ["--header", f"Host: {load.host}", "--script", str(SCRIPT)]
    if load.work.closing:
        command += ["--header", "Connection: close"]
    scheme = "https" if load.work.tls else "http"
    command.append(f"{scheme}://{load.host}:{load.port}{load.work.target}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=load.seconds + 60, check=False)
    if done.returncode != 0:
        raise BenchError(f"wrk failed: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(output: str) -> Outcome:
    """Outcome from the line of JSON that load.lua prints last."""
    lines = [line for line in output.splitlines() if line.startswith('{"requests"')]
    if not lines:
        raise BenchError(f"wrk printed no summary: {output}")
    told = json.loads(lines[-1])
    if not told["requests"]:
        raise BenchError(f"no request was answered: {output}")
    return Outcome(
        requests=told["requests"],
        seconds=told["duration_us"] / 1e6,
        p50_us=told["p50_us"],
        p99_us=told["p99_us"],
        max_us=told["max_us"],
        errors=sum(told["errors"].values()),
    )
