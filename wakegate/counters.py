"""The counters of `/metrics` on disk, so that they go on where they were when control is started anew.

Prometheus takes a counter that falls for one that began at zero, and counts all of what it shows as new: one that fell
by a little would count twice. So nothing is shown before it is on the disk, and a file that can't be read is left out
whole: then they begin at zero. One line of JSON for each part, the last says that all are there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from activator.drivers.files import write_whole
from gateway.exposition import State, WorkerState

FILE: Final = "metrics.json"
_END: Final = ["end", 1]  # the version of the format

log = logging.getLogger("wakegate.metrics")


@dataclass(frozen=True, slots=True)
class Kept:
    """What counters go on from: those of the workers, and of cold starts as `ColdStarts.state` has them, if any."""

    traffic: State
    cold_starts: Mapping[str, Any] | None = None


class CountersFile:
    """Of one control process at a time. Both methods do file work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def write(self, kept: Kept) -> None:
        """It survives a power cut. Where it can't be written, that is told once."""
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in _lines(kept))
        try:
            write_whole(self._path, text.encode(), durable=True)
        except OSError as error:
            if not self._failed:
                log.warning("the counters of /metrics can't be kept in %s: %s", self._path, error)
            self._failed = True
        else:
            self._failed = False

    def read(self) -> Kept | None:
        """What was written last; None if there is nothing, or it can't be understood."""
        try:
            return _kept([json.loads(line) for line in self._path.read_bytes().splitlines()])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("the counters of /metrics begin anew: %s can't be read: %s", self._path, error)
            return None


def _lines(kept: Kept) -> Iterator[Sequence[Any]]:
    state = kept.traffic
    yield "totals", state.sums, state.own
    for service in state.services:
        yield "service", *service
    for worker in state.workers:
        yield "worker", worker.name, worker.seq, worker.own, worker.sums, worker.requests
    if kept.cold_starts is not None:
        yield "cold_starts", kept.cold_starts
    yield _END


def _kept(lines: Sequence[Sequence[Any]]) -> Kept:
    """Raises ValueError, TypeError, KeyError."""
    if not lines or lines[-1] != _END:
        raise ValueError("its end is missing, or of another version")
    parts: Mapping[str, list[Any]] = {"totals": [], "service": [], "worker": [], "cold_starts": []}
    for kind, *values in lines[:-1]:
        parts[kind].append(values)
    ((sums, own),) = parts["totals"]
    services = [(str(i), str(namespace), str(name), dict(codes)) for i, namespace, name, codes in parts["service"]]
    traffic = State(services, dict(sums), dict(own), [WorkerState(*values) for values in parts["worker"]])
    return Kept(traffic, next((dict(counted) for (counted,) in parts["cold_starts"]), None))
