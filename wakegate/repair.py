"""`wakegate repair`: cut the damaged end off the embedded store's append-only file.

Valkey's own checker stops at a base file in its RDB format (measured with 9.1), which is what it writes itself. The
damage is always in the file that grows, the last incremental one: commands in RESP, a transaction between MULTI and
EXEC. What is kept is every whole command before the damage, never half a transaction; a copy of the file stays.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wakegate.datadir import DataDirectory
from wakegate.errors import ServeError

_ENTRY = re.compile(r"file (\S+) seq (\d+) type i\b")
_LONGEST_ARGUMENT = 512 << 20  # bytes, Valkey's own bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """`sound` bytes of `size` are whole commands and transactions."""

    sound: int
    size: int


def examine(data: bytes) -> Verdict:
    """How much of an append-only file in RESP is sound."""
    sound = 0
    in_transaction = False
    for end, name in _commands(data):
        if name == b"multi":
            in_transaction = True
        elif name == b"exec":
            in_transaction = False
        if not in_transaction:
            sound = end
    return Verdict(sound, len(data))


def _commands(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The end and the name of each whole command; stops at the first that is not. Comment lines belong to the next."""
    position = 0
    while position < len(data):
        if data[position : position + 1] == b"#":
            position = data.find(b"\n", position) + 1
            if position == 0:
                return
            continue
        count, position = _number(data, position, b"*")
        name = b""
        for index in range(count):
            length, position = _number(data, position, b"$")
            if length < 0 or data[position + length : position + length + 2] != b"\r\n":
                return
            if index == 0:
                name = data[position : position + length].lower()
            position += length + 2
        if count <= 0:
            return
        yield position, name


def _number(data: bytes, position: int, prefix: bytes) -> tuple[int, int]:
    """The number in a line such as `*3`, and what follows the line; -1 if there is none."""
    end = data.find(b"\r\n", position, position + 16)
    digits = data[position + 1 : end]
    if position < 0 or end < 0 or data[position : position + 1] != prefix or not digits.isdigit():
        return -1, -1
    number = int(digits)
    return (number, end + 2) if number <= _LONGEST_ARGUMENT else (-1, -1)


def repair(data_dir: Path) -> list[str]:
    """Repair the store of a data directory that no `serve` uses. Returns what was done. Raises ServeError."""
    folder = data_dir / "appendonlydir"
    if not folder.is_dir():
        raise ServeError(f"{data_dir} holds no embedded store")
    mode = data_dir.stat().st_mode
    with contextlib.closing(DataDirectory.open(data_dir, shared_with_replicas=bool(mode & 0o001))):
        try:
            return _repair(_last_incremental(folder))
        except OSError as error:
            raise ServeError(f"{error.filename or folder}: {error.strerror}") from None


def _repair(file: Path) -> list[str]:
    data = file.read_bytes()
    verdict = examine(data)
    if verdict.sound == verdict.size:
        return [f"{file} is sound: nothing to repair"]
    copy = file.with_name(file.name + ".damaged")
    shutil.copy2(file, copy)
    with file.open("r+b") as opened:
        opened.truncate(verdict.sound)
    lost = verdict.size - verdict.sound
    return [f"{file}: kept {verdict.sound} bytes, cut {lost}", f"the file as it was: {copy}"]


def _last_incremental(folder: Path) -> Path:
    manifest = folder / "appendonly.aof.manifest"
    entries = _ENTRY.findall(manifest.read_text("utf-8"))
    if not entries:
        raise ServeError(f"{manifest} names no incremental file: restore the folder from a backup")
    return folder / str(max(entries, key=lambda entry: int(entry[1]))[0])
