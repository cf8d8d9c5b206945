"""Who was right before: he is not shut out because somebody else at his address is wrong.

Law 7: bounded; who is forgotten was quiet for longest. Times are monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_KEYS: Final = 10_000


class Acquaintances:
    """Remembered for `kept` seconds after they were met."""

    def __init__(self, kept: float, keys: int = _KEYS) -> None:
        self._kept = kept
        self._keys = keys
        self._seen: OrderedDict[str, float] = OrderedDict()

    def met(self, key: str, now: float) -> None:
        self._seen[key] = now
        self._seen.move_to_end(key)
        while len(self._seen) > self._keys:
            self._seen.popitem(last=False)

    def known(self, key: str, now: float) -> bool:
        at = self._seen.get(key)
        return at is not None and now - at <= self._kept
