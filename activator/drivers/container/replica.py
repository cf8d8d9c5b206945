"""One replica while control runs: its container, who follows its output, how it is asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from activator.drivers import Exit, Observed

from .body import HOST, Identity
from .engine import Engine, EngineError
from .follow import Follower

_SIGNALLED = 128  # an init process and every shell tell a signal as 128 + its number
_AGAIN = 1.0  # seconds between attempts to end a container while the engine does not answer


class Replica:
    """Alive while `exit` is `None`. `done` is set once its container is gone and everybody has been told."""

    def __init__(self, identity: Identity, directory: Path, container: str | None, how: Exit | None = None) -> None:
        self.identity = identity
        self.directory = directory
        self.container = container
        self.exit = how
        self.follower: Follower | None = None
        self.following: asyncio.Task[None] | None = None
        self.ending = False
        self.stopping = False
        self.stop_signal = "SIGTERM"
        self.done = asyncio.Event()
        if how is not None:
            self.done.set()

    def __repr__(self) -> str:
        return f"<Replica {self.identity.replica_id} port {self.identity.port} {self.exit or self.container}>"

    def observed(self) -> Observed:
        return Observed(
            replica_id=self.identity.replica_id,
            service_id=self.identity.service_id,
            namespace=self.identity.namespace,
            deployment_id=self.identity.deployment_id,
            host=HOST,
            port=self.identity.port,
            alive=self.exit is None,
            exit=self.exit,
            gpus=self.identity.gpus,
        )


async def terminate(replica: Replica, engine: Engine, grace: float) -> None:
    """Ask it to end, kill it when `grace` seconds are over, and wait until it is `done`.

    Not by the engine's own `stop`: a second call with a shorter grace must hurry the first. The init process passes
    the signal on, and when the container's first process ends, all of it ends.
    """
    if replica.container is None:
        await replica.done.wait()
        return
    replica.stopping = True
    if grace > 0:
        with contextlib.suppress(EngineError):  # it is killed in the end
            await engine.kill(replica.container, replica.stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await replica.done.wait()
    while not replica.done.is_set():
        with contextlib.suppress(EngineError):
            await engine.kill(replica.container, "SIGKILL")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN):
                await replica.done.wait()


def how_it_ended(found: Mapping[str, Any] | None, *, stopped: bool, last_lines: tuple[str, ...]) -> Exit:
    """From what `inspect` says of a container that runs no more; `None`: somebody removed it."""
    state = {} if found is None else found.get("State") or {}
    code = state.get("ExitCode")
    if not isinstance(code, int) or code < 0:
        return Exit(stopped=stopped, last_lines=last_lines)
    if state.get("OOMKilled"):
        last_lines = (*last_lines, "wakegate: it used more memory than its limit and was killed")
    number = code - _SIGNALLED
    if number in set(signal.Signals):
        return Exit(signal=number, stopped=stopped, last_lines=last_lines)
    return Exit(code=code, stopped=stopped, last_lines=last_lines)


def stop_signal(found: Mapping[str, Any]) -> str:
    """The signal by which an image wants to be asked: its STOPSIGNAL, a name or a number."""
    return str((found.get("Config") or {}).get("StopSignal") or "SIGTERM")
