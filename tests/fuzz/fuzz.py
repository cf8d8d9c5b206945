"""`make fuzz`: coverage-guided fuzzing of the data plane with atheris (libFuzzer), and the replay of what was found.

    python tests/fuzz/fuzz.py                      all targets in turn, for --seconds
    python tests/fuzz/fuzz.py plane                one of them
    python tests/fuzz/fuzz.py plane --replay FILE  one input, without atheris

The code that is fuzzed is that of the tree in which this file lies. Exits 1 if something was found.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
sys.path[:0] = [str(TREE), str(TREE / "tests" / "gateway"), str(HERE)]

WEIGHTS = {"plane": 5}  # of the time; others count once
SLICE = 4.0  # seconds of weight one at a time, so that each target gets its turn early
LONGEST = {"plane": 500}  # bytes of an input
LONGEST_OTHER = 600
FOUND = 77  # how libFuzzer exits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", default="all")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--corpus", type=Path, default=TREE / ".fuzz" / "corpus", help="kept and grown from run to run")
    parser.add_argument("--found", type=Path, default=TREE / ".fuzz" / "found", help="where inputs that fail are put")
    parser.add_argument("--replay", type=Path, nargs="+", help="inputs to run once, without atheris")
    parser.add_argument("--brief", action="store_true", help="of a replay that fails, only why")
    parser.add_argument("--seed", type=int, default=0, help="of the dice; 0: any")
    parser.add_argument("--slice", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        return max(replay(options.target, path, options.brief) for path in options.replay)
    if options.slice:
        run_slice(options)
        return 0
    return campaign(options)


def replay(name: str, path: Path, brief: bool) -> int:
    """Run one input and show it; 1 if it fails."""
    import memory_plane
    import targets

    function, _ = targets.TARGETS[name]
    data = path.read_bytes()
    with memory_plane.staged():
        try:
            function(data)
        except Exception:
            import traceback

            smaller = data if brief else minimize(name, data)
            if len(smaller) < len(data):
                path = path.with_name(path.name + ".min")
                path.write_bytes(smaller)
                print(f"the same in fewer words: {path}\n")
            if not brief:
                show(name, smaller)
            traceback.print_exc()
            return 1
    print(f"{path}: nothing wrong")
    return 0


def minimize(name: str, data: bytes) -> bytes:
    """`data` with all records, or bytes, taken out without which it fails in the same way."""
    import program
    import targets

    mark = program.MARK if name == "plane" else b""
    parts = data.split(mark) if mark else [data[at : at + 1] for at in range(len(data))]
    function, _ = targets.TARGETS[name]

    def complaint(parts: list[bytes]) -> str:
        try:
            function(mark.join(parts))
        except Exception as error:
            return f"{type(error).__name__} {str(error).partition(':')[0][:60]}"
        return ""

    wanted = complaint(parts)
    size = len(parts) // 2
    while size and wanted:
        at = 0
        while at < len(parts):
            fewer = parts[:at] + parts[at + size :]
            if complaint(fewer) == wanted:
                parts = fewer
            else:
                at += size
        size //= 2
    return mark.join(parts)


def show(name: str, data: bytes) -> None:
    """An input for people."""
    import plane_oracles
    import program

    if name != "plane":
        print(repr(data))
        return
    print(program.decode(data))
    plane = program.stage()
    try:
        program.perform(plane, data)
    except Exception:
        print(plane_oracles.describe(plane))


class Tally:
    """What the slices of one target have come to."""

    def __init__(self) -> None:
        self.executions = 0
        self.coverage = self.features = self.corpus = 0
        self.seconds = 0.0

    def add(self, output: str, seconds: float) -> None:
        self.seconds += seconds
        found = re.findall(r"^#(\d+)\t.*?cov: (\d+) ft: (\d+) corp: (\d+)", output, re.MULTILINE)
        if found:
            executions, coverage, features, corpus = (int(one) for one in found[-1])
            self.executions += executions
            self.coverage = max(self.coverage, coverage)
            self.features, self.corpus = max(self.features, features), corpus

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0
        return (
            f"{self.executions:,} executions ({rate:,.0f}/s), {self.coverage} edges, {self.features} features, "
            f"{self.corpus} inputs"
        )


def campaign(options: argparse.Namespace) -> int:
    """All targets in turn until the time is over or something was found."""
    import targets

    names = list(targets.TARGETS) if options.target == "all" else [options.target]
    tallies = {name: Tally() for name in names}
    began = time.monotonic()
    factor = 1.0
    while (left := options.seconds - (time.monotonic() - began)) > 0.5:
        for name in names:
            left = options.seconds - (time.monotonic() - began)
            if left < 0.5:
                break
            seconds = left if len(names) == 1 else min(SLICE * WEIGHTS.get(name, 1) * factor, left)
            if not fuzz_for(name, seconds, options, tallies[name]):
                print(f"found after {time.monotonic() - began:.1f} s")
                return 1
            print(f"{name:14} {tallies[name]}", flush=True)
        factor = min(factor * 2, 16.0)  # starting a slice costs a second or two
    print(f"nothing found in {time.monotonic() - began:.0f} s")
    return 0


def fuzz_for(name: str, seconds: float, options: argparse.Namespace, tally: Tally) -> bool:
    """One process of libFuzzer; False if it found something, which is then shown."""
    options.found.mkdir(parents=True, exist_ok=True)
    corpus = options.corpus / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "fuzz.py"), name, "--slice", str(seconds), "--seed", str(options.seed)]
    command += ["--corpus", str(options.corpus), "--found", str(options.found)]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=TREE)
    output = done.stdout.decode("utf-8", "backslashreplace")
    tally.add(output, time.monotonic() - began)
    if done.returncode == 0:
        return True
    written = re.search(r"Test unit written to (\S+)", output)
    if written is None:
        print(output[-8000:])
        return False
    path = Path(written[1])
    print(f"{name}: {tally}")
    if subprocess.run([sys.executable, str(HERE / "fuzz.py"), name, "--replay", str(path)], cwd=TREE).returncode == 0:
        print(output[-8000:])  # too slow, or too large: only libFuzzer can tell
    print(f"\nreproduce with:\n  {sys.executable} tests/fuzz/fuzz.py {name} --replay {path}")
    return False


def run_slice(options: argparse.Namespace) -> None:
    """In a process of its own: atheris takes it over and never comes back."""
    import atheris

    with atheris.instrument_imports(include=["gateway", "activator"]):
        import memory_plane
        import targets
    import gc

    import mutation
    import seeds as own_seeds

    name = options.target
    function, seeds = targets.TARGETS[name]
    corpus = options.corpus / name
    for seed in seeds:
        (corpus / ("seed-" + hashlib.sha1(seed, usedforsecurity=False).hexdigest())).write_bytes(seed)
    dictionary = options.corpus / "http.dict"
    dictionary.write_text(dictionary_text(name))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={max(1, round(options.slice))}",
        f"-max_len={LONGEST.get(name, LONGEST_OTHER)}",
        f"-artifact_prefix={options.found}/{name}-",
        f"-dict={dictionary}",
        f"-seed={options.seed}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-reload=0",
        "-len_control=0",
    ]
    # `atheris.Mutate` is another function once it fuzzes.
    mutator = mutation.Mutator(own_seeds.PLANE, lambda data, limit: atheris.Mutate(data, limit))
    more = {"custom_mutator": mutator} if name == "plane" else {}
    staged = memory_plane.staged()
    staged.__enter__()
    gc.freeze()
    atheris.Setup(arguments, function, **more)
    atheris.Fuzz()


@functools.cache
def dictionary_text(name: str) -> str:
    """The pieces as libFuzzer's dictionary; programs have them as single bytes."""
    import program

    words = [b"\xff", b"\xffr", b"\xffc"] if name == "plane" else [piece for piece in program.PIECES if len(piece) < 60]
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words)


if __name__ == "__main__":
    sys.exit(main())
