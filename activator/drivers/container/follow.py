"""Takes a container's output over from the engine into the raw files of which the log collector takes it.

Law 4: control may be killed at any line without a line lost or doubled. Engines tell no position to go on from, only
times, some to the second, and not quite in order. So the raw files are the truth of what was taken: a checkpoint says
how large they were when so many pieces of the newest seconds had come; whatever they grew since is skipped when the
engine tells the same pieces again, in the same order.

Law 7: a piece is read only when the one before it is on disk, so what is not taken yet waits in the engine's bounded
log. Reading pieces apart is done in a thread: a replica that writes 20,000 lines per second does not stop the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from activator.drivers.files import read_regular, write_whole

from .engine import Engine, EngineError

log = logging.getLogger(__name__)

_STREAMS = {1: "stdout", 2: "stderr"}
_HEADER = 8  # bytes: the stream, 3 zeros, the length
_LONGEST = 64 * 1024 * 1024  # bytes in a piece; engines cut lines at 16 KiB
_WINDOW = 2  # seconds: pieces of both streams may be told this much out of order
_RECORD = 1.0  # seconds between checkpoints on disk
_RETRY = 1.0
_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Pieces younger than the second `since` of which `count` have been taken, and the raw files' sizes by then."""

    since: int = 0
    count: int = 0
    newest: int = 0
    sizes: Mapping[int, int] = field(default_factory=lambda: dict.fromkeys(_STREAMS, 0))

    def encode(self) -> bytes:
        return json.dumps([self.since, self.count, self.newest, *(self.sizes[number] for number in _STREAMS)]).encode()

    @classmethod
    def decode(cls, content: bytes | None) -> Checkpoint:
        """Of nothing, or of what can't be read: nothing was taken."""
        try:
            since, count, newest, *sizes = json.loads(content or b"")
            return cls(since, count, newest, dict(zip(_STREAMS, sizes, strict=True)))
        except (ValueError, TypeError):
            return cls()


class Follower:
    """Of one container, into the existing files `stdout` and `stderr` of `directory`. `run` and `rest` in turn."""

    def __init__(self, engine: Engine, container: str, directory: Path) -> None:
        self._engine = engine
        self._container = container
        self._directory = directory
        self._checkpoint: Checkpoint | None = None
        self._recorded = 0.0

    async def run(self) -> None:
        """Follow until cancelled, or until there is no such container any more."""
        while True:
            try:
                await self._pass(follow=True)
            except (EngineError, OSError) as error:
                if isinstance(error, EngineError) and error.status == 404:
                    return
                log.warning("the output of container %s waits in the engine: %s", self._container[:12], error)
            await asyncio.sleep(_RETRY)

    async def rest(self) -> None:
        """Take what is left of a container that has ended. Raises `EngineError`, `OSError`."""
        await self._pass(follow=False)
        await asyncio.to_thread(self._record)

    async def _pass(self, *, follow: bool) -> None:
        if self._checkpoint is None:
            content = await asyncio.to_thread(read_regular, self._directory / "followed.json", _LIMIT)
            self._checkpoint = Checkpoint.decode(content)
        taking = await asyncio.to_thread(Taking.open, self._directory, self._checkpoint)
        try:
            stream = self._engine.output(self._container, max(0, self._checkpoint.since), follow=follow)
            async with contextlib.aclosing(stream):
                async for data in stream:
                    await _uninterrupted(self._take, taking, data)
        finally:
            taking.close()

    def _take(self, taking: Taking, data: bytes) -> None:
        taking.take(data)
        self._checkpoint = taking.checkpoint()
        if time.monotonic() >= self._recorded + _RECORD:
            self._record()

    def _record(self) -> None:
        if self._checkpoint is not None:
            write_whole(self._directory / "followed.json", self._checkpoint.encode())
            self._recorded = time.monotonic()


class Taking:
    """One reading of the engine's log from a checkpoint on. All methods may block; they raise `OSError`."""

    def __init__(self, files: Mapping[int, int], checkpoint: Checkpoint) -> None:
        self._files = files
        self._from = checkpoint
        self._known = checkpoint.count
        self._extra = {number: os.fstat(files[number]).st_size - checkpoint.sizes[number] for number in _STREAMS}
        self._sizes = dict(checkpoint.sizes)
        self._newest = checkpoint.newest
        self._counts: dict[int, int] = {}
        self._rest = b""

    @classmethod
    def open(cls, directory: Path, checkpoint: Checkpoint) -> Taking:
        with contextlib.ExitStack() as undo:
            files: dict[int, int] = {}
            for number, name in _STREAMS.items():
                files[number] = os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
                undo.callback(os.close, files[number])
            taking = cls(files, checkpoint)
            undo.pop_all()
        return taking

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)

    def take(self, data: bytes) -> None:
        """Write what is new of the next bytes of the engine's answer."""
        found, self._rest = pieces(self._rest + data)
        new: dict[int, list[bytes]] = {number: [] for number in _STREAMS}
        for number, piece in found:
            if number in new:
                new[number].append(self._new(number, piece))
        for number, parts in new.items():
            _write(self._files[number], b"".join(parts))

    def checkpoint(self) -> Checkpoint:
        since = self._newest - _WINDOW
        if self._known:  # still among what was taken before
            return self._from
        for second in [second for second in self._counts if second <= since]:
            del self._counts[second]
        return Checkpoint(since, sum(self._counts.values()), self._newest, dict(self._sizes))

    def _new(self, number: int, piece: bytes) -> bytes:
        """The part of a piece that is not in the raw file yet."""
        second, data = _timed(piece, self._newest)
        if second <= self._from.since:
            return b""
        self._counts[second] = self._counts.get(second, 0) + 1
        if self._known and second > self._from.newest:  # the engine's log began anew: nothing comes again
            self._known = 0
            self._sizes = {number: size + self._extra[number] for number, size in self._sizes.items()}
            self._extra = dict.fromkeys(_STREAMS, 0)
        self._newest = max(self._newest, second)
        if self._known:
            self._known -= 1
            return b""
        self._sizes[number] += len(data)
        cut = min(self._extra[number], len(data))
        self._extra[number] -= cut
        return data[cut:]


def pieces(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole pieces of an engine's answer as (stream, bytes with their time in front), and the bytes after them.

    Raises `OSError` for what is none.
    """
    found: list[tuple[int, bytes]] = []
    start = 0
    while len(data) - start >= _HEADER:
        length = int.from_bytes(data[start + 4 : start + _HEADER])
        if length > _LONGEST or data[start + 1 : start + 4] != b"\0\0\0":
            raise OSError("the container engine's answer is no log")
        end = start + _HEADER + length
        if end > len(data):
            break
        found.append((data[start], data[start + _HEADER : end]))
        start = end
    return found, data[start:]


def _timed(piece: bytes, otherwise: int) -> tuple[int, bytes]:
    """The second that a piece is of, and its text; one without a time is of the second `otherwise`."""
    moment, space, data = piece.partition(b" ")
    if space and moment[:1].isdigit():
        with contextlib.suppress(ValueError):
            return int(datetime.fromisoformat(moment.decode("ascii", "replace")).timestamp()), data
    return otherwise, piece


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def _uninterrupted(function: Callable[[Taking, bytes], None], taking: Taking, data: bytes) -> None:
    """In a thread, and to its end: whoever cancels us finds files that nobody writes to any more."""
    work = asyncio.get_running_loop().run_in_executor(None, function, taking, data)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
