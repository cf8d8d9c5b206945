"""The raw output files of a replica: read from where we were, freed behind us.

The replica appends, we read. What has been taken in is freed by punching a hole, so that the file costs nothing while
its offsets stay true; the newest 64 KiB stay, for the reason of a failure. On a file system that can't punch holes
the file stays whole until the replica is forgotten.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

KEEP = 64 * 1024
_BLOCK = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_MAX_REASON_LINE = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class RawFile:
    """One of the two files of a replica, held open: a replica that is forgotten meanwhile loses no line."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._freed = 0

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def freeable(self, taken: int) -> int:
        """How many bytes before `taken` could be freed now."""
        return max(0, (taken - KEEP) // _BLOCK * _BLOCK - self._freed)

    def free(self, taken: int) -> None:
        """Give the blocks before `taken` back to the file system."""
        count = self.freeable(taken)
        if count and _libc.fallocate(self._descriptor, _KEEP_SIZE | _PUNCH_HOLE, self._freed, count) != 0:
            number = ctypes.get_errno()
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, os.strerror(number))
        self._freed += count

    def restart(self) -> None:
        """Its writer truncated it."""
        self._freed = 0

    def close(self) -> None:
        os.close(self._descriptor)


def last_lines(directory: Path, count: int) -> tuple[str, ...]:
    """The last lines of stderr, or of stdout if stderr is empty, each 1 KiB at most: why a replica ended."""
    for name in ("stderr", "stdout"):
        lines = _tail(directory / name)
        if lines:
            return tuple(line[:_MAX_REASON_LINE] for line in lines[-count:])
    return ()


def _tail(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - KEEP))
            data = file.read(KEEP)
    except OSError:
        return []
    data = data.lstrip(b"\0")  # a hole
    lines = [line.rstrip("\r") for line in data.decode("utf-8", "replace").split("\n")]
    return [line for line in lines if line.strip()]
