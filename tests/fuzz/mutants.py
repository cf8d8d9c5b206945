"""`make fuzz-mutants`: is what the fuzzer looks for really found? Each planted bug, in a copy of the tree of its own.

A mutant is a patch in `mutants/`; its first line says what is broken. The fuzzer gets the seeds and nothing else: what
was saved in `reproducers/` is not shown to it. Exits 1 if a bug was not found in time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
COPIED = ("gateway", "activator", "state", "certs", "tests/fuzz", "tests/gateway", "tests/wire")


def patches() -> list[Path]:
    return sorted((HERE / "mutants").glob("*.patch"))


def copy_tree(to: Path, patch: Path | None) -> None:
    """What the fuzzer needs of the tree, with a bug planted. Raises CalledProcessError if the patch doesn't apply."""
    ignored = shutil.ignore_patterns("*.so", ".hypothesis", "*.pyc.*")  # the last: being written
    for name in COPIED:
        shutil.copytree(TREE / name, to / name, ignore=ignored)
    if patch is not None:
        apply(patch, to)


def apply(patch: Path, tree: Path, *options: str) -> None:
    """One line of context is enough, wherever it has moved to."""
    command = ["git", "apply", "-C1", "--recount", *options, str(patch)]
    environment = {"GIT_CEILING_DIRECTORIES": str(tree.parent), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True)


def title(patch: Path) -> str:
    return patch.read_text().partition("\n")[0]


def target_of(path: Path) -> str:
    """The files that libFuzzer writes begin with it."""
    return re.split(r"-(?:crash|timeout|oom|slow)", path.name)[0]


def shown_by(path: Path) -> str:
    """The target of an input that was kept: `<mutant>.input-<target>`."""
    return path.name.partition(".input-")[2]


def fails_without(path: Path) -> bool:
    """Does this input fail in the tree as it is?"""
    command = [sys.executable, "tests/fuzz/fuzz.py", target_of(path), "--replay", str(path), "--brief"]
    return subprocess.run(command, cwd=TREE, capture_output=True).returncode != 0


def complaint(output: str) -> str:
    """The last line of the traceback."""
    lines = [line for line in output.splitlines() if re.match(r"[\w.]*(Wrong|Error|Broken|Short|IllegalStep)\b", line)]
    return lines[-1][:200] if lines else output[-300:]


def hunt(patch: Path, seconds: float, keep: Path | None) -> tuple[float | None, str]:
    """Seconds until it was found, and by what; None: it was not, and why."""
    with tempfile.TemporaryDirectory(prefix="wakegate-mutant-") as directory:
        tree = Path(directory)
        copy_tree(tree, patch)
        command = [sys.executable, "tests/fuzz/fuzz.py", "--seconds", str(seconds)]
        began = time.monotonic()
        done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        took = time.monotonic() - began
        if done.returncode == 0:
            return None, f"not in {seconds:.0f} s"
        output = done.stdout.decode("utf-8", "backslashreplace")
        found = re.search(r"--replay (\S+)", output)
        said = complaint(output)
        if found is not None and fails_without(Path(found[1])):
            return None, f"what it found is wrong without the bug, too: {said}"
        if keep is not None and found is not None:
            path = Path(found[1])
            smaller = path.with_name(path.name + ".min")
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(smaller if smaller.exists() else path, keep / f"{patch.stem}.input-{target_of(path)}")
        return took, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="only those whose file names begin so")
    parser.add_argument("--seconds", type=float, default=300.0, help="for each")
    parser.add_argument("--keep", type=Path, help="where to put what found them")
    options = parser.parse_args()
    missed = 0
    for patch in patches():
        if options.names and not patch.name.startswith(tuple(options.names)):
            continue
        took, how = hunt(patch, options.seconds, options.keep)
        if took is None:
            missed += 1
            print(f"{patch.stem:28} NOT FOUND ({how}): {title(patch)}", flush=True)
        else:
            print(f"{patch.stem:28} {took:6.1f} s  {how}", flush=True)
    print("all found" if not missed else f"{missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
