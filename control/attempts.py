"""How often somebody may be wrong: a bound on guessing, and on the work that guesses make.

Law 7: bounded in memory as well; who is forgotten was quiet for longest. Times are monotonic seconds.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

_KEYS: Final = 10_000  # remembered of each kind


class Attempts:
    """`limit` failures at once for each key, and as many again in `window` seconds."""

    def __init__(self, limit: int, window: float = 60.0, keys: int = _KEYS) -> None:
        self._limit = limit
        self._pace = window / limit  # seconds in which one failure is forgiven
        self._keys = keys
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> failures, when

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, key: str, now: float) -> float:
        """Seconds until this one may try again; 0 = now."""
        return max(0.0, (self._level(key, now) - self._limit + 1) * self._pace)

    def failed(self, key: str, now: float) -> None:
        self._levels[key] = self._level(key, now) + 1, now
        self._levels.move_to_end(key)
        while len(self._levels) > self._keys:
            self._levels.popitem(last=False)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (0.0, now))
        return max(0.0, level - (now - at) / self._pace)


class Acquaintances:
    """Who was right before, for `kept` seconds: he is not stopped because somebody else is wrong."""

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


def network(address: str) -> str:
    """Whom an address stands for: one of IPv6 for its /64, which one host has to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found if found.version == 4 else found.ipv4_mapped)
