"""What the simulated world and an algorithm tell each other. Seconds; levels are of the whole service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Report:
    """What the workers' reports say together, each second.

    `mean` is of in flight and held over the second before; `requests` have arrived so far; `gpu_utilization`: percent.
    """

    in_flight: int = 0
    held: int = 0
    mean: float = 0.0
    requests: int = 0
    oldest: float = 0.0  # seconds that the oldest of those held has been so
    gpu_utilization: float | None = None

    @property
    def level(self) -> int:
        return self.in_flight + self.held


class Policy(Protocol):
    """An algorithm, with what it remembers of one service."""

    def hear(self, report: Report, now: float) -> None:
        """The workers' reports of this second."""

    def desired(self, report: Report, ready: int, desired: int, now: float) -> int:
        """How many replicas there should be. `report` is the last one, or tells of the request that wakes it; `desired`
        was the answer before, `ready` are so many."""

    def forget(self, now: float) -> float | None:
        """The service is asleep, and nothing of it is left. When it is to be looked at again without a request."""
