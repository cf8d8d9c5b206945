"""Idle connections to replicas: kept newest last, bounded per replica and in all, expired by the sweep.

Newest first out: the fewer connections a replica needs, the sooner the others expire. A replica that told how long it
keeps idle connections (`Keep-Alive: timeout=5`) is believed, less a second, because a request sent into a closing
connection may be lost (RFC 9112 9.5). When the worker has too many, those that would expire next are closed, an eighth
of all at once, so that looking for them costs little per connection and busy replicas keep theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.replica import Replica
    from gateway.sides import Upstream
    from gateway.sweep import Sweep

_MARGIN: Final = 1.0  # seconds before the replica closes
_EIGHTH: Final = 8


class Pool:
    """Of one worker. `timeout`: seconds idle; `limit`: connections per replica; `total`: of all replicas."""

    __slots__ = ("_limit", "_replicas", "_sweep", "_timeout", "_total", "closed", "size")

    def __init__(self, sweep: Sweep, timeout: float, limit: int, total: int) -> None:
        self._sweep = sweep
        self._timeout = timeout
        self._limit = limit
        self._total = total
        self._replicas: dict[Replica, None] = {}  # that have, or had, idle connections
        self.size = 0  # idle connections
        self.closed = 0  # for there were too many

    def take(self, replica: Replica, sure: bool, now: float) -> Upstream | None:
        """An idle connection that can carry a request, out of the list. `sure`: the request can't be sent twice."""
        idle = replica.idle
        while idle:
            up = idle.pop()
            self.size -= 1
            if up.usable_until > now and up.alive(sure):
                up.reused_at = now
                return up
            up.abort()
        return None

    def give(self, replica: Replica, up: Upstream, now: float, reuse_for: int) -> None:
        """Keep a connection for the next request, or close it if there are enough.

        `reuse_for`: seconds for which the replica keeps it, 0: it did not say.
        """
        timeout = self._timeout
        if reuse_for:
            timeout = min(timeout, max(reuse_for - _MARGIN, 0.0))
        if timeout <= 0.0 or not replica.ready:
            up.abort()
            return
        if len(replica.idle) >= self._limit or self._total == 0:
            self.closed += 1
            up.abort()
            return
        if self.size >= self._total:
            self.make_room()
        up.usable_until = now + timeout
        replica.idle.append(up)
        self.size += 1
        if not replica.pooled:
            replica.pooled = True
            self._replicas[replica] = None
        self._sweep.arm(up, up.usable_until)

    def discard(self, replica: Replica, up: Upstream) -> None:
        """It closed, expired or misbehaved while idle."""
        if up in replica.idle:
            replica.idle.remove(up)
            self.size -= 1

    def close(self, replica: Replica) -> None:
        """The replica leaves the rotation."""
        while replica.idle:
            self.size -= 1
            replica.idle.pop().abort()
        if replica.pooled:
            replica.pooled = False
            del self._replicas[replica]

    def make_room(self) -> int:
        """Close an eighth of the idle connections, one at least. Returns how many."""
        soonest = sorted([up.usable_until for replica in self._replicas for up in replica.idle])
        if not soonest:
            return 0
        before = self.closed
        last = soonest[len(soonest) // _EIGHTH]
        for replica in list(self._replicas):
            going = [up for up in replica.idle if up.usable_until <= last]
            for up in going:
                self.discard(replica, up)
                up.abort()
            self.closed += len(going)
            if not replica.idle:
                self.close(replica)
        return self.closed - before

    def __repr__(self) -> str:
        return f"<Pool {self.size}/{self._total} of {len(self._replicas)} replicas>"
