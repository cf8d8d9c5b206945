"""Takes in what replicas write as they write it.

The kernel tells which files grew (inotify); one pass a moment later takes in all that grew, in a thread. Without
inotify (no instance left) all files are looked at ten times a second instead, and every two seconds in any case.
While nothing can be kept (a full disk) the raw files wait, bounded by `LogLimits.backlog`, and it is told once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from .inotify import Inotify
from .source import Intake, Source
from .store import LogStore

log = logging.getLogger(__name__)

_GATHER = 0.05  # seconds between being told and taking in: many writes, one pass
_SWEEP = 2.0
_SWEEP_UNTOLD = 0.1
_RETRY = 1.0

__all__ = ["Collector", "ReplicaLogs", "Source"]


class ReplicaLogs(Protocol):
    """What a driver that writes raw files needs of the log."""

    def add(self, source: Source) -> None:
        """Take in this replica's output from now on, from where it was left. Adding it again changes nothing."""
        ...

    async def finish(self, replica_id: str) -> None:
        """It writes no more: return once its last line is in the log, or can't be now and is tried again later."""
        ...


class Collector:
    """The collector of a node; `run` it for as long as replicas run, then `close` it."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._intakes: dict[str, Intake] = {}
        self._finished: dict[str, Intake] = {}  # ended, but the disk was full
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._watched: dict[int, str] = {}
        self._inotify = _inotify()
        self._dropped = 0
        self._sweep_at = 0.0
        self._stuck: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why lines are not being kept, while that is so."""
        return next(iter(self._stuck.values()), None)

    @property
    def dropped(self) -> int:
        """Bytes of output that were dropped since the collector began: replicas wrote faster than can be kept."""
        return self._dropped + sum(intake.dropped for intake in self._intakes.values())

    def add(self, source: Source) -> None:
        if source.replica_id in self._intakes or source.replica_id in self._finished:
            return
        self._intakes[source.replica_id] = Intake(source, self._store)
        self._watch(source)
        self._mark(source.replica_id)

    async def finish(self, replica_id: str) -> None:
        intake = self._intakes.pop(replica_id, None)
        if intake is None:
            return
        self._unwatch(replica_id)
        self._finished[replica_id] = intake
        await self._drain(replica_id, intake)

    async def run(self) -> None:
        """Take in lines until cancelled."""
        if self._inotify is not None:
            asyncio.get_running_loop().add_reader(self._inotify.descriptor, self._told, self._inotify)
        try:
            while True:
                await self._pause()
                await self._pass()
        finally:
            if self._inotify is not None:
                asyncio.get_running_loop().remove_reader(self._inotify.descriptor)

    async def close(self) -> None:
        """Take in what is there, whole lines only, and let go of the files."""
        for intake in self._intakes.values():
            while await self._take(intake):
                pass
        for intake in (*self._intakes.values(), *self._finished.values()):
            await asyncio.to_thread(intake.close)
        self._intakes.clear()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _watch(self, source: Source) -> None:
        if self._inotify is None:
            return
        try:
            for path in source.paths:
                self._watched[self._inotify.watch(path)] = source.replica_id
        except OSError as error:  # fs.inotify.max_user_watches: the sweep finds its lines
            log.warning("no inotify watch for the output of replica %s: %s", source.replica_id, error)

    def _unwatch(self, replica_id: str) -> None:
        for number in [number for number, name in self._watched.items() if name == replica_id]:
            del self._watched[number]
            if self._inotify is not None:
                self._inotify.unwatch(number)

    def _told(self, inotify: Inotify) -> None:
        changed = inotify.changed()
        for name in self._intakes if changed is None else (self._watched.get(number) for number in changed):
            if name is not None:
                self._mark(name)

    def _mark(self, replica_id: str) -> None:
        self._dirty[replica_id] = None
        self._wake.set()

    async def _pause(self) -> None:
        """Until something grew, or all are to be looked at anyway."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._sweep_at):
                await self._wake.wait()
                await asyncio.sleep(_RETRY if self._stuck else _GATHER)
        self._wake.clear()
        if loop.time() >= self._sweep_at:
            self._sweep_at = loop.time() + (_SWEEP if self._inotify is not None else _SWEEP_UNTOLD)
            self._dirty.update(dict.fromkeys(self._intakes))
            for name, intake in list(self._finished.items()):
                await self._drain(name, intake)

    async def _pass(self) -> None:
        """Take in a piece of each that grew, in turn, until nobody has more."""
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for name in dirty:
                intake = self._intakes.get(name)
                if intake is not None and await self._take(intake):
                    self._dirty[name] = None

    async def _drain(self, name: str, intake: Intake) -> None:
        while await self._take(intake, final=True):
            pass
        if name not in self._stuck and self._finished.pop(name, None) is not None:
            self._dropped += intake.dropped
            await asyncio.to_thread(self._ended, intake)

    def _ended(self, intake: Intake) -> None:
        intake.close()
        self._store.service(intake.source.service_id).ended(intake.source.replica_id)

    async def _take(self, intake: Intake, *, final: bool = False) -> bool:
        """Whether there may be more. What fails is tried again by the sweep."""
        name = intake.source.replica_id
        try:
            more = await asyncio.to_thread(intake.take, final=final)
        except FileNotFoundError:
            more = False  # the replica was forgotten before its first line
        except OSError as error:
            if not self._stuck:
                log.error("output of replicas is not being kept: %s; it waits in their raw files", error)
            self._stuck[name] = str(error)
            return False
        if self._stuck.pop(name, None) is not None and not self._stuck:
            log.warning("output of replicas is being kept again")
        return more


def _inotify() -> Inotify | None:
    try:
        return Inotify()
    except OSError as error:
        log.warning("no inotify: output of replicas is looked for ten times a second (%s)", error)
        return None
