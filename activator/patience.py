"""When it is worth an event that a replica which starts is not healthy yet. Pure: seconds since it started."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 10.0
_AGAIN: Final = 60.0


class Patience:
    """Once after a while, and then, not too often, whenever what is found has changed."""

    def __init__(self) -> None:
        self._told: str | None = None
        self._told_at = 0.0

    def over(self, problem: str | None, waited: float) -> bool:
        """Whether to tell this now; it counts as told then."""
        first = self._told is None and waited >= _FIRST
        if not first and (problem == self._told or waited - self._told_at < _AGAIN):
            return False
        self._told, self._told_at = problem, waited
        return True
