"""Ending all that a replica or a build started, also what left its session.

A process belongs to an owner (a live replica or build) by session, by descent, or by the environment that it was
started with: HOME and PORT together name one replica of this data directory. Whatever runs as a uid that is this
node's alone, or with a HOME of ours, and belongs to no live owner is a stray and is killed; so ending an owner is:
forget it, sweep. Where namespaces have uids of their own nothing escapes this. Otherwise a process that leaves its
session, loses its parent and wipes its environment does: it would need a cgroup, and the driver is for trusted code
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .procfs import Stat, environment, kill, pids, read_stat, uid_of

_ROUNDS = 50  # a process that forks faster than we look is looked for again this often


@dataclass(frozen=True, slots=True)
class Owner:
    """What may have processes: its first process, and what all of its processes find in their environment."""

    name: str
    pid: int
    start: int
    home: bytes
    port: bytes | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """A process that may be somebody's: `ours` = by uid or HOME it can only have been started by this driver."""

    stat: Stat
    ours: bool
    home: bytes | None
    port: bytes | None


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to look: `uids` are those of namespaces (not as root: our own), `exclusive` those that no other node of
    this machine uses, `homes` the directory of all HOMEs. The collections are read anew each time.
    """

    homes: Path
    uids: Collection[int] = ()
    exclusive: Collection[int] = ()

    def look(self) -> list[Sighting]:
        """Every process that could be of this driver. Takes about 10 µs for each process of the machine."""
        uids, exclusive = frozenset(self.uids), frozenset(self.exclusive)
        own, prefix = os.geteuid(), os.fsencode(self.homes) + b"/"
        sightings = []
        for pid in pids():
            uid = uid_of(pid)
            if uid in uids or (own != 0 and uid == own):
                stat = read_stat(pid)
                if stat is None or not stat.alive:
                    continue
                env = environment(pid)
                home = env.get(b"HOME")
                ours = uid in exclusive or (home is not None and home.startswith(prefix))
                sightings.append(Sighting(stat, ours, home, env.get(b"PORT")))
        return sightings


def assign(sightings: Iterable[Sighting], owners: Iterable[Owner]) -> dict[int, str | None]:
    """Pid to the owner's name, or to `None` for a stray; processes that are none of ours are left out. Pure."""
    sightings, owners = list(sightings), list(owners)
    parents = {sighting.stat.pid: sighting.stat for sighting in sightings}
    by_session = {owner.pid: owner for owner in owners if _leads(owner, parents)}
    by_environment = {(owner.home, owner.port): owner for owner in owners}

    def direct(sighting: Sighting) -> str | None:
        owner = by_session.get(sighting.stat.session)
        if owner is None and sighting.home is not None:
            owner = by_environment.get((sighting.home, sighting.port))
        return None if owner is None or sighting.stat.start < owner.start else owner.name

    found = {sighting.stat.pid: direct(sighting) for sighting in sightings}
    result: dict[int, str | None] = {}
    for sighting in sightings:
        name = _inherited(sighting.stat, found, parents)
        if name is not None or sighting.ours:
            result[sighting.stat.pid] = name
    return result


def _leads(owner: Owner, seen: Mapping[int, Stat]) -> bool:
    """Whether the session of that number is still the owner's: its leader ended, or is the same process."""
    leader = seen.get(owner.pid)
    return leader is None or leader.start == owner.start


def _inherited(stat: Stat, found: Mapping[int, str | None], parents: Mapping[int, Stat]) -> str | None:
    """The owner of the process or of its nearest ancestor that has one."""
    current: Stat | None = stat
    for _ in range(len(parents)):
        if current is None:
            return None
        if (name := found.get(current.pid)) is not None:
            return name
        current = parents.get(current.ppid)
    return None


class Sweeper:
    """Kills strays. `owners` gives the live ones at the moment of the decision, in the event loop.

    A look takes long where many processes run, and many replicas may end at once: looks are shared.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.owners: dict[str, Owner] = {}
        self._one_look = asyncio.Lock()
        self._asked = 0  # looks asked for so far
        self._newest = 0  # the newest look began when so many had been asked for…
        self._seen: list[Sighting] = []  # …and saw these

    async def _look(self) -> list[Sighting]:
        """What a look saw that began after this call: of one's own, or of another who had to wait for the same one."""
        self._asked += 1
        mine = self._asked
        async with self._one_look:
            if self._newest < mine:
                asked = self._asked
                self._seen = await asyncio.to_thread(self.scope.look)
                self._newest = asked
            return self._seen

    async def members(self, name: str) -> list[Stat]:
        """The processes of an owner."""
        sightings = await self._look()
        mine = assign(sightings, self.owners.values())
        return [sighting.stat for sighting in sightings if mine.get(sighting.stat.pid, "") == name]

    async def sweep(self, ended: Owner | None = None) -> None:
        """Kill what no live owner has, until nothing is left; also all that `ended` had.

        Looking happens in a thread, judging and killing in the loop: an owner that came meanwhile is known by then.
        """
        for _ in range(_ROUNDS):
            sightings = await self._look()
            strays = self._strays(sightings, ended)
            if not strays:
                return
            for stat in strays:
                kill(stat.pid, stat.start, signal.SIGKILL)
            await gone(strays, timeout=1.0)

    def _strays(self, sightings: Iterable[Sighting], ended: Owner | None) -> list[Stat]:
        owners = list(self.owners.values())
        if ended is not None:
            owners.append(ended)
        assigned = assign(sightings, owners)
        return [
            sighting.stat
            for sighting in sightings
            if sighting.stat.pid in assigned and assigned[sighting.stat.pid] not in self.owners
        ]


async def gone(processes: Iterable[Stat], timeout: float) -> bool:
    """Wait until all of them have ended; `False` if some have not when `timeout` seconds are over."""
    loop = asyncio.get_running_loop()
    waiting: dict[int, asyncio.Event] = {}
    try:
        for process in processes:
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(process.pid)
                waiting[descriptor] = ended = asyncio.Event()
                loop.add_reader(descriptor, ended.set)
        async with asyncio.timeout(timeout):
            for ended in waiting.values():
                await ended.wait()
    except TimeoutError:
        return False
    finally:
        for descriptor in waiting:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return True
