"""Two random choices, fewest in flight (Mitzenmacher 2001): a pure function of the replicas and a random number."""

from __future__ import annotations

from gateway.replica import Replica


def pick(replicas: list[Replica], limit: int, now: float, dice: int) -> Replica | None:
    """A replica for one more request, or None if none may take it.

    `limit`: requests at once per replica, 0 = any number. `dice`: at least 32 random bits. A replica that is backing
    off after a failed connect is passed over.
    """
    count = len(replicas)
    if count == 1:
        only = replicas[0]
        return only if fits(only, limit, now) else None
    if count == 0:
        return None
    first = (dice & 0xFFFF) % count
    second = (first + 1 + (dice >> 16 & 0xFFFF) % (count - 1)) % count
    a, b = replicas[first], replicas[second]
    if fits(a, limit, now):
        return b if b.in_flight < a.in_flight and fits(b, limit, now) else a
    return b if fits(b, limit, now) else _fewest(replicas, limit, now)


def fits(replica: Replica, limit: int, now: float) -> bool:
    """Whether one more may go there; after a failure one at a time, until a connect succeeds."""
    if replica.failures:
        return replica.down_until <= now and replica.in_flight == 0
    return limit == 0 or replica.in_flight < limit


def free(replicas: list[Replica], limit: int, now: float, waiting: int) -> int:
    """How many of `waiting` requests could be sent now."""
    total = 0
    for replica in replicas:
        if fits(replica, limit, now):
            total += 1 if replica.failures else limit - replica.in_flight if limit else waiting
    return min(waiting, total)


def _fewest(replicas: list[Replica], limit: int, now: float) -> Replica | None:
    """Neither choice fits: look at all, so that no request waits beside a free replica."""
    best: Replica | None = None
    for replica in replicas:
        if fits(replica, limit, now) and (best is None or replica.in_flight < best.in_flight):
            best = replica
    return best
