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

_WATCH = 30.0  # seconds in which a step may still begin after its build was ended: seen on a busy machine
_PAUSE = 0.25
_ROUNDS = 20  # a process that can't be killed is not waited for longer
_CGROUPS = Path("/sys/fs/cgroup")


class Leftovers:
    """Of the builds of one node: `begin` one, tell when it is `over`; `close` at the end."""

    def __init__(self, node: str) -> None:
        self._prefix = f"wakegatebuild{node}x"  # as a slice without a dash it is a good name for systemd, too
        self._begun = 0
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """End what the builds of an earlier control left. Raises `OSError`."""
        await end(self._prefix)

    def begin(self) -> str:
        """The name of a new build's control group."""
        self._begun += 1
        return f"{self._prefix}{self._begun}.slice"

    def over(self, group: str, *, ended: bool) -> None:
        """The build is done, or was `ended` before: then it is looked for what begins all the same."""
        task = asyncio.get_running_loop().create_task(_watch(group, _WATCH if ended else 0.0))
        self._watching[group] = task
        task.add_done_callback(lambda _: self._watching.pop(group, None))

    async def close(self) -> None:
        """What begins from now on is for the next `open`."""
        watching = dict(self._watching)
        for task in watching.values():
            task.cancel()
        await asyncio.gather(*watching.values(), return_exceptions=True)
        for group in watching:
            await end(group)


async def _watch(group: str, seconds: float) -> None:
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    await end(group)
    while now() < deadline:
        await asyncio.sleep(_PAUSE)
        await end(group)


async def end(mark: str) -> None:
    """Kill all processes in control groups whose names begin so, and remove the empty groups."""
    for _ in range(_ROUNDS):
        if not await asyncio.to_thread(_kill, mark):
            break
        await asyncio.sleep(_PAUSE)
    await asyncio.to_thread(_remove, mark)


def _kill(mark: str) -> bool:
    """Whether any was killed; what is another user's is left alone."""
    killed = False
    for pid in list(_processes(mark)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed = True
    return killed


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
