"""A directory of each replica's own, and in it how the replica ended: told once, also over a restart of control.

`<root>/<replica>/replica.json` says what it is (each driver in its own words), `exit.json` how it ended.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from activator.drivers import Exit
from activator.drivers.files import read_regular, write_whole

LIMIT = 1 << 20  # bytes of a file that are read


class Endings:
    """All methods do file work and raise `OSError`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, replica_id: str) -> Path:
        return self._root / replica_id

    def ended(self, replica_id: str, how: Exit) -> None:
        write_whole(self.directory(replica_id) / "exit.json", json.dumps(dataclasses.asdict(how)).encode())

    def exit(self, replica_id: str) -> Exit | None:
        content = read_regular(self.directory(replica_id) / "exit.json", LIMIT)
        if content is None:
            return None
        how = json.loads(content)
        return Exit(how["code"], how["signal"], how["stopped"], tuple(how["last_lines"]))

    def remove(self, replica_id: str) -> None:
        """The record goes first: what a killed removal leaves is not a replica any more."""
        (self.directory(replica_id) / "replica.json").unlink(missing_ok=True)
        shutil.rmtree(self.directory(replica_id), ignore_errors=True)
