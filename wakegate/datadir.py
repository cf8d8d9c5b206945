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

    def __init__(self, path: Path, descriptor: int, made: list[Path]) -> None:
        self.path = path
        self.descriptor = descriptor
        self._made = made  # by this start, in this order

    @classmethod
    def open(cls, path: Path, *, shared_with_replicas: bool) -> DataDirectory:
        """Make (0700; 0711 if replicas have uids of their own), check and lock it. Raises ServeError, and then nothing
        is left that was not there before.
        """
        made: list[Path] = []
        try:
            descriptor = None
            while descriptor is None:
                _make_folders(path, 0o711 if shared_with_replicas else 0o700, made)
                descriptor = _locked(path / "lock", made)
        except ServeError:
            _remove(made)
            raise
        return cls(path, descriptor, made)

    def abandon(self) -> None:
        """Let go of it, without a trace of this start."""
        _remove(self._made)
        self.close()

    def making(self, name: str) -> Path:
        """The path of a file that is about to be made, so that `abandon` knows of it."""
        file = self.path / name
        if not file.exists():
            self._made.append(file)
        return file

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
        temporary, final = self.path / f".{name}.new", self.making(name)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ServeError(f"the data directory can't be written: {_said(error)}") from None
        return line


def _make_folders(path: Path, mode: int, made: list[Path]) -> None:
    """Those on the way are made passable, whatever our umask: they are not the data directory. Raises ServeError."""
    try:
        for folder in reversed(path.parents):
            _make_folder(folder, 0o755, made)
        _make_folder(path, mode, made)
        path.chmod(mode)
    except OSError as error:
        raise _not_writable(error) from None


def _make_folder(folder: Path, mode: int, made: list[Path]) -> None:
    if not folder.exists():
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)
            folder.chmod(mode)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _locked(file: Path, made: list[Path]) -> int | None:
    """The descriptor of the locked and signed file. None: a start that was given up removed it under us.

    A new file counts as ours only once it is locked: until then another start may have locked it. Raises ServeError.
    """
    try:
        new = not file.exists()
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_writable(error) from None
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        try:
            _lock(file.parent, descriptor)
            if os.fstat(descriptor).st_nlink == 0:
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise ServeError(f"the data directory {file.parent} can't be locked or written: {_said(error)}") from None
        undo.pop_all()
    if new:
        made.append(file)
    return descriptor


def _not_writable(error: OSError) -> ServeError:
    return ServeError(f"the data directory can't be written: {_said(error)}; choose another --data-dir")


def _remove(made: list[Path]) -> None:
    """Folders only as far as nobody else has put something into them."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


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
