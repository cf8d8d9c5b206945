"""Is a checkout still what was built? What it looked like then is kept beside it, where no tenant can write.

All services of a namespace run with one uid, so that one's code or build can empty the checkout of another, and the
marker of that one would still call it whole. A program may write beside itself, so new files are no damage, nor is
what tools change by themselves; a file that is gone, or has another size, mode or time, is.

Only a build writes a manifest and only a start that failed reads it: healthy starts cost nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from activator.drivers.files import read_regular, write_whole

_NAME = "manifest.json"
_TREES = ("source", "venv")
_LEFT_OUT = frozenset({".git", "__pycache__"})
_FILES = 200_000  # the rest of a larger tree is not looked at
_BYTES = 256 * 1024 * 1024

Look = tuple[int, int, int]
"""Mode, size in bytes and time of the last change in nanoseconds; of a directory the mode alone."""


def write(checkout: Path) -> None:
    """Note what the checkout looks like now. Raises `OSError`."""
    looks = dict(itertools.islice(_walk(checkout), _FILES))
    write_whole(checkout / _NAME, json.dumps(looks, separators=(",", ":")).encode())


def holds(checkout: Path) -> bool:
    """Whether all that was noted is still there as it was. Without a (readable) manifest it does not."""
    content = read_regular(checkout / _NAME, _BYTES)
    try:
        looks = json.loads(content or b"")
    except ValueError:
        return False
    return all(_seen(checkout / name) == tuple(look) for name, look in looks.items())


def _walk(checkout: Path) -> Iterator[tuple[str, Look]]:
    """`fwalk` never follows a link, also not one that takes a directory's place meanwhile."""
    for tree in _TREES:
        if not (checkout / tree).is_dir():
            continue
        yield tree, _look(os.lstat(checkout / tree))
        for top, directories, files, descriptor in os.fwalk(checkout / tree):
            directories[:] = [name for name in directories if name not in _LEFT_OUT]
            for name in (*directories, *files):  # a link to a directory is among these, and not entered
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                yield os.path.relpath(os.path.join(top, name), checkout), _look(status)


def _seen(path: Path) -> Look | None:
    try:
        return _look(os.lstat(path))
    except OSError:
        return None


def _look(status: os.stat_result) -> Look:
    if stat.S_ISDIR(status.st_mode):
        return status.st_mode, 0, 0
    return status.st_mode, status.st_size, status.st_mtime_ns
