"""Running a build's commands, under the loop of production."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import uvloop

from activator.drivers.process.run import Runner
from activator.drivers.process.spawn import Command, base_environment
from activator.drivers.process.sweep import Scope, Sweeper
from activator.drivers.process.users import Identity


class Opener(threading.Thread):
    """Opens and closes a file over and over: notices when somebody else closes its descriptor."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.stolen: list[OSError] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                for _ in range(3):
                    os.listdir(descriptor)
                os.close(descriptor)
            except OSError as error:
                self.stolen.append(error)


def test_no_descriptor_is_closed_that_another_thread_has_just_opened(tmp_path: Path) -> None:
    async def build() -> list[bool]:
        runner = Runner(Sweeper(Scope(tmp_path / "homes")))
        command = Command("echo built", tmp_path, base_environment(tmp_path), Identity())
        return [(await runner.run(command, 10)).tail == ("built",) for _ in range(120)]

    openers = [Opener(tmp_path) for _ in range(4)]
    for opener in openers:
        opener.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert all(runner.run(build()))
    finally:
        for opener in openers:
            opener.over.set()
            opener.join()
    assert [error for opener in openers for error in opener.stolen] == []
