"""Deadlines without timers: one pass every 250 ms over what is due.

Whoever has a deadline is a `Timed` and sits in the bucket of the tick at which it must be looked at. Moving a deadline
later, which happens with every request, only writes a float; the bucket finds out when its tick comes. So a deadline
is kept at most one tick late, and costs nothing on the warm path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

TICK: Final = 0.25  # seconds
_NEVER: Final = math.inf


class Timed:
    """Something with a deadline (seconds of `time.monotonic`)."""

    __slots__ = ("deadline", "looked_at", "tick")

    def __init__(self) -> None:
        self.deadline = 0.0
        self.tick = -1  # the bucket that holds it, -1: none
        self.looked_at = _NEVER  # when that bucket's tick comes

    def expire(self, now: float) -> None:
        """The deadline has passed. Must set another, or be out of the sweep afterwards."""
        raise NotImplementedError


class Sweep:
    """The buckets. `run(now)` is called by the loop every `TICK` seconds."""

    __slots__ = ("_buckets", "_last", "date", "hooks")

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._last = int(now / TICK)
        self.hooks: list[Callable[[float], None]] = []
        self.date = b""
        self.tell_time()

    def arm(self, timed: Timed, deadline: float) -> None:
        """Have `timed.expire` called at `deadline`, or up to one tick later."""
        timed.deadline = deadline
        if deadline < timed.looked_at:
            self._move(timed, int(deadline / TICK) + 1)

    def _move(self, timed: Timed, tick: int) -> None:
        if timed.tick >= 0:
            if tick >= timed.tick:
                return
            self._take(timed)
        self._put(timed, tick)

    def disarm(self, timed: Timed) -> None:
        if timed.tick >= 0:
            self._take(timed)

    def run(self, now: float) -> None:
        """Expire what is due, then call the hooks."""
        self.tell_time()
        current = int(now / TICK)
        while self._last < current:
            self._last += 1
            due = self._buckets.pop(self._last, None)
            if due is not None:
                for timed in list(due):
                    if timed.tick == self._last:
                        timed.tick = -1
                        timed.looked_at = _NEVER
                        self._look(timed, now)
        for hook in self.hooks:
            hook(now)

    def _look(self, timed: Timed, now: float) -> None:
        if timed.deadline > now:
            self._put(timed, int(timed.deadline / TICK) + 1)
        else:
            timed.expire(now)

    def _put(self, timed: Timed, tick: int) -> None:
        if tick <= self._last:
            tick = self._last + 1
        timed.tick = tick
        timed.looked_at = tick * TICK
        self._buckets.setdefault(tick, {})[timed] = None

    def _take(self, timed: Timed) -> None:
        bucket = self._buckets.get(timed.tick)
        if bucket is not None:
            bucket.pop(timed, None)
            if not bucket:
                del self._buckets[timed.tick]  # its tick may be minutes away, and thousands may have been in it
        timed.tick = -1
        timed.looked_at = _NEVER

    def tell_time(self) -> None:
        """Refresh `date`, the text of Date (RFC 9110 5.6.7)."""
        self.date = format_date(time.time())


_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def format_date(at: float) -> bytes:
    """IMF-fixdate; not strftime, whose names follow the locale."""
    t = time.gmtime(at)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        _DAYS[t.tm_wday],
        t.tm_mday,
        _MONTHS[t.tm_mon - 1],
        t.tm_year,
        t.tm_hour,
        t.tm_min,
        t.tm_sec,
    )
