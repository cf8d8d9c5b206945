"""CPU per request, requests per second and latency of every proxy, in interleaved rounds of the same load."""

import http.client
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.backend import accepts
from bench.load import Load, Work, run
from bench.machine import Cores
from bench.peers import Proxy
from bench.process import BenchError, cpu

COMPARED = ("nginx", "haproxy", "envoy", "caddy")
LOG_SETTLES = 15.0  # seconds; every proxy flushes its log within one


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy, one kind of load, one round. CPU in microseconds per request; `log_missing`: requests not logged."""

    proxy: str
    work: str
    round: int
    requests: int
    errors: int
    requests_per_second: float
    cpu_us: float
    cpu_system_us: float
    cpu_worker_us: float
    busy: float
    p50_us: int
    p99_us: int
    upstream_connections: int
    log_lines: int
    log_missing: int


def measure(proxy: Proxy, work: Work, round_: int, seconds: float, cores: Cores) -> Sample:
    """Load `proxy` for `seconds` and say what it took; the first round warms up for a second, counting connections."""
    port = proxy.tls_port if work.tls else proxy.port
    opened = accepts(proxy.backend)
    if round_ == 0:
        run(Load(port, proxy.host, work, 1), cores.load)
    lines = _settled_lines(proxy, 0)
    load = Load(port, proxy.host, work, seconds)
    pids, workers = proxy.pids(), proxy.workers()
    before, before_workers, started = cpu(pids), cpu(workers), time.monotonic()
    outcome = run(load, cores.load)
    used, used_workers, wall = cpu(pids) - before, cpu(workers) - before_workers, time.monotonic() - started
    proxy.running.check()
    written = _settled_lines(proxy, lines + outcome.requests) - lines
    return Sample(
        proxy=proxy.name,
        work=work.name,
        round=round_,
        requests=outcome.requests,
        errors=outcome.errors,
        requests_per_second=outcome.requests / outcome.seconds,
        cpu_us=used.total / outcome.requests,
        cpu_system_us=used.system / outcome.requests,
        cpu_worker_us=used_workers.total / outcome.requests,
        busy=used.total / 1e6 / wall,
        p50_us=outcome.p50_us,
        p99_us=outcome.p99_us,
        upstream_connections=accepts(proxy.backend) - opened,
        log_lines=written,
        log_missing=max(0, outcome.requests - written),
    )


FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "Via")


def same_job(proxy: Proxy) -> None:
    """BenchError unless the backend gets every field of `FORWARDED` from `proxy`."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    connection.request("GET", "/forwarded", headers={"Host": proxy.host})
    got = connection.getresponse().read().decode().split("|")
    connection.close()
    lacking = [name for name, value in zip(FORWARDED, got, strict=False) if not value] if len(got) == 5 else FORWARDED
    if lacking:
        raise BenchError(f"{proxy.name} does not forward {', '.join(lacking)}")


def _settled_lines(proxy: Proxy, at_least: int) -> int:
    """Lines of the log once it has stopped growing for 1.2 s and holds `at_least`, or after `LOG_SETTLES`."""
    deadline = time.monotonic() + LOG_SETTLES
    seen, since = proxy.log_lines(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = proxy.log_lines()
        if now != seen:
            seen, since = now, time.monotonic()
        elif now >= at_least and time.monotonic() - since >= 1.2:
            break
    return seen


def interleaved(
    proxies: Sequence[Proxy], works: Sequence[Work], rounds: int, seconds: float, cores: Cores
) -> list[Sample]:
    """Every proxy in turn, `rounds` times; those without TLS (aiohttp) are left out where it is needed."""
    for proxy in proxies:
        same_job(proxy)
    samples = []
    for work in works:
        for round_ in range(rounds):
            # The order turns from round to round, so that a drift of the machine favours nobody.
            able = [proxy for proxy in proxies if proxy.tls_port or not work.tls]
            turn = round_ % len(able)
            for proxy in [*able[turn:], *able[:turn]]:
                sample = measure(proxy, work, round_, seconds, cores)
                samples.append(sample)
                print(
                    f"  {work.name:9} round {round_ + 1} {proxy.name:18} {sample.cpu_us:8.1f} us CPU/request"
                    f" {sample.requests_per_second:9.0f} requests/s  p99 {sample.p99_us / 1000:.1f} ms",
                    flush=True,
                )
    return samples


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of one proxy's CPU per request divided by another's in the same round, with the extremes."""

    median: float
    low: float
    high: float


def ratio(samples: Sequence[Sample], work: str, of: str, to: str) -> Ratio | None:
    """None when one of the two was not measured."""
    base = {sample.round: sample.cpu_us for sample in samples if (sample.proxy, sample.work) == (to, work)}
    per_round = [
        sample.cpu_us / base[sample.round]
        for sample in samples
        if (sample.proxy, sample.work) == (of, work) and base.get(sample.round)
    ]
    if not per_round:
        return None
    return Ratio(statistics.median(per_round), min(per_round), max(per_round))


def summary(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """One row per kind of load and proxy: medians over rounds, sums of what is counted, ratios to `COMPARED`."""
    rows: list[dict[str, object]] = []
    for work in dict.fromkeys(sample.work for sample in samples):
        for name in dict.fromkeys(sample.proxy for sample in samples if sample.work == work):
            own = [sample for sample in samples if (sample.proxy, sample.work) == (name, work)]
            ratios = {other: ratio(samples, work, name, other) for other in COMPARED}
            rows.append(
                {
                    "work": work,
                    "proxy": name,
                    "cpu_us": statistics.median(sample.cpu_us for sample in own),
                    "cpu_system_us": statistics.median(sample.cpu_system_us for sample in own),
                    "cpu_worker_us": statistics.median(sample.cpu_worker_us for sample in own),
                    "requests_per_second": statistics.median(sample.requests_per_second for sample in own),
                    "p50_us": statistics.median(sample.p50_us for sample in own),
                    "p99_us": statistics.median(sample.p99_us for sample in own),
                    "busy": statistics.median(sample.busy for sample in own),
                    "requests": sum(sample.requests for sample in own),
                    "errors": sum(sample.errors for sample in own),
                    "upstream_connections": sum(sample.upstream_connections for sample in own),
                    "log_lines": sum(sample.log_lines for sample in own),
                    "log_missing": sum(sample.log_missing for sample in own),
                    "ratio_to": {other: asdict(found) for other, found in ratios.items() if found},
                }
            )
    return rows
