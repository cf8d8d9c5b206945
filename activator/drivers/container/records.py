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

from activator.drivers.endings import LIMIT, Endings
from activator.drivers.files import read_regular, write_whole

from .body import Identity


class Records(Endings):
    """The directories of one node's replicas. All methods do file work and raise `OSError`."""

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
            content = read_regular(directory / "replica.json", LIMIT)
            if content is None:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                record = json.loads(content)
                yield Identity(**{**record, "gpus": tuple(record["gpus"])})
