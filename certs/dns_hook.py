"""The program that sets TXT records for the platform's wildcard (`--acme-dns-hook`): `FILE add|remove NAME VALUE`.

Laws kept here: 7 (its time and what is kept of its output are bounded) and 8 (it gets nothing of the node's
environment but a plain PATH; what it needs of secrets it reads for itself).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

TIMEOUT: Final = 60.0  # seconds
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT: Final = 2000  # bytes of its output, the last ones
_PIECE: Final = 4096


class HookFailed(Exception):
    """It could not be started, exited with another status than 0, or took too long; the text has its output."""


class DnsHook:
    """Both calls return once it exited with 0, and may be repeated: a record that is there is left, and removed once.

    `name` without the root's dot; `value` as it stands in the record.
    """

    def __init__(self, program: Path, timeout: float = TIMEOUT) -> None:
        self._program = program
        self._timeout = timeout

    async def add(self, name: str, value: str) -> None:
        """Raises HookFailed."""
        await self._call("add", name, value)

    async def remove(self, name: str, value: str) -> None:
        """Raises HookFailed."""
        await self._call("remove", name, value)

    async def _call(self, action: str, name: str, value: str) -> None:
        what = f"{self._program} {action} {name}"
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._program),
                action,
                name,
                value,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(action, name, value),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(f"{what}: {error.strerror or error}") from error
        output = b""
        try:
            async with asyncio.timeout(self._timeout):
                output = await _last_of(process.stdout)
                status = await process.wait()
        except TimeoutError:
            raise HookFailed(f"{what}: not done within {self._timeout:g} s") from None
        finally:
            await _end(process)
        if status != 0:
            raise HookFailed(f"{what}: status {status}: {output.decode(errors='replace').strip()}")


def _environment(action: str, name: str, value: str) -> dict[str, str]:
    own = {"WAKEGATE_ACME_ACTION": action, "WAKEGATE_ACME_NAME": name, "WAKEGATE_ACME_VALUE": value}
    return {"PATH": PATH, "LANG": "C.UTF-8"} | own


async def _last_of(stream: asyncio.StreamReader | None) -> bytes:
    kept = b""
    while stream is not None and (piece := await stream.read(_PIECE)):
        kept = (kept + piece)[-_KEPT:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    """It and what it started: nothing of it stays."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
