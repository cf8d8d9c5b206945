"""Who a namespace's processes run as (law 8, SPEC section 5).

Started as root, each namespace has a uid of its own (the gid is the same number), kept in the data directory for
ever: a uid that came to another namespace would own the files of the first. Not as root, everything runs as ourselves
and namespaces are not kept apart.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pwd
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from activator.drivers import NodeUnfit
from activator.drivers.files import write_whole

from .procfs import living, uid_of

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCKS = Path("/run/wakegate/uids")
_LONGEST_PATH = 4096  # bytes, PATH_MAX


class UsersError(NodeUnfit):
    """No uid for a namespace, or the node can't change uids; says the fix."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The uid (and gid) that a command runs as; `None` is our own."""

    uid: int | None = None

    @property
    def prefix(self) -> list[str]:
        """What goes before a command so that it runs as that uid, for good, and keeps no capability of ours.

        By `setpriv`, not by `subprocess` itself, which would fork instead of vfork: 1.0 ms however large we are, as
        against 7 ms with 150 MiB. It starts as root, so its environment must not be the tenant's (LD_PRELOAD).
        """
        if self.uid is not None:
            user = str(self.uid)
            change = ["--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
            return [setpriv(), *change, "--"]
        return [setpriv(), "--ambient-caps=-all", "--inh-caps=-all", "--"] if _ambient() else []


@functools.cache
def setpriv() -> str:
    """Where `setpriv` is. Raises `UsersError`."""
    path = shutil.which("setpriv", path=SYSTEM_PATH)
    if path is None:
        raise UsersError("replicas are kept from regaining privileges by `setpriv`: install util-linux")
    return path


def _ambient() -> bool:
    """Whether we hold capabilities that every child would inherit (systemd's AmbientCapabilities)."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return any(line.startswith("CapAmb:") and int(line.split()[1], 16) for line in file)


class Users:
    """The uids of the namespaces of one data directory; `uids` is `--process-uids`.

    A second node on the same machine has a mapping of its own. So that the two don't choose the same uids, and one
    never takes the other's processes for its strays, each uid in use has a file in `locks`, locked while control lives.
    It names the mapping, so that a uid stays its owner's while that is stopped, until the machine is started anew.

    `admit` is told of each uid before anything runs as it; what it raises, `of` raises.
    """

    def __init__(
        self, path: Path, uids: range, locks: Path = LOCKS, admit: Callable[[int], object] = lambda _: None
    ) -> None:
        self._path = path
        self._uids = uids
        self._locks = locks
        self._choosing = threading.Lock()
        self._held: dict[int, int] = {}
        self._admit = admit
        self._given = _mapping(path)
        for uid in self._given.values():
            self._lock(uid)
            admit(uid)

    @property
    def given(self) -> Mapping[str, int]:
        """The uids by namespace."""
        return self._given

    @property
    def uids(self) -> Collection[int]:
        """Those given to namespaces."""
        return self._given.values()

    @property
    def exclusive(self) -> Collection[int]:
        """Those that no other node of this machine uses."""
        return self._held.keys()

    def close(self) -> None:
        """Let go of the locks; the mapping stays."""
        while self._held:
            os.close(self._held.popitem()[1])

    def of(self, namespace: str) -> Identity:
        """The namespace's uid; a new one is stored durably before anybody uses it. Raises `UsersError`, `OSError`."""
        with self._choosing:  # from several threads: two namespaces must not get one uid
            if namespace not in self._given:
                given = {**self._given, namespace: self._unused()}
                self._admit(given[namespace])
                write_whole(self._path, json.dumps(given, indent=1).encode(), durable=True)
                self._given.update(given)
            return Identity(self._given[namespace])

    def _unused(self) -> int:
        taken = {*self._given.values(), *map(uid_of, (stat.pid for stat in living()))}
        free = [uid for uid in self._uids if uid not in taken and not _has_account(uid)]
        for uid in free:
            if self._lock(uid):
                return uid
        if free and not self._held:  # nothing can be locked here
            return free[0]
        first, last = self._uids.start, self._uids.stop - 1
        raise UsersError(f"every uid of {first}-{last} is in use: widen --process-uids")

    def _lock(self, uid: int) -> bool:
        """Hold the uid for as long as this process lives; `False` if another node does, or locks can't be made."""
        try:
            self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._locks / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        if not self._claim(descriptor, uid):
            os.close(descriptor)
            return False
        self._held[uid] = descriptor
        return True

    def _claim(self, descriptor: int, uid: int) -> bool:
        """Write our name into a locked file; `False` if the uid is that of another node, which is stopped."""
        ours = os.fsencode(self._path.resolve())
        owner = os.pread(descriptor, _LONGEST_PATH, 0)
        if owner == ours:
            return True
        try:
            if owner and uid in _mapping(Path(os.fsdecode(owner))).values():
                return False
        except UsersError:
            return False  # it may still be theirs
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, ours, 0)
        return True


def _mapping(path: Path) -> dict[str, int]:
    """The uids by namespace, none if there is no such file. Raises `UsersError`."""
    try:
        given = json.loads(path.read_bytes())
        return {str(namespace): int(uid) for namespace, uid in given.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsersError(f"can't read the uids of the namespaces in {path}: {error}") from error


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def check_reachable(data_dir: Path, uid: int) -> str | None:
    """Why a process with this uid can't get into `data_dir` (which exists), with the fix; `None` if it can.

    It is really tried, so a node that can't change uids (a container without CAP_SETUID) is found out as well.
    """
    path = data_dir.resolve()
    who = Identity(uid)
    try:
        argv = [*who.prefix, "/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
        result = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=30, env={}, check=False)
    except UsersError as error:
        return str(error)
    except OSError as error:
        return f"can't run anything as uid {uid} ({error}): run as another user than root instead"
    if result.returncode == 0:
        return None
    if result.stderr:
        return f"can't run anything as uid {uid} ({result.stderr.strip()}): run as another user than root instead"
    for directory in (*reversed(path.parents), path):
        if not os.stat(directory).st_mode & stat.S_IXOTH:
            fix = f"chmod o+x {directory}, or choose another --data-dir (/var/lib/wakegate)"
            return f"the uids of namespaces can't reach {path}: {directory} keeps them out; {fix}"
    return f"uid {uid} can't reach {path}: choose another --data-dir (/var/lib/wakegate)"
