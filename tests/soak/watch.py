"""What the processes of a node use while it is under load, and how that is judged.

Memory: the resident set of each process, once a second. Judged over the time after the warm-up, for processes that
lived through all of it: the medians of 60 equal spans are put in order, and the slope is the median of the slopes
between all pairs of them (Theil and Sen: single peaks don't count). Flat means that the slope, over the time judged,
comes to less than 4 MiB or 5 % of the process, whichever is more. Runs with less than 200 s to judge are too short:
they report and don't judge.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

MIB = 1024 * 1024
SPANS = 60
JUDGED = 200.0  # seconds
GROWTH = 4 * MIB
SHARE = 0.05


@dataclass
class Process:
    """`samples`: (seconds since the start, resident bytes, open descriptors)."""

    role: str
    pid: int
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def memory(self) -> list[tuple[float, int]]:
        return [(at, resident) for at, resident, _ in self.samples]


class Watch:
    """`look` at all of them each second."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}

    def look(self, at: float, pids: Mapping[str, Sequence[int]]) -> None:
        for role, some in pids.items():
            for pid in some:
                found = usage(pid)
                if found is not None:
                    self.processes.setdefault(pid, Process(role, pid)).samples.append((at, *found))

    def lived_through(self, begin: float, end: float) -> list[Process]:
        return [
            one for one in self.processes.values() if one.samples[0][0] <= begin + 2 and one.samples[-1][0] >= end - 2
        ]


def usage(pid: int) -> tuple[int, int] | None:
    """(resident bytes, open descriptors); None: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        resident = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        return (int(resident[1]) * 1024, len(os.listdir(f"/proc/{pid}/fd"))) if resident else None
    except OSError:
        return None


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen: units per second; 0 for less than two points."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 > x1]
    return statistics.median(slopes) if slopes else 0.0


def spans(points: Sequence[tuple[float, int]], begin: float, end: float) -> list[tuple[float, float]]:
    """The medians of `SPANS` equal spans of time, those without a point left out."""
    width = (end - begin) / SPANS
    gathered: dict[int, list[int]] = {}
    for at, value in points:
        if begin <= at < end:
            gathered.setdefault(int((at - begin) / width), []).append(value)
    return [(begin + (span + 0.5) * width, statistics.median(some)) for span, some in sorted(gathered.items())]


@dataclass(frozen=True)
class Trend:
    """Of one process over the time judged; bytes."""

    process: Process
    first: float
    last: float
    growth: float  # the slope over the time judged

    @property
    def flat(self) -> bool:
        return self.growth < max(GROWTH, SHARE * self.first)

    def __str__(self) -> str:
        one = self.process
        numbers = f"{self.first / MIB:8.1f} -> {self.last / MIB:6.1f} MiB, slope {self.growth / MIB:+6.2f} MiB"
        return f"{one.role:14} {one.pid:7} {numbers}"


def trends(processes: Iterable[Process], begin: float, end: float) -> list[Trend]:
    found = []
    for one in processes:
        points = spans(one.memory, begin, end)
        if points:
            found.append(Trend(one, points[0][1], points[-1][1], slope(points) * (end - begin)))
    return sorted(found, key=lambda trend: trend.process.role)


def samples(text: str) -> dict[str, float]:
    """Every sample of a Prometheus text by its name with labels."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
