"""`python -m bench`: run what was asked for, print the tables, write the JSON."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench import analytics, api, held, logs, machine, memory, report, slots, throughput, wake
from bench.backend import Backend
from bench.connections import raise_file_limit
from bench.load import WORKS
from bench.peers import PEERS, Proxy
from bench.process import BenchError
from bench.product import Form, Product, backend_files, backend_service, forms

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("throughput", "memory", "held", "slots", "wake", "api", "logs", "analytics")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the throughput part")
    parser.add_argument("--seconds", type=float, default=5, help="load per proxy, body and round")
    parser.add_argument("--works", default=",".join(WORKS), help="comma-separated loads of the throughput part")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; empty for none")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated parts of {','.join(PARTS)}")
    parser.add_argument("--held", type=int, default=held.HELD, help="requests that one worker holds at once")
    parser.add_argument("--services", type=int, default=10, help="services that wake side by side in the wake report")
    parser.add_argument("--wakes", type=int, default=5, help="wakes of each")
    parser.add_argument("--stored", type=int, default=10_000, help="services in the store of the API's figures")
    parser.add_argument("--without-wakegate", action="store_true", help="the peers alone")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds, few wakes")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="where the JSON goes")
    parser.add_argument("--into", type=Path, help="a Markdown file whose part between the figures' marks is replaced")
    chosen = parser.parse_args()
    if unknown := set(chosen.works.split(",")) - WORKS.keys():
        parser.error(f"--works: no such load: {', '.join(sorted(unknown))}")
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.services, chosen.wakes = 1, min(2, chosen.seconds), 4, 1
        chosen.stored, chosen.held = min(1000, chosen.stored), min(1000, chosen.held)
    return chosen


def measure_throughput(run: "Run") -> dict[str, object]:
    """Start every proxy that is there, load them in turn."""
    with ExitStack() as stack:
        backend = Backend(run.directory / "backend", run.cores.load)
        stack.callback(backend.stop)
        proxies = run.start_peers(stack, backend, run.chosen.peers.split(","))
        for form in run.forms:
            product = Product(form, run.directory / f"throughput-{form.command.parent.parent.name}", run.cores.proxy)
            stack.callback(product.stop)
            product.deploy("nginx", backend_files(run.cores.load), **backend_service())
            proxies.append(product.proxy("nginx"))
        if not proxies:
            raise BenchError("nothing to measure")
        works = [WORKS[name] for name in run.chosen.works.split(",")]
        samples = throughput.interleaved(proxies, works, run.chosen.rounds, run.chosen.seconds, run.cores)
    versions = {proxy.name: proxy.version for proxy in proxies}
    rows = throughput.summary(samples)
    run.show(report.throughput_table(rows, versions))
    return {"rows": rows, "samples": [asdict(sample) for sample in samples], "versions": versions}


def measure_memory(run: "Run") -> dict[str, object]:
    """Idle connections in each form and in nginx, held requests in each form; every figure on fresh processes."""
    costs: list[memory.Cost] = []
    released: dict[str, object] = {}
    with ExitStack() as stack:
        backend = Backend(run.directory / "memory-backend", run.cores.load)
        stack.callback(backend.stop)
        compared = run.start_peers(stack, backend, ["nginx"] if "nginx" in run.chosen.peers else [])
        costs += [memory.idle_connections(proxy, run.idle) for proxy in compared]
    for form in run.forms:
        product = Product(form, run.directory / f"idle-{form.command.parent.parent.name}", run.cores.proxy)
        try:
            product.deploy("nginx", backend_files(run.cores.load), **backend_service())
            costs.append(memory.idle_connections(product.proxy("nginx"), run.idle))
        finally:
            product.stop()
        directory = run.directory / f"held-{form.command.parent.parent.name}"
        cost, released[form.name] = memory.held_requests(form, directory, run.cores, memory.HELD)
        costs.append(cost)
    rows = [asdict(cost) for cost in costs]
    run.show(report.memory_table(rows))
    print(f"held requests released: {released}\n", flush=True)
    return {"rows": rows, "released": released}


def measure_held(run: "Run") -> dict[str, object]:
    """The first form only: compiled where there is one."""
    if not run.forms:
        return {}
    rows = held.report(run.forms[0], run.directory / "queue", run.cores.proxy, run.chosen.held)
    run.show(held.table(rows))
    return {"rows": [asdict(row) for row in rows]}


def measure_slots(run: "Run") -> dict[str, object]:
    """The first form only: compiled where there is one."""
    if not run.forms:
        return {}
    told = slots.measured(run.forms[0], run.directory / "slots", run.cores, run.chosen.rounds, run.chosen.seconds)
    run.show(slots.table(told))
    return told


def measure_wake(run: "Run") -> dict[str, object]:
    """The first form only: compiled where there is one."""
    if not run.forms:
        return {}
    told = wake.report(run.forms[0], run.directory / "wake", run.chosen.services, run.chosen.wakes)
    run.show(report.distribution_table("wake", "ms", told["milliseconds"]))  # type: ignore[arg-type]
    print(f"CPU ms per wake, 0-10 s of health checks included: {told['cpu_milliseconds_per_wake']}", flush=True)
    print(f"cold start by phase: {told['cold_start_seconds_by_phase']}\n", flush=True)
    return told


def measure_api(run: "Run") -> dict[str, object]:
    """The first form only: the API is not compiled."""
    if not run.forms:
        return {}
    told = api.report(run.forms[0], run.directory / "api", run.chosen.stored)
    run.show(api.table(told))
    return told


def measure_logs(run: "Run") -> dict[str, object]:
    """The first form only: logs are not compiled."""
    if not run.forms:
        return {}
    told = logs.report(run.forms[0], run.directory / "logs")
    run.show(logs.table(told))
    return told


def measure_analytics(run: "Run") -> dict[str, object]:
    """The first form only: its hot modules are no part of this."""
    if not run.forms:
        return {}
    told = analytics.report(run.forms[0], run.directory / "analytics")
    run.show(analytics.table(told))
    return told


class Run:
    """One run: what was chosen, where its files are, which proxies there are and which are missing."""

    def __init__(self, chosen: argparse.Namespace, directory: Path) -> None:
        self.chosen = chosen
        self.directory = directory
        self.cores = machine.choose_cores()
        self.forms: list[Form] = [] if chosen.without_wakegate else forms(ROOT)
        self.missing: dict[str, str] = {}
        self.tables: list[str] = []
        self.idle = min(memory.IDLE, raise_file_limit() - 1000)

    def show(self, table: str) -> None:
        """Print a table, and keep it for `--into`."""
        self.tables.append(table)
        print(f"\n{table}\n", flush=True)

    def start_peers(self, stack: ExitStack, backend: Backend, names: list[str]) -> list[Proxy]:
        """Start the named peers; those that can't be are named as missing."""
        proxies = []
        for name in filter(None, names):
            try:
                proxy = PEERS[name].start(self.directory / f"{name}-{backend.port}", backend.port, self.cores.proxy)
            except BenchError as error:
                print(f"missing: {error}", flush=True)
                self.missing[name] = str(error)
            else:
                stack.callback(proxy.stop)
                proxies.append(proxy)
        return proxies


def main() -> int:
    chosen = arguments()
    parts: dict[str, Callable[[Run], dict[str, object]]] = {
        "throughput": measure_throughput,
        "memory": measure_memory,
        "held": measure_held,
        "slots": measure_slots,
        "wake": measure_wake,
        "api": measure_api,
        "logs": measure_logs,
        "analytics": measure_analytics,
    }
    with tempfile.TemporaryDirectory(prefix="wgbench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        run = Run(chosen, directory)
        results: dict[str, object] = {"machine": machine.describe(run.cores), "other_work": machine.other_work()}
        results["forms"] = {form.name: form.compiled_modules() for form in run.forms}
        print(f"{results['machine']}\nother work on this machine: {results['other_work']:.2f} cores", flush=True)
        print(f"wakegate, compiled modules of the data plane: {results['forms']}\n", flush=True)
        for part in filter(None, chosen.only.split(",")):
            results[part] = parts[part](run)
        results["missing"] = run.missing
    if chosen.into:
        report.write_into(chosen.into, results, run.tables)
    print(f"written: {report.save(results, chosen.results)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
