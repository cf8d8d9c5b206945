"""The local file of routes, backends and certificates, for a start without the store (law 1).

One file per node, written by one worker and replaced atomically; read once, at a start that finds no store. A file that
is damaged, cut short or of another format is refused as a whole: a wrong route is worse than a late one.

Keys of certificates stay sealed in it, as in the store.

Format: a line `wakegate-cache 2`, the records, and the BLAKE2b digest (32 bytes) of all that comes before it. A record
is kind (1 byte), length of the id (u16), length of the payload (u32), version (u64), id, payload; big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from state.kinds import Kind
from state.store import Record

_MAGIC: Final = b"wakegate-cache 2\n"
_DIGEST: Final = 32  # bytes
_HEAD: Final = struct.Struct(">BHIQ")
_CODES: Final = {Kind.ROUTE: 1, Kind.BACKEND: 2, Kind.CERTIFICATE: 3}
_KINDS: Final = {code: kind for kind, code in _CODES.items()}

_SLICE: Final = 500  # records formatted at one go: about 0.5 ms of the loop
_LOOK: Final = 0.1  # seconds between looks whether there is something new to write
_EVERY: Final = 2.0  # seconds from one write to the next
_SHARE: Final = 100  # a write that takes s seconds is followed by _SHARE * s without one

Contents = dict[Kind, dict[str, Record]]


class Damaged(ValueError):
    """The file is not what a worker wrote."""


def encode(records: Contents) -> Iterator[bytes]:
    """The whole file, in pieces of at most `_SLICE` records."""
    digest = hashlib.blake2b(_MAGIC, digest_size=_DIGEST)
    yield _MAGIC
    for kind, of_kind in records.items():
        pieces: list[bytes] = []
        for object_id, record in of_kind.items():
            name = object_id.encode()
            pieces += (_HEAD.pack(_CODES[kind], len(name), len(record.value), record.version), name, record.value)
            if len(pieces) >= 3 * _SLICE:
                yield _hashed(digest, pieces)
                pieces = []
        yield _hashed(digest, pieces)
    yield digest.digest()


def _hashed(digest: hashlib.blake2b, pieces: list[bytes]) -> bytes:
    piece = b"".join(pieces)
    digest.update(piece)
    return piece


def decode(data: bytes) -> Contents:
    """The records of a file; payloads stay undecoded. Raises Damaged."""
    body, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
    if not data.startswith(_MAGIC):
        raise Damaged("not a cache of this version")
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise Damaged("the checksum does not fit")
    records: Contents = {kind: {} for kind in _CODES}
    place = len(_MAGIC)
    while place < len(body):
        code, id_length, length, version = _HEAD.unpack_from(body, place)
        start = place + _HEAD.size
        place = start + id_length + length
        object_id = data[start : start + id_length].decode()
        records[_KINDS[code]][object_id] = Record(data[start + id_length : place], version)
    return records


def load(path: Path) -> Contents | None:
    """What the file holds; None if there is none. Raises Damaged, OSError."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None


def tidy(path: Path) -> None:
    """Remove what writers that were killed have left behind. Raises OSError."""
    for left in path.parent.glob(f"{path.name}.*.new"):
        writer = left.name.split(".")[-2]
        if not (writer.isdigit() and _runs(int(writer))):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is such a process: the one that this worker relieves may still be writing."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


async def save(path: Path, records: Contents) -> None:
    """Replace the file: whoever reads sees the old or the new one, also after a power cut. Raises OSError.

    Formatting gives way to the loop every `_SLICE` records; all that waits for the disk happens in a thread.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for piece in encode(records):
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(_sync, file)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class Writer:
    """Writes the file whenever `version()` has changed, at most every `_EVERY` seconds and a 100th of the time.

    The first change after a quiet time is written at once: workers that start without the store know no later one.
    `version` is None while there is nothing worth keeping. A disk that refuses is told once until it works again.
    """

    def __init__(
        self,
        path: Path,
        version: Callable[[], object],
        records: Callable[[Kind], Mapping[str, Record]],
        say: Callable[[str], None],
        every: float = _EVERY,
    ) -> None:
        self._path = path
        self._version = version
        self._records = records
        self._say = say
        self._every = every
        self._failing = False

    async def run(self) -> None:
        """For ever; first, what killed writers have left is removed."""
        with contextlib.suppress(OSError):  # a disk that refuses will be told when it comes to writing
            tidy(self._path)
        written: object = None
        while True:
            await asyncio.sleep(min(_LOOK, self._every))
            version = self._version()
            if version is None or version == written:
                continue
            began = time.monotonic()
            if await self.write():
                written = version
            await asyncio.sleep(max(self._every, _SHARE * (time.monotonic() - began)))

    async def write(self) -> bool:
        """Write now. False: the disk refused."""
        records = {kind: dict(self._records(kind)) for kind in _CODES}
        try:
            await save(self._path, records)
        except OSError as error:
            if not self._failing:
                self._say(f"the cache of routes can't be written ({self._path}: {error.strerror}); serving goes on")
            self._failing = True
            return False
        self._failing = False
        return True
