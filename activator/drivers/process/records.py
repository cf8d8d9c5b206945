"""What is kept on disk of each replica, so that another control finds it (law 4).

`replica.json` says what it is, `pid` (written by the child itself) which process, `exit.json` how it ended; `stdout`
and `stderr` are its raw output, which relays append to and the log collector takes in and frees.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from activator.drivers import Launch
from activator.drivers.endings import LIMIT, Endings
from activator.drivers.files import read_regular, write_whole

from .procfs import Stat, alive, boot_id, parse_stat, uid_of
from .relay import STREAMS
from .users import Identity


@dataclass(frozen=True, slots=True)
class Record:
    """A replica as it was launched. `boot`: pids of another boot mean nothing; `home`, `port`: its marks."""

    replica_id: str
    service_id: str
    namespace: str
    deployment_id: str
    artifact: str
    port: int
    home: str
    uid: int | None
    boot: str
    gpus: tuple[str, ...] = ()

    @classmethod
    def of(cls, launch: Launch, home: str, who: Identity, boot: str, gpus: Sequence[str] = ()) -> Record:
        return cls(
            replica_id=launch.replica_id,
            service_id=launch.service_id,
            namespace=launch.namespace,
            deployment_id=launch.deployment_id,
            artifact=launch.artifact,
            port=launch.port,
            home=home,
            uid=who.uid,
            boot=boot,
            gpus=tuple(gpus),
        )


class Records(Endings):
    """The directories `<data-dir>/replicas/<id>`. All methods do file work and raise `OSError`."""

    def create(self, record: Record) -> None:
        """Everything but the process; what an interrupted start of the same id left is replaced."""
        directory = self.directory(record.replica_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in ("pid", *STREAMS):
            os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
        write_whole(directory / "replica.json", json.dumps(dataclasses.asdict(record)).encode())

    def all(self) -> Iterator[Record]:
        """Every replica there is a readable record of; the rest (a start that never came so far) is removed."""
        for directory in sorted(self._root.iterdir()):
            record = self._read(directory.name)
            if record is None:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                yield record

    def running(self) -> dict[str, int]:
        """The pids of the replicas whose very process lives. For who does not own them: nothing is changed by it."""
        boot, found = boot_id(), {}
        for name in sorted(os.listdir(self._root)) if self._root.exists() else ():
            record, stat = self._read(name), self.process(name)
            if record is None or stat is None or record.boot != boot or not alive(stat.pid, stat.start):
                continue
            if record.uid is None or uid_of(stat.pid) == record.uid:
                found[name] = stat.pid
        return found

    def _read(self, replica_id: str) -> Record | None:
        content = read_regular(self.directory(replica_id) / "replica.json", LIMIT)
        if content is None:
            return None
        record = json.loads(content)
        return Record(**{**record, "gpus": tuple(record.get("gpus", ()))})

    def process(self, replica_id: str) -> Stat | None:
        """What the child wrote of itself; `None` if it has not (yet) or the line is not whole."""
        content = read_regular(self.directory(replica_id) / "pid", LIMIT) or b""
        if not content.endswith(b"\n"):
            return None
        try:
            return parse_stat(content.decode("utf-8", "replace"))
        except ValueError:
            return None

    def age(self, replica_id: str, now: float) -> float:
        """Seconds since the record was written; `now` and the result are of the wall clock."""
        return now - (self.directory(replica_id) / "replica.json").stat().st_mtime
