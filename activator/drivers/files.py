"""Small files that are either whole or absent, and reads that a tenant can't lead astray."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path


def told(error: Exception) -> str:
    """What went wrong, for a tenant: without the node's paths."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace the file in one step; `durable` also survives a power cut. Raises `OSError`."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    partial.replace(path)
    if durable:
        _sync(path.parent)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a directory of a tenant's, who says how deep it is: Python's own way there recurses. Raises `OSError`."""
    try:
        shutil.rmtree(path, ignore_errors=ignore_errors)
    except RecursionError:
        done = subprocess.run(["rm", "-rf", "--", path], capture_output=True, check=False)
        if done.returncode != 0 and not ignore_errors:
            raise OSError(f"can't remove {path}") from None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, limit: int) -> bytes | None:
    """Up to `limit` bytes of a regular file; `None` if there is none.

    Neither a symbolic link (it could lead where only root may read) nor a directory, pipe or device (it could block)
    is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)
