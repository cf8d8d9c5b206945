"""Which workers must acknowledge, beyond what the store says at this moment (law 3).

A registration that vanished is no proof that its worker ended: a store that came back with its last second missing, or
a standby that took over, has never had it. Within one run of the server, though, a registration goes only because
somebody ended it. So a worker that was registered or heard counts until its registration is seen to go within a run in
which it was seen, or until its last report says so. Pure: what was read is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

_ENDED_KEPT: Final = 1000  # workers whose last report was heard


@dataclass(frozen=True, slots=True)
class Count:
    """What follows from one reading: `workers` must acknowledge; of them the store has `lost` the registrations;
    `over` are registered though they said good-bye."""

    workers: frozenset[str]
    lost: frozenset[str]
    over: frozenset[str]


class Census:
    """Tell it of every report, and of every reading of the registrations."""

    def __init__(self) -> None:
        # by worker: the run of the store in which it was last seen registered, "" if it was only heard
        self._runs: dict[str, str] = {}
        self._ended: dict[str, None] = {}

    def heard(self, worker: str, *, last: bool) -> None:
        """It reported. `last`: it serves nobody any more, whatever it may still say."""
        if last:
            self._runs.pop(worker, None)
            self._ended[worker] = None
            if len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        elif worker not in self._ended:
            self._runs.setdefault(worker, "")

    def known(self) -> Mapping[str, str]:
        """To be taken before the registrations are read, for `read`: who comes meanwhile is not missing in them."""
        return dict(self._runs)

    def read(self, known: Mapping[str, str], run_id: str, registered: Collection[str]) -> Count:
        """Take in who is registered in this run of the store."""
        for worker, run in known.items():
            if worker not in registered and run == run_id:
                self._runs.pop(worker, None)
        over = frozenset(worker for worker in registered if worker in self._ended)
        present = frozenset(registered) - over
        lost = frozenset(worker for worker in known if worker in self._runs and worker not in registered)
        for worker in present:
            self._runs[worker] = run_id
        return Count(present | lost, lost, over)

    def restored(self, workers: Collection[str], run_id: str) -> None:
        """Their registrations were made again in this run, unless they ended meanwhile."""
        for worker in workers:
            if worker in self._runs:
                self._runs[worker] = run_id
