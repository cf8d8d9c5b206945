"""How busy the GPUs of each service are, in rows as traffic is: looked at each second by who leads. Pure.

The sums of a slot are put down once it is over. Those of a leader that is gone are lost, and a commit whose answer was
lost may be repeated: both leave the mean as it is, or nearly.
"""

from __future__ import annotations

from collections.abc import Mapping

from control.analytics.chunks import row_line
from state.counts import Counts, slot_of


class GpuLooks:
    """`look` at all services at once; `take` what is over. A service has at most one sum for each slot."""

    def __init__(self) -> None:
        self._slot = 0
        self._sums: dict[str, Counts] = {}
        self._over: dict[str, list[bytes]] = {}

    def look(self, percent: Mapping[str, float], now: float) -> None:
        """`percent` by service, of those that were measured; `now`: Unix seconds."""
        if slot_of(now) != self._slot:
            self._finish()
            self._slot = slot_of(now)
        for service, value in percent.items():
            sums = self._sums.setdefault(service, Counts())
            sums.gpu_looks += 1
            sums.gpu_hundredths += round(value * 100)

    def take(self) -> dict[str, list[bytes]]:
        """Lines by service, once."""
        over, self._over = self._over, {}
        return over

    def _finish(self) -> None:
        self._over = {service: [row_line(self._slot, sums)] for service, sums in self._sums.items()}
        self._sums = {}
