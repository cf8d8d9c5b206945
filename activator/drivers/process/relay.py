"""From a replica's stdout and stderr to its raw files: a pipe each, and a relay that outlives control (law 4).

A file alone as stdout loses lines: who opens it by name (`echo … > /dev/stderr`) truncates it, and nothing that leaves
that idiom working keeps a file from it. A pipe that control reads loses lines with control, and stalls or ends
(SIGPIPE) what serves without it (law 1). So a pipe is read by a relay: `cat`, in a session of its own, as ourselves (no
tenant can end it), deaf to every signal that asks. It appends to the raw file, from which the log takes lines as ever,
and ends when the last process that could write has. Measured: 0.2 MiB of memory for each stream, 1 ms for each start.

A disk that is full costs lines, not the replica: what can't be written is dropped for a second, and that is told in the
log once it can be. (`timeout --foreground` waits for the end of what it kills; without, it kills itself, too, and a
`cat` that dies a moment later may take a line with it.) Writes of more than a pipe has room for may be torn by others
to the same stream (pipe(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from .users import SYSTEM_PATH

STREAMS: Final = ("stdout", "stderr")
DROPPED: Final = "wakegate: output was dropped here, the disk of the node was full"
_CAT_FAILED: Final = 1  # to write; killed, it gives another code
_SCRIPT: Final = f"""
trap '' HUP INT QUIT TERM
until cat
do
  if [ $? = {_CAT_FAILED} ]
  then
    timeout --foreground -s KILL 1 cat >/dev/null
    printf '\\n{DROPPED}\\n'
  fi
done
"""
_ROOM: Final = 1 << 20  # bytes that a pipe holds, where we may ask for so many
_LAST_OUTPUT: Final = 5.0  # seconds for what is still in a pipe once nobody can write to it
_FIRST_LOOK: Final = 0.002  # seconds; each is twice the one before
_LONGEST_LOOK: Final = 0.1


class Relays:
    """A replica's two. `outputs` are where its stdout and stderr are written; as a context they are ours until its end,
    and if that is an error nobody else has them.
    """

    def __init__(self, directory: Path, uid: int | None) -> None:
        """Begin to append to the files in `directory`; `uid` may open the pipes by name. Raises `OSError`."""
        self.outputs: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            for name in STREAMS:
                self._begin(directory / name, uid)
        except OSError:
            self.__exit__(*sys.exc_info())
            raise

    def __enter__(self) -> Relays:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while self.outputs:
            os.close(self.outputs.pop())
        if kind is not None:
            self.reap()

    def _begin(self, file: Path, uid: int | None) -> None:
        read_end, write_end = os.pipe()
        self.outputs.append(write_end)
        try:
            if uid is not None:
                os.fchown(write_end, uid, uid)
                with contextlib.suppress(OSError):
                    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _ROOM)
            self._children.append(_started(read_end, file))
        finally:
            os.close(read_end)

    def reap(self) -> None:
        """Wait for their end."""
        for child in self._children:
            child.wait()

    def let_go(self) -> None:
        """Leave them to the next control."""
        for child in self._children:
            if child.poll() is None:
                child.returncode = 0  # tells subprocess that nobody will wait for it


def _started(read_end: int, file: Path) -> subprocess.Popen[bytes]:
    """One that holds a shared lock on the file for as long as it writes there."""
    into = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(into, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return subprocess.Popen(
            ("/bin/sh", "-c", _SCRIPT),
            stdin=read_end,
            stdout=into,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": SYSTEM_PATH},
            start_new_session=True,
        )
    finally:
        os.close(into)


async def ended(directory: Path, own: Relays | None = None) -> bool:
    """Wait for the relays into a directory whose writers have ended, `own` or an earlier control's; `False` if they did
    not end in time."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + _LAST_OUTPUT, _FIRST_LOOK
    while await asyncio.to_thread(_written_to, directory):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_LOOK)
    if own is not None:
        await asyncio.to_thread(own.reap)
    return True


def _written_to(directory: Path) -> bool:
    return any(_locked(directory / name) for name in STREAMS)


def _locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
