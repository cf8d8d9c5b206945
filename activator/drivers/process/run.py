"""Running one command of a build to its end: output line by line, a deadline, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from activator.drivers import BuildLog

from .spawn import Command, Process, spawn
from .sweep import Owner, Sweeper

_CHUNK = 64 * 1024
_MAX_LINE = 16 * 1024
_TAIL = 20
_LAST_OUTPUT = 2.0  # seconds for what is still in the pipe once the command has ended


@dataclass(frozen=True, slots=True)
class Finished:
    """How it ended; `tail` are its last lines (20 at most)."""

    code: int | None
    signal: int | None
    tail: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.tail) if line.strip()), "")

    def __str__(self) -> str:
        return f"ended by signal {self.signal}" if self.signal is not None else f"exit code {self.code}"


class Lines:
    """Bytes in any pieces to whole lines; a line longer than 16 KiB comes in parts."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [part for line in whole for part in _parts(line)]
        while len(self._rest) > _MAX_LINE:
            lines.append(self._rest[:_MAX_LINE])
            self._rest = self._rest[_MAX_LINE:]
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _parts(line: bytes) -> Sequence[bytes]:
    return [line[at : at + _MAX_LINE] for at in range(0, len(line), _MAX_LINE)] or [b""]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


class Runner:
    """Runs build commands; each is an owner of the sweeper while it lives."""

    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper
        self._runs = 0

    async def run(self, command: Command, timeout: float, log: BuildLog | None = None) -> Finished:
        """Run it to its end. Raises `TimeoutError` (it is killed then), `OSError`; cancelling kills it too."""
        read_end, write_end = os.pipe()
        if command.who.uid is not None:
            os.fchown(write_end, command.who.uid, command.who.uid)  # it may open /dev/stdout by name
        try:
            return await self._watched(command, timeout, log, read_end, write_end)
        finally:
            os.close(read_end)

    async def _watched(
        self, command: Command, timeout: float, log: BuildLog | None, read_end: int, write_end: int
    ) -> Finished:
        try:
            process = self._start(command, write_end)
        finally:
            os.close(write_end)
        owner = self._own(process, command)
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            async with asyncio.timeout(timeout):
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(_pump(read_end, tail, log))
                    await process.ended()
                    await asyncio.wait([reading], timeout=_LAST_OUTPUT)
                    reading.cancel()  # something that it left behind still holds the pipe
            return Finished(*process.reap(), tuple(tail))
        finally:
            await asyncio.shield(self._end(owner, process))

    def _start(self, command: Command, output: int) -> Process:
        # nobody adopts a build: what an earlier control left of one is found by its HOME, so nothing is recorded
        record = os.open(os.devnull, os.O_WRONLY)
        try:
            return spawn(command, record=record, stdout=output, stderr=output)
        finally:
            os.close(record)

    def _own(self, process: Process, command: Command) -> Owner:
        self._runs += 1
        home = os.fsencode(command.env["HOME"])
        owner = Owner(f"build {self._runs}", process.pid, process.start, home, port=None)
        self._sweeper.owners[owner.name] = owner
        return owner

    async def _end(self, owner: Owner, process: Process) -> None:
        del self._sweeper.owners[owner.name]
        await self._sweeper.sweep(owner)
        process.close()


async def _pump(descriptor: int, tail: deque[str], log: BuildLog | None) -> None:
    """Hand on lines as they come until the pipe ends; the log may block, so it is called in a thread.

    Not by `connect_read_pipe`: uvloop closes the descriptor twice, and the second time it may be another thread's by
    then (MagicStack/uvloop#763: seen here as a manifest that was "not a directory").
    """
    lines = Lines()
    os.set_blocking(descriptor, False)
    try:
        while data := await _read(descriptor):
            await _tell(lines.feed(data), tail, log)
    finally:
        await _tell(lines.end(), tail, log)


async def _read(descriptor: int) -> bytes:
    """What the pipe has, once it has something; nothing at its end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK)


async def _tell(lines: Sequence[str], tail: deque[str], log: BuildLog | None) -> None:
    tail.extend(lines)
    if lines and log is not None:
        await asyncio.to_thread(log, lines)
