"""Consistent hashing with bounded loads, as properties: even, stable, bounded, the same everywhere."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.health import EJECTED
from gateway.rendezvous import bound, prefer, seed
from gateway.replica import Replica

KEYS = st.integers(1, (1 << 64) - 1)
COUNTS = st.integers(1, 12)


def replicas(count: int, loads: list[int] | None = None) -> list[Replica]:
    made = []
    for at in range(count):
        replica = Replica(f"replica-{at}", "127.0.0.1", 1)
        replica.seed = seed(replica.id)
        replica.in_flight = loads[at] if loads is not None else 0
        made.append(replica)
    return made


def order(count: int, key: int) -> list[str]:
    """All replicas, the one that `key` prefers first."""
    left, found = replicas(count), []
    while first := prefer(left, key):
        found.append(first.id)
        left.remove(first)
    return found


@given(KEYS, COUNTS, st.randoms(use_true_random=False))
def test_every_worker_finds_the_same_in_whatever_order_it_knows_them(key: int, count: int, dice: random.Random) -> None:
    some = replicas(count)
    first = prefer(some, key)
    dice.shuffle(some)
    assert prefer(some, key) is first is not None


@given(KEYS, st.integers(2, 12))
def test_who_leaves_moves_his_own_keys_alone(key: int, count: int) -> None:
    some = replicas(count)
    first = prefer(some, key)
    for gone in some:
        if gone is not first:
            assert prefer([one for one in some if one is not gone], key) is first


@given(KEYS, st.lists(st.integers(0, 30), min_size=1, max_size=12), st.lists(st.integers(0, 30), min_size=12))
def test_never_over_the_bound_nor_the_slots_and_the_first_that_is_below(
    key: int, loads: list[int], slots: list[int]
) -> None:
    some = replicas(len(loads), loads)
    for replica, most in zip(some, slots, strict=False):
        replica.slots = most
    most = bound(sum(loads), len(loads))
    assert most == math.ceil(1.25 * (sum(loads) + 1) / len(loads))
    able = {one.id for one in some if one.in_flight < min(most, one.slots)}
    found = prefer(some, key)
    assert (found.id if found else None) == next((each for each in order(len(loads), key) if each in able), None)


@given(KEYS, st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_without_slots_there_is_always_room(key: int, loads: list[int]) -> None:
    assert prefer(replicas(len(loads), loads), key) is not None


def test_all_keys_one_after_the_other_stay_within_the_bound() -> None:
    some = replicas(5)
    for sent in range(1000):
        found = prefer(some, 42)
        assert found is not None
        found.in_flight += 1
        assert max(one.in_flight for one in some) <= bound(sent, 5)


def test_keys_are_spread_evenly_and_a_newcomer_takes_his_part() -> None:
    dice = random.Random(1)
    keys = [dice.getrandbits(64) for _ in range(20_000)]
    eight = replicas(8)
    before = [prefer(eight, key) for key in keys]
    shares = [before.count(one) for one in eight]
    assert max(shares) < 1.1 * len(keys) / 8
    nine = replicas(9)
    moved = [old.id != new.id for key, old in zip(keys, before, strict=True) if old and (new := prefer(nine, key))]
    assert 0.9 / 9 < sum(moved) / len(keys) < 1.1 / 9


def test_who_is_ejected_is_asked_by_nobody() -> None:
    some = replicas(3)
    first = prefer(some, 7)
    assert first is not None
    first.health = EJECTED
    assert prefer(some, 7) not in (first, None)
    for one in some:
        one.health = EJECTED
    assert prefer(some, 7) is None
