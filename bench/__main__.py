"""`python -m bench`: run what was asked for, print the tables, write the JSON."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import machine, report, throughput
from bench.backend import Backend
from bench.peers import PEERS, Proxy
from bench.process import BenchError

PARTS = ("throughput",)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the throughput part")
    parser.add_argument("--seconds", type=float, default=5, help="load per proxy, body and round")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; empty for none")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated parts of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds = 1, 2
    return chosen


def measure_throughput(chosen: argparse.Namespace, directory: Path, cores: machine.Cores) -> dict[str, object]:
    """Start the backend and every proxy that is there, load them in turn."""
    missing: list[str] = []
    with ExitStack() as stack:
        backend = Backend(directory / "backend", cores.load)
        stack.callback(backend.stop)
        proxies: list[Proxy] = []
        for name in filter(None, chosen.peers.split(",")):
            try:
                proxies.append(PEERS[name].start(directory / name, backend.port, cores.proxy))
            except BenchError as error:
                print(f"missing: {error}", flush=True)
                missing.append(name)
            else:
                stack.callback(proxies[-1].stop)
        if not proxies:
            raise BenchError("nothing to measure")
        samples = throughput.interleaved(proxies, chosen.rounds, chosen.seconds, cores)
        versions = {proxy.name: proxy.version for proxy in proxies}
    rows = throughput.summary(samples)
    print("\n" + report.throughput_table(rows, versions) + "\n", flush=True)
    return {"rows": rows, "samples": [vars_of(sample) for sample in samples], "versions": versions, "missing": missing}


def vars_of(sample: throughput.Sample) -> dict[str, object]:
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}


def main() -> int:
    chosen = arguments()
    cores = machine.choose_cores()
    results: dict[str, object] = {"machine": machine.describe(cores), "other_work": machine.other_work()}
    print(f"{results['machine']}\nother work on this machine: {results['other_work']:.2f} cores\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="wgbench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        results["throughput"] = measure_throughput(chosen, directory, cores)
    print(f"written: {report.save(results, chosen.results)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
