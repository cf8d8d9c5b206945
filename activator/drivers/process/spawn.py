"""Starting a process: its own session, its own privileges, a plain environment, and nothing else of ours.

The child writes its own line of /proc/PID/stat (pid and start time) through a descriptor that we opened, and then
execs (law 4): whoever reads that file knows which process it is, even if we were killed in between. All that happens
in the child is `setpriv` and a few lines of `/bin/sh`; no Python runs there, and `subprocess` can use vfork.

`setpriv` starts as root, where a tenant's LD_PRELOAD would do harm. So it gets the tenant's environment under other
names (`wakegate_0=NAME=value`), and the shell, by then the tenant, gives them back their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .procfs import read_stat
from .users import SYSTEM_PATH, Identity

_OPEN_FILES = 65_536
_UNRECORDED = "the start can not be recorded: is the disk of the node full?"
_RECORD = f'read -r stat </proc/$$/stat && printf "%s\\n" "$stat" >&0 || {{ echo "{_UNRECORDED}" >&2; exit 125; }}'
_LIMITS = "ulimit -c 0; ulimit -n {files}; umask 022"
_RUN = 'exec /bin/sh -c "$1" </dev/null'
# what a shell can't undo by itself: POSIX keeps signals ignored that were so when it started
_UNTOUCHED = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores these; `subprocess` restores them


@dataclass(frozen=True, slots=True)
class Command:
    """One command line for `/bin/sh -c`, where, as whom and with which whole environment it runs."""

    line: str
    cwd: Path
    env: Mapping[str, str]
    who: Identity


def base_environment(home: Path, bin_dir: Path | None = None) -> dict[str, str]:
    """The plain environment of SPEC section 5, before PORT, HOST and the service's own."""
    path = SYSTEM_PATH if bin_dir is None else f"{bin_dir}:{SYSTEM_PATH}"
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}


class Process:
    """A process known by pid and start time: our child, or one that an earlier control started.

    Its end is noticed by a pidfd in the event loop, the same way for both; only a child has an exit code.
    """

    __slots__ = ("_child", "_descriptor", "_loop", "pid", "start")

    def __init__(self, pid: int, start: int, descriptor: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.start = start
        self._descriptor = descriptor
        self._child = child
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Process {self.pid} since {self.start} {'own' if self._child else 'adopted'}>"

    @classmethod
    def adopt(cls, pid: int, start: int) -> Process | None:
        """That very process if it still runs. The descriptor is opened first: what is checked then is what we hold."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        stat = read_stat(pid)
        if stat is None or stat.start != start or not stat.alive:
            os.close(descriptor)
            return None
        return cls(pid, start, descriptor)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call once, in the running loop, when it has ended."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._ended, on_end)

    def _ended(self, on_end: Callable[[], None]) -> None:
        self._unwatch()
        on_end()

    async def ended(self) -> None:
        """Wait for its end."""
        done = asyncio.Event()
        self.watch(done.set)
        try:
            await done.wait()
        finally:
            self._unwatch()

    def reap(self) -> tuple[int | None, int | None]:
        """Exit code or signal of an ended child, whose zombie is removed; neither for one that is not our child."""
        if self._child is None:
            return None, None
        result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        if result is None:
            return None, None
        self._child.returncode = result.si_status
        exited = result.si_code == os.CLD_EXITED
        return (result.si_status, None) if exited else (None, result.si_status)

    def signal_group(self, number: signal.Signals) -> None:
        """Signal its process group while it lives (its pid is the group's number)."""
        # gone already, or its last member changed privileges: the sweep after the grace finds that one
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Let go of it, running or not; once is enough."""
        if self._descriptor < 0:
            return
        self._unwatch()
        if self._child is not None and self._child.returncode is None:
            self.reap()
            self._child.returncode = 0  # tells subprocess that nobody will wait for it
        os.close(self._descriptor)
        self._descriptor = -1

    def _unwatch(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None


def spawn(command: Command, *, record: int, stdout: int, stderr: int) -> Process:
    """Start the command; its stat line goes to the descriptor `record`. Raises `OSError`.

    Blocks for about a millisecond, until the child has become `setpriv` or the shell.
    """
    files = min(_OPEN_FILES, _hard_limit())
    env, restore = _wrapped(command)
    script = "\n".join((_RECORD, _LIMITS.format(files=files), *restore, _RUN))
    argv = [*_reset_signals(), *command.who.prefix, "/bin/sh", "-c", script, "sh", command.line]
    child = subprocess.Popen(
        argv,
        stdin=record,
        stdout=stdout,
        stderr=stderr,
        cwd=command.cwd,
        env=env,
        start_new_session=True,
        close_fds=True,
    )
    stat = read_stat(child.pid)  # our unreaped child: it exists, even as a zombie
    if stat is None:
        raise OSError(f"/proc does not show process {child.pid}: is /proc mounted?")
    return Process(child.pid, stat.start, os.pidfd_open(child.pid), child)


def _wrapped(command: Command) -> tuple[dict[str, str], Sequence[str]]:
    """The environment to start with, and the lines of shell that make it the command's own.

    HOME and PORT are there from the start as well: by them the sweeper knows whose process it is.
    """
    if command.who.uid is None:
        return dict(command.env), ()
    wrapped = {f"wakegate_{n}": f"{name}={value}" for n, (name, value) in enumerate(command.env.items())}
    marks = {name: command.env[name] for name in ("HOME", "PORT") if name in command.env}
    named = " ".join(f'"${name}"' for name in wrapped)
    return {"PATH": SYSTEM_PATH, **marks, **wrapped}, (f"export {named}", f"unset {' '.join(wrapped)}")


def _hard_limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _OPEN_FILES if hard == resource.RLIM_INFINITY else hard


def _reset_signals() -> Sequence[str]:
    """`env` with all signals at their default, where we ignore or block one (started by nohup, say)."""
    ignored = {s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN} - _UNTOUCHED
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if not ignored and not blocked:
        return ()
    return ("/usr/bin/env", "--default-signal")
