"""Anti-replay nonces (RFC 8555 6.5): a bounded pool, filled from every answer."""

from __future__ import annotations

from collections import deque
from typing import Final

BOUND: Final = 16


class Nonces:
    """The newest is used first: old ones may have expired. Beyond `bound` the oldest is forgotten."""

    def __init__(self, bound: int = BOUND) -> None:
        self._kept: deque[str] = deque(maxlen=bound)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"Nonces({len(self._kept)})"

    def add(self, nonce: str) -> None:
        self._kept.append(nonce)

    def take(self) -> str | None:
        """One that was never taken before; None if there is none."""
        return self._kept.pop() if self._kept else None
