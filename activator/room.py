"""The waiting room of one service in one worker: where requests are held while no replica can take them.

The laws it keeps:

- It is bounded: `admit` answers at once, and a full room refuses (SPEC section 3: 503 with `Retry-After`).
- It is first in, first out: `release` hands out the oldest, and only as many as there is room for at the replicas.
- Whoever leaves (`cancel`) leaves at once, in constant time, and is never handed out afterwards.
- Everyone who entered comes out exactly once: released, expired or cancelled. The four counters say how many did.

Pure: it reads no clock and calls nobody. Times are seconds of any clock that never goes back (the loop's); `now` must
not decrease from call to call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import takewhile
from typing import Generic, TypeVar

T = TypeVar("T")


class Room(Generic[T]):
    """A bounded queue of items that hash by identity (or by anything else that tells them apart).

    `limit` (items) and `timeout` (seconds) may be changed at any time and count for those already inside: a lower limit
    sends nobody away.
    """

    __slots__ = ("_since", "cancelled", "expired_total", "limit", "refused", "released", "timeout")

    def __init__(self, limit: int, timeout: float) -> None:
        self.limit = limit
        self.timeout = timeout
        self.refused = 0
        self.released = 0
        self.cancelled = 0
        self.expired_total = 0
        # Ordered by arrival, which is also the order of expiry. Not a plain dict: finding its first key walks over all
        # the deleted ones before it.
        self._since: OrderedDict[T, float] = OrderedDict()

    def admit(self, item: T, now: float) -> bool:
        """Take `item` in at the end of the queue. False: the room is full, nothing was changed but `refused`.

        Raises ValueError if it is inside already.
        """
        if not self._may_enter(item):
            return False
        self._since[item] = now
        return True

    def readmit(self, item: T, since: float) -> bool:
        """Take an item that was released but not served back to its place, with the time of its first arrival.

        It stands before all who came later, or at the same time, and doesn't wait longer than the others for having
        tried. That takes as long as there are earlier ones: others that came back. False: the room is full. Raises
        ValueError if it is inside already.
        """
        if not self._may_enter(item):
            return False
        earlier = list(takewhile(lambda other: self._since[other] < since, self._since))
        self._since[item] = since
        for first in (item, *reversed(earlier)):
            self._since.move_to_end(first, last=False)
        return True

    def cancel(self, item: T) -> bool:
        """`item` leaves. False: it is not (or no longer) inside."""
        if item not in self._since:
            return False
        del self._since[item]
        self.cancelled += 1
        return True

    def release(self, free: int) -> list[T]:
        """The `free` oldest items, or all if there are fewer, in order of arrival. They are out."""
        count = min(free, len(self._since))
        out = [self._pop() for _ in range(count)] if count > 0 else []
        self.released += len(out)
        return out

    def expired(self, now: float, most: int | None = None) -> list[T]:
        """Those who have waited `timeout` seconds or longer, oldest first, `most` of them at most. They are out."""
        out: list[T] = []
        while self._since and self.oldest(now) >= self.timeout and len(out) != most:
            out.append(self._pop())
        self.expired_total += len(out)
        return out

    def oldest(self, now: float) -> float:
        """For how many seconds the first in the queue has been waiting; 0 if it is empty."""
        return now - self.first(now)

    def first(self, now: float) -> float:
        """When the first in the queue came in; `now` if it is empty."""
        return next(iter(self._since.values()), now)

    def since(self, item: T) -> float:
        """When `item` came in. Raises KeyError if it is not inside."""
        return self._since[item]

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, item: object) -> bool:
        return item in self._since

    def __iter__(self) -> Iterator[T]:
        """In order of arrival; don't change the room meanwhile."""
        return iter(self._since)

    def __repr__(self) -> str:
        return f"<Room {len(self._since)}/{self.limit}>"

    def _may_enter(self, item: T) -> bool:
        if item in self._since:
            raise ValueError("already in the room")
        if len(self._since) >= self.limit:
            self.refused += 1
            return False
        return True

    def _pop(self) -> T:
        item, _ = self._since.popitem(last=False)
        return item
