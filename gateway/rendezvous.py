"""Which replica a key prefers: consistent hashing with bounded loads, for prompts (`prompts.py`). Pure.

Each key has an order of its own of all replicas, by a hash of both (rendezvous hashing, Thaler and Ravishankar 1998),
and goes to the first one that is not overloaded: none gets more than `_FACTOR` times its part of all that is in flight
(Mirrokni, Thorup and Zadimoghaddam 2016), nor more than its slots. Laws kept here:

- Every worker of every node finds the same order, knowing the replicas alone.
- A replica that joins takes its own part of the keys, from all others alike, and nothing else moves; one that leaves
  gives its part to all others alike. On a ring its neighbour would get all of it, and be the next to overflow.
- A key that overflows goes to the second of its own order, every time, so that one has it in its cache, too.

A pick costs some 0.3 µs for each replica, of which a service has 100 at most.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.health import GOOD
from gateway.replica import Replica

_FACTOR: Final = (5, 4)  # 1.25, in integers
_MASK: Final = (1 << 64) - 1


def seed(replica_id: str) -> int:
    """What tells a replica from others: 64 bits."""
    return int.from_bytes(hashlib.blake2b(replica_id.encode(), digest_size=8, person=b"prefix").digest(), "big")


def bound(in_flight: int, replicas: int) -> int:
    """The most that one of `replicas` may have in flight, the next of all `in_flight` included; at least 1."""
    over, under = _FACTOR
    return -(-over * (in_flight + 1) // (under * replicas))


def prefer(replicas: list[Replica], key: int) -> Replica | None:
    """The first in the order of `key` that has room. None: no replica that is well has."""
    well = [replica for replica in replicas if replica.health == GOOD]
    if not well:
        return None
    most = bound(sum([replica.in_flight for replica in well]), len(well))
    best: Replica | None = None
    highest = -1
    for replica in well:
        if replica.in_flight < most and replica.in_flight < replica.slots:
            score = _mixed(key ^ replica.seed)
            if score > highest:
                best, highest = replica, score
    return best


def _mixed(number: int) -> int:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of 64 depends on every other."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _MASK
    return number ^ (number >> 31)
