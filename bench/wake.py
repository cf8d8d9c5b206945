"""The wake report: how long after a replica could answer, and after the probe that saw it, the held are answered.

Every wake is a real one: a service at zero, requests held for it, a replica whose health turns 200 after random 0-10 s.
All times are the replica's and the client's own (see `bench/replica.py`).
"""

import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.connections import answer, connect, first_readable, request
from bench.process import BenchError, Cpu, command_line, cpu, wait_until
from bench.product import Form, Product, asleep
from bench.report import distribution

LOGGED = 0.7  # seconds by which the replica's lines are in the log
ROLES = {
    "control": re.compile(r"wakegate control"),
    "worker": re.compile(r"wakegate worker \d"),
    "store": re.compile(r"valkey-server"),
}
HELD = 3  # requests held per wake, each on a connection of its own
FIELDS = {
    "min_replicas": 0,
    "max_replicas": 1,
    "health_check_path": "/health",
    "scaling": {"idle_timeout": 1, "scale_down_delay": 0},
}


@dataclass(frozen=True, slots=True)
class Wake:
    """One wake, all in milliseconds: the replica's own delay, and until the first held
    byte was at the client, or a held request at the replica."""

    delay: float
    from_ready: float
    from_probe: float
    probe_to_replica: float
    from_request: float


def report(form: Form, directory: Path, services: int, wakes: int) -> dict[str, object]:
    """`services` at once, each woken `wakes` times, on all cores: waking is no matter of one worker alone."""
    product = Product(form, directory, core=None)
    try:
        names = [f"wake-{number}" for number in range(services)]
        files = {
            "Procfile": "web: exec python3 replica.py\n",
            "replica.py": Path(__file__).with_name("replica.py").read_text(),
        }
        for name in names:
            product.deploy(name, files, wait=False, **FIELDS)
        with ThreadPoolExecutor(services) as pool:
            list(pool.map(lambda name: _deployed(product, name), names))
            before = _cpu(product)
            samples = [wake for each in pool.map(lambda name: _series(product, name, wakes), names) for wake in each]
            used = _cpu(product)
        phases = _phases(product.metrics())
    finally:
        product.stop()
    return {
        "proxy": form.name,
        "held_per_wake": HELD,
        "milliseconds": {
            "from the probe to the first held byte": distribution([wake.from_probe for wake in samples]),
            "of that, until the replica has it": distribution([wake.probe_to_replica for wake in samples]),
            "from the replica's readiness to the first held byte": distribution([wake.from_ready for wake in samples]),
            "the replica's own random delay": distribution([wake.delay for wake in samples]),
            "from the request to its first byte": distribution([wake.from_request for wake in samples]),
        },
        "cpu_milliseconds_per_wake": {
            role: (used[role] - before[role]).total / 1000 / len(samples) for role in sorted(used)
        },
        "cold_start_seconds_by_phase": phases,
    }


def _cpu(product: Product) -> dict[str, Cpu]:
    """What the node's own processes have used so far, by role."""
    lines = {pid: command_line(pid) for pid in product.running.tree()}
    return {role: cpu([pid for pid, line in lines.items() if word.search(line)]) for role, word in ROLES.items()}


def _deployed(product: Product, name: str) -> None:
    wait_until(lambda: product.get(name)["status"] in ("running", "stopped"), f"{name} deployed", 60)


def _series(product: Product, name: str, wakes: int) -> list[Wake]:
    """Let it fall asleep, wake it, again and again."""
    samples = []
    for _ in range(wakes):
        asleep(product, name)
        samples.append(_one(product, name))
    return samples


def _one(product: Product, name: str) -> Wake:
    known = {item["replica"] for item in product.logs(name)}
    connections = [connect(product.port) for _ in range(HELD)]
    try:
        sent = time.monotonic_ns()
        for connection in connections:
            connection.sendall(request(product.host(name), "/held"))
        first = first_readable(connections, 60)
        statuses = [answer(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    if statuses != [200] * HELD:
        raise BenchError(f"{name}: held requests got {statuses}")
    time.sleep(LOGGED)  # other services wake meanwhile: asking for the log in a loop would slow them
    wait_until(lambda: len(_events(product, name, known).get("request", [])) == HELD, f"{name}: the replica's log", 20)
    events = _events(product, name, known)
    if len(events["probed"]) != 1:
        raise BenchError(f"{name}: {len(events['probed'])} replicas started for one wake")
    ready, probed = events["turned_ready"][0], events["probed"][0]
    return Wake(
        delay=events["delay"][0],
        from_ready=(first - ready) / 1e6,
        from_probe=(first - probed) / 1e6,
        probe_to_replica=(min(events["request"]) - probed) / 1e6,
        from_request=(first - sent) / 1e6,
    )


def _events(product: Product, name: str, known: Iterable[str]) -> dict[str, list[float]]:
    """What replicas not in `known` have logged: times by event; the delay in milliseconds."""
    events: dict[str, list[float]] = {}
    for item in product.logs(name):
        if item["replica"] not in known and item["line"].startswith("{"):
            told = json.loads(item["line"])
            events.setdefault(told["event"], []).append(told["at"])
            events.setdefault("delay", []).append(told["delay"] * 1000)
    return events


def _phases(metrics: str) -> dict[str, dict[str, float]]:
    """Mean and count of each phase of a cold start, from /metrics."""
    found: dict[str, dict[str, float]] = {}
    for part, labels, value in re.findall(
        r"^wakegate_cold_start_seconds_(sum|count)\{([^}]*)\} (\S+)$", metrics, re.MULTILINE
    ):
        phase = re.search(r'phase="([^"]*)"', labels)
        if phase:
            entry = found.setdefault(phase.group(1), {"sum": 0.0, "count": 0.0})
            entry[part] += float(value)
    return {name: {"mean": e["sum"] / e["count"], "count": e["count"]} for name, e in found.items() if e["count"]}
