"""Garbage and freed memory of a worker: looked for at quiet moments, when nobody waits for it.

What a request needs is freed by counting references, so that there is little for the collector to find: 10,000 held
requests are 100,000 objects, none of them garbage, and to see that stops the loop for 40 ms. So only the young are
collected as they come (generations 0 and 1: 1-5 ms). A full collection waits until nobody is held and the loop has
time, and takes a thousandth of it at most. Law 7: cycles are garbage that must not grow without bound; where it is
never quiet, the collection comes once there are `GROWTH` objects more than twice those that were alive after the last.

Afterwards the C library gives back what it keeps of a burst (`malloc_trim`), which it does by itself only from the end
of its heap. What Python's own allocator keeps is given back by the mebibyte, once none of it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import time
from dataclasses import dataclass
from typing import Final, Protocol

TICK: Final = 1.0  # seconds between looks
QUIET: Final = 0.2  # of a core at most: then the loop has time
EVERY: Final = 10.0  # seconds at least from one collection to the next…
BUSY_EVERY: Final = 60.0  # …where it is not quiet
SHARE: Final = 1000.0  # and so many times as long as the last one took
YOUNG: Final = 10  # collections of generation 1 after which there is something to look at; Python's own threshold
BURST: Final = 500  # connections closed, after which there is memory to give back
GROWTH: Final = 250_000  # objects
_NEVER: Final = 1 << 30


class Plane(Protocol):
    """`gateway.edge.Edge`."""

    @property
    def connections(self) -> int: ...

    @property
    def holds(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen each second.

    `since`: seconds since the last full collection, `took`: CPU seconds that it took, `young`: collections of
    generation 1 since then, `closed`: connections less than at the most since then. `quiet`: nobody would wait.
    """

    since: float
    took: float
    young: int
    closed: int
    quiet: bool


def timely(look: Look) -> bool:
    """Whether to collect now, and to give memory back."""
    due = look.young >= YOUNG or look.closed >= BURST
    return due and look.quiet and look.since >= max(EVERY, SHARE * look.took)


def overdue(look: Look) -> bool:
    """Whether to count the objects, and to collect if they have `grown`, quiet or not."""
    return look.young >= YOUNG and look.since >= max(BUSY_EVERY, SHARE * look.took)


def grown(objects: int, alive: int) -> bool:
    """`objects`: now; `alive`: after the last collection."""
    return objects > 2 * alive + GROWTH


class Tidying:
    """Of one process: `start` on its loop once it serves, `stop` at the end."""

    __slots__ = ("_alive", "_collected", "_computed", "_most", "_plane", "_thresholds", "_timer", "_took", "full")

    def __init__(self, plane: Plane) -> None:
        self.full = 0  # collections
        self._plane = plane
        self._thresholds = gc.get_threshold()
        self._timer: asyncio.TimerHandle | None = None
        self._collected = 0.0
        self._took = 0.0
        self._alive = 0
        self._most = 0
        self._computed = 0.0

    def start(self) -> None:
        """What there is now stays, and is not looked at again: 100,000 routes would take 55-130 ms each time."""
        gc.set_threshold(*self._thresholds[:2], _NEVER)
        self._collect()
        gc.freeze()
        self._alive, self._took = 0, 0.0  # of what is not frozen
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            gc.set_threshold(*self._thresholds)

    def _wait(self) -> None:
        self._computed = time.thread_time()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        look = self._look()
        if timely(look):
            self._collect()
            asyncio.get_running_loop().call_soon(trim)
        elif overdue(look) and grown(len(gc.get_objects(2)), self._alive):
            self._collect()
        self._wait()

    def _look(self) -> Look:
        connections = self._plane.connections
        self._most = max(self._most, connections)
        quiet = not self._plane.holds and time.thread_time() - self._computed <= QUIET * TICK
        since = time.monotonic() - self._collected
        return Look(since, self._took, gc.get_count()[2], self._most - connections, quiet)

    def _collect(self) -> None:
        began = time.thread_time()
        gc.collect()
        self._took = time.thread_time() - began
        self._alive = len(gc.get_objects(2))
        self._collected = time.monotonic()
        self._most = self._plane.connections
        self.full += 1


def trim() -> None:
    """Give back what the C library keeps: some milliseconds for each 10 MiB. Other libraries than glibc have no such
    call.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
