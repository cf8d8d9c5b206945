"""The data directory: one owner at a time, closed to everyone else, and what is made in it once.

The lock is a `flock` that the store inherits: as long as any of the two lives, no other `serve` runs on the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from pathlib import Path

from wakegate.errors import ServeError

_LOCK_PATIENCE = 5.0  # s for the store of a killed `serve` to end


class DataDirectory:
    """A locked data directory. `descriptor` holds the lock: what inherits it keeps the directory ours."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, shared_with_replicas: bool) -> DataDirectory:
        """Make (0700; 0711 if replicas have uids of their own), check and lock it. Raises ServeError."""
        try:
            _make_parents(path)
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o711 if shared_with_replicas else 0o700)
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServeError(
                f"the data directory can't be written: {_said(error)}; choose another --data-dir"
            ) from None
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, descriptor)
                _lock(path, descriptor)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
                undo.pop_all()
        except OSError as error:
            raise ServeError(f"the data directory {path} can't be locked or written: {_said(error)}") from None
        return cls(path, descriptor)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self.descriptor)

    def node_id(self) -> str:
        """The identity of this node, made once: 16 hex digits."""
        file = self.path / "node.id"
        with contextlib.suppress(FileNotFoundError):
            known = file.read_text("ascii", errors="replace").strip()
            if len(known) == 16 and all(c in "0123456789abcdef" for c in known):
                return known
            raise ServeError(
                f"{file} is damaged: it must hold 16 hex digits (the replicas of this node are known by it)"
            )
        return self.write("node.id", secrets.token_hex(8))

    def write(self, name: str, line: str) -> str:
        """Write a small file of one line for good (0600): whole or not at all, also over a power cut."""
        temporary = self.path / f".{name}.new"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except OSError as error:
            raise ServeError(f"the data directory can't be written: {_said(error)}") from None
        return line


def _make_parents(path: Path) -> None:
    """Folders on the way are made passable, whatever our umask: they are not the data directory."""
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)


def _lock(path: Path, descriptor: int) -> None:
    """Take the lock. A dead holder's store gets a moment to end; a living holder is named at once."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        holder = os.pread(descriptor, 20, 0).strip()
        if holder.isdigit() and Path(f"/proc/{int(holder)}").exists():
            raise ServeError(
                f"another `wakegate serve` (pid {int(holder)}) runs on {path}: stop it, or choose another --data-dir"
            )
        if time.monotonic() > deadline:
            raise ServeError(
                f"{path} is still in use by what an earlier `wakegate serve` left behind, probably its valkey-server: "
                f"find it with `fuser {path}/lock` and end it"
            )
        time.sleep(0.02)


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
