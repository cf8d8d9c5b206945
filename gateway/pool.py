"""Idle connections to replicas: kept newest last, bounded per replica, expired by the sweep.

Newest first out: the fewer connections a replica needs, the sooner the others expire. A replica that told how long it
keeps idle connections (`Keep-Alive: timeout=5`) is believed, less a second, because a request sent into a closing
connection may be lost (RFC 9112 9.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.replica import Replica
    from gateway.sides import Upstream
    from gateway.sweep import Sweep

_MARGIN: Final = 1.0  # seconds before the replica closes


def take(replica: Replica, sure: bool, now: float) -> Upstream | None:
    """An idle connection that can carry a request, out of the list. `sure`: the request can't be sent twice."""
    idle = replica.idle
    while idle:
        up = idle.pop()
        if up.usable_until > now and up.alive(sure):
            return up
        up.abort()
    return None


def give(replica: Replica, up: Upstream, sweep: Sweep, now: float, timeout: float, limit: int, reuse_for: int) -> None:
    """Keep a connection for the next request, or close it if there are enough. Times in seconds."""
    if reuse_for:
        timeout = min(timeout, max(reuse_for - _MARGIN, 0.0))
    if len(replica.idle) >= limit or timeout <= 0.0 or not replica.ready:
        up.abort()
        return
    up.usable_until = now + timeout
    replica.idle.append(up)
    sweep.arm(up, up.usable_until)


def discard(replica: Replica, up: Upstream) -> None:
    """It closed, expired or misbehaved while idle."""
    if up in replica.idle:
        replica.idle.remove(up)


def close_idle(replica: Replica) -> None:
    """The replica leaves the rotation."""
    while replica.idle:
        replica.idle.pop().abort()
