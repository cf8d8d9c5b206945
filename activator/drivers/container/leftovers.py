"""Ending what Podman leaves of a build whose client left: the command of the step that was running goes on.

Seen with 4.3.1 (containers/podman#14523, containers/buildah#6786): the build ends, `RUN` runs on, a child of init. Each
build gets a control group of a name of ours, by which its processes are found in /proc and killed. Where control groups
can't be had (Podman of a user with version 1) none is found, and the step runs to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_ROUNDS = 50
_PAUSE = 0.02
_CGROUPS = Path("/sys/fs/cgroup")


def mark_of(node: str, build: int | None = None) -> str:
    """The name of a build's control group; without `build`, how those of all builds of the node begin.

    As a slice without a dash it is a good name for systemd, too.
    """
    return f"wakegatebuild{node}x" + ("" if build is None else f"{build}.slice")


async def end(mark: str) -> None:
    """Kill all processes in control groups whose names begin so, and remove the empty groups."""
    for _ in range(_ROUNDS):
        if not await asyncio.to_thread(_kill, mark):
            break
        await asyncio.sleep(_PAUSE)
    await asyncio.to_thread(_remove, mark)


def _kill(mark: str) -> bool:
    """Whether there were any."""
    pids = list(_processes(mark))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def _processes(mark: str) -> Iterator[int]:
    wanted = f"/{mark}"
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "cgroup").read_text():
                    yield int(entry.name)


def _remove(mark: str) -> None:
    """Where they are made: at the top of each hierarchy, or below the group that we are in ourselves."""
    own = {line.split(":", 2)[2].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()}
    tops = [_CGROUPS, *(path for path in _CGROUPS.glob("*") if path.is_dir())]
    for parent in (top / below for top in tops for below in {"", *own}):
        for group in parent.glob(f"{mark}*"):
            for path in (*sorted(group.glob("*/"), reverse=True), group):
                with contextlib.suppress(OSError):  # in use, or gone
                    path.rmdir()
