"""One replica while control runs: its process, how it is asked to end, and how its end becomes known."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from activator.drivers import Exit, Observed

from .procfs import Stat, kill
from .records import Record
from .relay import Relays
from .spawn import Process
from .sweep import Owner, Sweeper, gone

HOST = "127.0.0.1"


class Replica:
    """Alive while `exit` is `None`. `done` is set once nothing of it runs and everybody has been told."""

    def __init__(
        self,
        record: Record,
        directory: Path,
        *,
        process: Process | None = None,
        relays: Relays | None = None,
        how: Exit | None,
    ) -> None:
        self.record = record
        self.directory = directory
        self.process = process
        self.relays = relays
        self.exit = how
        self.stopping = False
        self.grace_over = asyncio.Event()  # what outlives the first process may be killed
        self.grace_over.set()
        self.done = asyncio.Event()
        if how is not None:
            self.done.set()

    def __repr__(self) -> str:
        return f"<Replica {self.record.replica_id} port {self.record.port} {self.process or self.exit}>"

    @property
    def uid(self) -> int:
        """Who its processes run as, and whose its sockets are."""
        return os.geteuid() if self.record.uid is None else self.record.uid

    def owner(self, process: Process) -> Owner:
        """Its marks for the sweeper."""
        return Owner(
            name=self.record.replica_id,
            pid=process.pid,
            start=process.start,
            home=os.fsencode(self.record.home),
            port=str(self.record.port).encode(),
        )

    def observed(self) -> Observed:
        return Observed(
            replica_id=self.record.replica_id,
            service_id=self.record.service_id,
            namespace=self.record.namespace,
            deployment_id=self.record.deployment_id,
            host=HOST,
            port=self.record.port,
            alive=self.exit is None,
            pid=self.process.pid if self.process is not None and self.exit is None else None,
            exit=self.exit,
            gpus=self.record.gpus,
        )

    def ended(self, code: int | None, number: int | None, last_lines: tuple[str, ...]) -> Exit:
        self.exit = Exit(code, number, stopped=self.stopping, last_lines=last_lines)
        return self.exit


async def terminate(replica: Replica, sweeper: Sweeper, grace: float) -> None:
    """Ask all of it to end, kill what is left when `grace` seconds are over, and wait until it is `done`.

    The grace is for all of it: a shell that dies of SIGTERM at once must not take the server that it wraps along.
    A second call with a shorter grace hurries the first.
    """
    name = replica.record.replica_id
    replica.stopping = True
    replica.grace_over.clear()
    try:
        members = await sweeper.members(name)
        if grace > 0:
            _ask(replica, members)
            members = await _left_after(grace, members, name, sweeper)
        for stat in members:
            kill(stat.pid, stat.start, signal.SIGKILL)
    finally:
        replica.grace_over.set()
    await replica.done.wait()


def _ask(replica: Replica, members: Iterable[Stat]) -> None:
    """SIGTERM to its process group and to those that left it; SIGCONT, or one that is stopped would not see it."""
    process = replica.process
    if process is None:
        return
    for number in (signal.SIGTERM, signal.SIGCONT):
        process.signal_group(number)
        for stat in members:
            if stat.group != process.pid:
                kill(stat.pid, stat.start, number)


async def _left_after(grace: float, members: list[Stat], name: str, sweeper: Sweeper) -> list[Stat]:
    """What of a replica still runs when the grace is over; nothing as soon as nothing does."""
    deadline = asyncio.get_running_loop().time() + grace
    while members:
        in_time = await gone(members, deadline - asyncio.get_running_loop().time())
        members = await sweeper.members(name)
        if not in_time:
            break
    return members
