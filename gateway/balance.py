"""Which replica a request goes to: pure functions of the replicas, the time and a random number.

Two random choices, fewest in flight (Mitzenmacher 2001). Laws kept here: no request is held beside a replica that has
room (`Replica.slots` says how much); failures never take more than half of the replicas out of the choice, nor the last
one that serves; when all that are left are ejected they are used all the same, because a failing replica serves more
than none (Envoy's panic mode).
"""

from __future__ import annotations

from typing import Final

from gateway.health import EJECTED, GOOD, WARMING
from gateway.messages import Request
from gateway.replica import Replica

_LEAST_SHARE: Final = 0.1  # of a replica that has just become ready, beside warm ones
DICE: Final = 48  # random bits that a pick takes


def choose(replicas: list[Replica], now: float, dice: int, request: Request) -> Replica | None:
    """A replica for one more request, or None if it must be held.

    `dice`: `DICE` random bits. For a probation, a request that may be sent again if it fails is preferred.
    """
    replica = pick(replicas, now, dice)
    if replica is None:
        return _ejected(replicas)
    if replica.health != GOOD and not request.idempotent and not replica.daring(now):
        return _fewest([one for one in replicas if one.health == GOOD], now) or replica
    return replica


def pick(replicas: list[Replica], now: float, dice: int) -> Replica | None:
    """Two random choices among those that fit, or None if none does. What is out comes back one request at a time."""
    count = len(replicas)
    if count == 1:
        only = replicas[0]
        return only if fits(only, now) else None
    if count == 0:
        return None
    first = (dice & 0xFFFF) % count
    second = (first + 1 + (dice >> 16 & 0xFFFF) % (count - 1)) % count
    a, b = replicas[first], replicas[second]
    if not fits(a, now):
        return b if fits(b, now) else _fewest(replicas, now)
    if not fits(b, now):
        return a
    if b.in_flight < a.in_flight:
        a, b = b, a
    return a if a.warm_at <= now else _slowly(a, b, now, dice >> 32)


def fits(replica: Replica, now: float) -> bool:
    """Whether one more may go there; while it is out, one on probation when its time is over."""
    if replica.health != GOOD and not replica.due(now):
        return False
    return replica.in_flight < replica.slots


def free(replicas: list[Replica], now: float, waiting: int) -> int:
    """How many of `waiting` requests could be sent now."""
    panic = _good(replicas) == 0
    total = 0
    for replica in replicas:
        if replica.health == GOOD or (panic and replica.health == EJECTED):
            total += max(0, replica.slots - replica.in_flight)
        elif fits(replica, now):
            total += 1
    return min(waiting, total)


def shunned(replicas: list[Replica], now: float) -> list[Replica]:
    """Those that no request would be sent to now, whatever room they have."""
    if _good(replicas) == len(replicas):
        return []
    panic = _good(replicas) == 0
    return [
        one for one in replicas if one.health != GOOD and not one.due(now) and not (panic and one.health == EJECTED)
    ]


def may_eject(replicas: list[Replica], one: Replica) -> bool:
    """Whether `one`, in the choice and failing, may be taken out of it.

    Another must be good, and at most half of them out, one at least: failures that all have in common are no reason to
    send all requests to the one that failed last.
    """
    good = _good(replicas)
    out = len(replicas) - good
    others = good - 1 if one.health == GOOD else good
    return others > 0 and out < max(1, len(replicas) // 2)


def _good(replicas: list[Replica]) -> int:
    count = 0
    for replica in replicas:
        if replica.health == GOOD:
            count += 1
    return count


def _slowly(cold: Replica, other: Replica, now: float, dice: int) -> Replica:
    """Slow start: of the picks that would be its, `cold` gets a share that grows with time, if `other` is warm.

    All of them if it has less than that share of the other's load, so that it relieves who is busy.
    """
    if other.warm_at > now:
        return cold
    share = max(_LEAST_SHARE, 1.0 - (cold.warm_at - now) / WARMING)
    if cold.in_flight + 1 <= share * (other.in_flight + 1):
        return cold
    return cold if dice & 0xFFFF < share * 0x10000 else other


def _fewest(replicas: list[Replica], now: float) -> Replica | None:
    """Neither choice fits: look at all, so that no request waits beside a free replica."""
    best: Replica | None = None
    for replica in replicas:
        if fits(replica, now) and (best is None or replica.in_flight < best.in_flight):
            best = replica
    return best


def _ejected(replicas: list[Replica]) -> Replica | None:
    """None fits: if none is good, one that is ejected. Those that are down can't be reached, and are not asked."""
    best: Replica | None = None
    for replica in replicas:
        if replica.health == GOOD:
            return None  # it is full
        able = replica.health == EJECTED and replica.in_flight < replica.slots
        if able and (best is None or replica.in_flight < best.in_flight):
            best = replica
    return best
