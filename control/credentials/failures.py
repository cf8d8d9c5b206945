"""Failed authentications, bounded per client address.

A secret has 256 bits, so nobody finds one by trying; this keeps who tries from costing more than an answer, and the log
of refusals readable. A good key is let in from any address, so that nobody can shut out his neighbours behind the same
proxy. Counted by each node for itself: a stranger must not be able to write to the store. Addresses of IPv6 count by
their /64, which is what one client has.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

LIMIT: Final = 600  # failures of an address per WINDOW
WINDOW: Final = 60.0  # seconds
ADDRESSES: Final = 10_000  # remembered; who has more can't be told from many clients


class Failures:
    """The generic cell rate algorithm, as in `quota.lua`. Times are monotonic seconds."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._interval = WINDOW / limit
        self._whole: OrderedDict[str, float] = OrderedDict()  # client -> when nothing counts against it any more
        self.total = 0

    def wait(self, address: str | None, now: float) -> float:
        """Seconds until a client may fail again; 0 = now."""
        return max(0.0, self._whole.get(client_of(address), now) + self._interval - now - WINDOW)

    def note(self, address: str | None, now: float) -> float:
        """One more failure of a client: 0, or the seconds for which it has had enough of them."""
        self.total += 1
        client = client_of(address)
        after = max(self._whole.pop(client, now), now) + self._interval
        wait = max(0.0, after - now - WINDOW)
        self._whole[client] = after if not wait else after - self._interval
        while len(self._whole) > ADDRESSES:
            self._whole.popitem(last=False)
        return wait


def client_of(address: str | None) -> str:
    """Who is counted as one: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
