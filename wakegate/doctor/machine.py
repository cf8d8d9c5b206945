"""This machine: open files, clock, data directory, programs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wakegate import limits
from wakegate.config import Config
from wakegate.doctor.findings import Finding, fix, note, ok
from wakegate.errors import ServeError
from wakegate.store_process import check_version, find_binary, version_of

ENOUGH_SPACE: Final = 1 << 30  # bytes: checkouts, logs of replicas, the store rewriting its file
_UNSYNCHRONISED: Final = 5  # TIME_ERROR of adjtimex(2)


def look(config: Config) -> list[Finding]:
    """Everything that needs no network."""
    return [*files(), *clock(clock_state()), *data_directory(config.data_dir), *store(config), *programs(config)]


def running(data_dir: Path) -> bool:
    """Whether a `serve` holds the data directory."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, 1 << 20) if hard == resource.RLIM_INFINITY else hard
    try:
        warning = limits.judged(limit)
    except ServeError as error:
        said, _, cure = str(error).partition(": ")
        yield fix("files", said, cure)
        return
    if warning is None:
        yield ok("files", f"{limit} may be open")
    else:
        said, _, cure = warning.partition(": ")
        yield note("files", said, cure)


def clock_state() -> int | None:
    """What adjtimex(2) says of the kernel's clock; None: it can't be asked."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        return int(library.adjtimex(ctypes.create_string_buffer(512)))  # modes = 0: only looks
    except (OSError, AttributeError):
        return None


def clock(state: int | None) -> Iterator[Finding]:
    """Certificates count by the clock, and keys of the API end by it."""
    if state is None or state < 0:
        yield note("clock", "this system does not tell whether its clock is kept", "compare it with another")
    elif state == _UNSYNCHRONISED:
        yield note("clock", "nobody keeps it right", "apt-get install -y chrony, unless the host of this machine does")
    else:
        yield ok("clock", "synchronised")


def data_directory(path: Path) -> Iterator[Finding]:
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        yield fix("data", f"{existing} is not a directory", "choose another --data-dir")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        cure = "chown it, or choose another --data-dir"
        yield fix("data", f"{existing} can't be written by uid {os.geteuid()}", cure)
        return
    free = shutil.disk_usage(existing).free
    if free < ENOUGH_SPACE:
        cure = "make room, or choose a --data-dir on another disk"
        yield note("data", f"{path} has {free >> 20} MiB left", cure)
    else:
        yield ok("data", f"{path}, {free >> 30} GiB free")
    if path.exists() and path.stat().st_mode & 0o066:
        yield fix("data", f"{path} can be read by others", f"chmod go-rw {path}")


def store(config: Config) -> Iterator[Finding]:
    """The embedded store's program. A shared store is asked in `wakegate.doctor.network`."""
    if config.redis is not None:
        return
    try:
        version = version_of(find_binary())
        check_version(version, config.data_dir)
    except ServeError as error:
        said, _, cure = str(error).partition("; ")
        yield fix("store", said, cure or "see docs/operations.md, The store")
    else:
        yield ok("store", f"{version.product} {version.major}.{version.minor}.{version.patch}, embedded")


def programs(config: Config) -> Iterator[Finding]:
    """What the process driver runs."""
    if config.driver != "process" or not config.runs_control:
        return
    wanted = {"git": "git", "sh": "dash"} | ({"setpriv": "util-linux"} if os.geteuid() == 0 else {})
    missing = sorted(package for program, package in wanted.items() if shutil.which(program) is None)
    if missing:
        yield fix("programs", f"missing: {', '.join(missing)}", f"apt-get install -y {' '.join(missing)}")
    else:
        yield ok("programs", ", ".join(wanted))
    if os.geteuid() != 0:
        cure = "run serve as root if several namespaces, whose code need not trust each other, share this node"
        yield note("programs", "replicas run as the same user as Wakegate", cure)
