"""Processes as the kernel shows them in /proc: who runs, since when, whose child, in which session.

A pid alone says nothing (it is used again); a process is known by pid *and* start time (law 4).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

_DEAD = frozenset("ZXx")
_STATUS = 4096  # bytes of /proc/PID/status that have its uids: the command's name comes before, and little else


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of /proc/PID/stat. `start` is in clock ticks since boot (field 22)."""

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    start: int

    @property
    def alive(self) -> bool:
        """A zombie is not: it holds nothing but its exit code."""
        return self.state not in _DEAD


def parse_stat(text: str) -> Stat:
    """Parse the line; the command's name in parentheses may hold anything. Raises `ValueError`."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if not head or len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    return Stat(
        pid=int(head.split("(", 1)[0]),
        state=fields[0],
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start=int(fields[19]),
    )


def read_stat(pid: int) -> Stat | None:
    """The process as it is now; `None` if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except (OSError, ValueError):
        return None


def alive(pid: int, start: int) -> bool:
    """Whether that very process still runs."""
    stat = read_stat(pid)
    return stat is not None and stat.start == start and stat.alive


def pids() -> Iterator[int]:
    """Of every process, zombies too."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def living() -> Iterator[Stat]:
    """Every process that is no zombie."""
    return (stat for pid in pids() if (stat := read_stat(pid)) is not None and stat.alive)


def uid_of(pid: int) -> int | None:
    """The effective uid, also of a process that made itself undumpable (its /proc directory then is root's).

    Asked of every process of the machine, so it does without the layers of `open`.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.read(descriptor, _STATUS)
        finally:
            os.close(descriptor)
        return int(status.partition(b"\nUid:")[2].split(None, 2)[1])
    except (OSError, IndexError, ValueError):
        return None


def environment(pid: int) -> dict[bytes, bytes]:
    """What the process was started with (or wrote over it); empty if it can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def kill(pid: int, start: int, number: signal.Signals) -> None:
    """Signal that very process and no later one that got its pid; nothing happens if it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if alive(pid, start):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Differs after each boot: pids and start times of another one mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
