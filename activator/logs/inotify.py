"""Being told when a file grows (inotify(7)), without asking it again and again."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_MODIFY = 0x002
_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_BUFFER = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches for changes of single files. Raises `OSError` when the kernel gives no (more) watches."""

    def __init__(self) -> None:
        self.descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def watch(self, path: Path) -> int:
        """A number that `changed` will name."""
        return _checked(_libc.inotify_add_watch(self.descriptor, os.fsencode(path), _MODIFY))

    def unwatch(self, number: int) -> None:
        _libc.inotify_rm_watch(self.descriptor, number)  # fails only if the file is gone, and its watch with it

    def changed(self) -> set[int] | None:
        """The numbers of the files that grew since the last call; `None`: too many events, look at all."""
        try:
            data = os.read(self.descriptor, _BUFFER)
        except BlockingIOError:
            return set()
        numbers, at = set(), 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            if mask & _OVERFLOW:
                return None
            numbers.add(number)
            at += _EVENT.size + length
        return numbers

    def close(self) -> None:
        os.close(self.descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
