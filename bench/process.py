"""Processes of the benchmark: started pinned to a core, measured through /proc, ended by their id."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")  # microseconds


class BenchError(Exception):
    """The benchmark can't go on; the message says what is wrong."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    """Poll `condition` until it holds; BenchError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.02)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(slots=True)
class Running:
    """A started process and all its descendants."""

    process: subprocess.Popen[bytes]
    errors: Path

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        core: int | None,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        errors: Path | None = None,
    ) -> "Running":
        """Start `command`, pinned to `core` if one is given; `output` (and `errors`, if named) get what it prints."""
        with output.open("ab") as out, (errors or output).open("ab") as err:
            process = subprocess.Popen(
                [*(["taskset", "-c", str(core)] if core is not None else []), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        return cls(process, errors or output)

    def check(self) -> None:
        """BenchError with the end of what it wrote if it has ended."""
        if self.process.poll() is not None:
            tail = self.errors.read_bytes()[-2000:].decode(errors="replace")
            arguments = self.process.args
            shown = arguments if isinstance(arguments, str) else shlex.join(map(str, arguments))  # type: ignore[arg-type]
            raise BenchError(f"{shown} ended with {self.process.returncode}:\n{tail}")

    def wait_for_port(self, port: int, timeout: float = 30.0) -> None:
        def up() -> bool:
            self.check()
            return listening(port)

        wait_until(up, f"a listener on port {port}", timeout)

    def tree(self) -> list[int]:
        """Ids of the process and of every descendant alive."""
        return descendants(self.process.pid)

    def stop(self, timeout: float = 20.0) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                for pid in self.tree():
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()


def descendants(root: int) -> list[int]:
    """`root` and every process below it, by parent id."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None:
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, frontier = [], [root]
    while frontier:
        pid = frontier.pop()
        found.append(pid)
        frontier += children.get(pid, [])
    return found


def command_line(pid: int) -> str:
    """The command line, spaces between arguments; empty for a process that has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Cpu:
    """Microseconds of CPU time in user mode and in the kernel (resolution: one clock tick, 10,000)."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user - other.user, self.system - other.system)


def cpu(pids: Sequence[int]) -> Cpu:
    """What `pids` have used so far."""
    stats = [stat for stat in map(_stat, pids) if stat is not None]
    return sum((Cpu(int(stat[11]) * TICK, int(stat[12]) * TICK) for stat in stats), Cpu())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: resident, and those that no other process shares."""

    rss: int
    uss: int


def memory(pid: int) -> Memory:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) * 1024
    return Memory(rss=fields["Rss"], uss=fields["Private_Clean"] + fields["Private_Dirty"])


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (index 0 = state, 1 = parent, 11 = utime, 12 = stime)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
