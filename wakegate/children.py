"""One process that the supervisor started: spawned with its pipe, told to end, known by what was heard of it.

Every child is in a process group of its own, so that Ctrl-C on a terminal reaches the supervisor alone, and dies with
the supervisor (`PR_SET_PDEATHSIG`, and the end of the pipe). Exit statuses come from the supervisor's one reaper.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import wakegate
from wakegate.pipe import ENVIRONMENT, Channel, Message, die_with_parent
from wakegate.supervision import Hearing

_DRAIN_GRACE = 5.0  # s beyond the drain time for a child to exit


class Process:
    """A started process. `status` is None while it lives, then as in `subprocess`: negative for a signal."""

    def __init__(self, process: subprocess.Popen[bytes], role: str, born: float) -> None:
        self._process = process
        self.role = role
        self.pid = process.pid
        self.born = born  # on the clock of attention
        self.heard = born
        self.answered = False
        self.ready = False
        self.status: int | None = None
        self.leaving = False  # told to end
        self.deadline: float | None = None  # on the clock of attention; past it the process is killed
        self.condemned = False

    def hearing(self, now: float) -> Hearing:
        return Hearing(now - self.heard, self.answered, self.ready)

    def answer(self, now: float) -> None:
        self.heard = now
        self.answered = True

    def signal(self, number: int) -> None:
        """Send a signal; nothing once the process was reaped (its pid may be another's)."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.condemned = True
        self.signal(signal.SIGKILL)

    def leave(self, deadline: float) -> None:
        """It was told to end; when it is still there at `deadline`, it is killed."""
        self.leaving = True
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def ended(self, wait_status: int) -> None:
        self.status = self._process.returncode = os.waitstatus_to_exitcode(wait_status)

    def __str__(self) -> str:
        return f"{self.role} (pid {self.pid})"


class Child(Process):
    """A worker or control: a process of ours with a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], role: str, born: float, incarnation: str) -> None:
        super().__init__(process, role, born)
        self.incarnation = incarnation
        self.adopted: tuple[int, ...] = ()
        self.drained: float | None = None  # when it was first told to drain, on the clock of attention
        self.unacknowledged: frozenset[str] = frozenset()
        self._channel: Channel | None = None
        self._early: list[Message] = []  # told before the pipe was open

    async def connect(self, sock: socket.socket, start: Message, on_message: Callable[[Child, Message], None]) -> None:
        """Open our end of the pipe and send the start message."""
        self._channel = await Channel.open(sock, lambda message: on_message(self, message), self._deaf)
        for message in ({"start": start}, *self._early):
            self._channel.send(message)
        self._early.clear()

    def send(self, message: Message) -> None:
        """Tell it something; what is said before the pipe is open is told right after the start message."""
        if self._channel is not None:
            self._channel.send(message)
        else:
            self._early.append(message)

    def ping(self, number: int) -> None:
        """Ask for a sign of life; one that waits unread is enough."""
        if self._channel is not None and self._channel.flushed:
            self._channel.send({"ping": number})

    def drain(self, seconds: float, now: float, **how: bool) -> None:
        """Tell it to finish what it has within `seconds` and exit; it is killed a moment after them.

        Said again, it only shortens the time.
        """
        self.drained = now if self.drained is None else self.drained
        self.leave(now + seconds + _DRAIN_GRACE)
        self.send({"drain": {"timeout": seconds, **how}})

    def _deaf(self) -> None:
        """The pipe ended. While leaving that is the process on its way out; else nothing can be told to it any more."""
        if not self.leaving:
            self.kill()

    def ended(self, wait_status: int) -> None:
        super().ended(wait_status)
        if self._channel is not None:
            self._channel.close()


def spawn_child(role: str, descriptors: Sequence[int], now: float) -> tuple[Child, socket.socket]:
    """Start `wakegate ROLE` with these descriptors under their own numbers. Returns it and our end of its pipe."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wakegate", *role.split()],
                stdin=subprocess.DEVNULL,
                env=child_environment(secret=role == "control") | {ENVIRONMENT: str(theirs.fileno())},
                pass_fds=[theirs.fileno(), *descriptors],
                process_group=0,
            )
    except BaseException:
        ours.close()
        raise
    return Child(process, role, now, secrets.token_hex(8)), ours


def spawn_program(
    command: Sequence[str], role: str, *, directory: Path, log: int, descriptors: Sequence[int], now: float
) -> Process:
    """Start a program that is not ours; what it writes goes to `log`."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        process_group=0,
        preexec_fn=die_with_parent,
    )
    return Process(process, role, now)


def child_environment(*, secret: bool = False) -> dict[str, str]:
    """Ours, with the folder that this package was loaded from: a checkout needs no installation.

    The secret key, if it is there, is for control alone (`secret`): a worker or the store has no use for it.
    """
    environment = {name: value for name, value in os.environ.items() if secret or name != "WAKEGATE_SECRET_KEY"}
    root = str(Path(wakegate.__file__).parents[1])
    if "site-packages" not in root:
        path = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root
    return environment
