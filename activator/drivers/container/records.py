"""What is kept on disk of each replica beside its container: its output, how far that was followed, how it ended.

`<data-dir>/container/replicas/<id>/`: `replica.json` says what it is, `stdout` and `stderr` are its raw output, which
the log collector takes in and frees, `followed.json` is the follower's, `exit.json` says that its end has been told.
A container lives as long as its replica: what is to be known of an ended one is here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from activator.drivers import Exit
from activator.drivers.process.files import read_regular, write_whole

from .body import Identity

_LIMIT = 1 << 20


class Records:
    """The directories of one node's replicas. All methods do file work and raise `OSError`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, replica_id: str) -> Path:
        return self._root / replica_id

    def prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, identity: Identity) -> None:
        """Written before the container is made; output that is there already (of the same replica) is kept."""
        directory = self.directory(identity.replica_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in ("stdout", "stderr"):
            os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        write_whole(directory / "replica.json", json.dumps(dataclasses.asdict(identity)).encode())

    def all(self) -> Iterator[Identity]:
        """Every replica there is a readable record of; the rest is removed."""
        for directory in sorted(self._root.iterdir()):
            content = read_regular(directory / "replica.json", _LIMIT)
            if content is None:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                record = json.loads(content)
                yield Identity(**{**record, "gpus": tuple(record["gpus"])})

    def ended(self, replica_id: str, how: Exit) -> None:
        write_whole(self.directory(replica_id) / "exit.json", json.dumps(dataclasses.asdict(how)).encode())

    def exit(self, replica_id: str) -> Exit | None:
        content = read_regular(self.directory(replica_id) / "exit.json", _LIMIT)
        if content is None:
            return None
        how = json.loads(content)
        return Exit(how["code"], how["signal"], how["stopped"], tuple(how["last_lines"]))

    def remove(self, replica_id: str) -> None:
        """The record goes first: what a killed removal leaves is not a replica any more."""
        (self.directory(replica_id) / "replica.json").unlink(missing_ok=True)
        shutil.rmtree(self.directory(replica_id), ignore_errors=True)
