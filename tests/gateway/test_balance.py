"""Which replica is picked: two choices, limits, failures, slow start."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from parts import an_exchange

from gateway.balance import DICE, choose, fits, free, may_eject, pick
from gateway.health import DOWN, EJECTED, GOOD, WARMING
from gateway.messages import Request
from gateway.replica import UNLIMITED, Replica

GET = Request(b"GET", b"/", False)
POST = Request(b"POST", b"/", False)

DICES = st.integers(0, 2**DICE - 1)
REPLICAS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([GOOD, DOWN, EJECTED]), st.booleans()), max_size=6)


def replicas(*in_flight: int, limit: int = 0) -> list[Replica]:
    """`limit`: slots of each, 0 = any number."""
    made = []
    for at, count in enumerate(in_flight):
        replica = Replica(f"r{at}", "127.0.0.1", 1000 + at)
        replica.in_flight = count
        replica.slots = limit or UNLIMITED
        made.append(replica)
    return made


def in_state(states: list[tuple[int, int, bool]], limit: int = 0) -> list[Replica]:
    """Of (in flight, health, its time is over); it is 10.0 now."""
    made = replicas(*[count for count, _, _ in states], limit=limit)
    for replica, (_, health, over) in zip(made, states, strict=True):
        replica.health = health
        replica.until = 5.0 if over else 15.0
    return made


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 4), DICES)
def test_pick_finds_one_exactly_if_one_fits(loads: list[int], limit: int, dice: int) -> None:
    choices = replicas(*loads, limit=limit)
    chosen = pick(choices, 0.0, dice)
    able = [replica for replica in choices if fits(replica, 0.0)]
    assert (chosen is not None) == bool(able)
    assert chosen is None or chosen in able


@given(REPLICAS, st.integers(0, 4), DICES, st.sampled_from([GET, POST]))
def test_held_only_if_none_could_serve(
    states: list[tuple[int, int, bool]], limit: int, dice: int, request: Request
) -> None:
    choices = in_state(states, limit)
    chosen = choose(choices, 10.0, dice, request)
    room = [one for one in choices if limit == 0 or one.in_flight < limit]
    able = [one for one in room if one.health == GOOD or one.due(10.0)]
    if not able and all(one.health != GOOD for one in choices):
        able = [one for one in room if one.health == EJECTED]
    assert (chosen is not None) == bool(able)
    assert chosen is None or chosen in able
    assert (free(choices, 10.0, 100) > 0) == bool(able)


def test_two_choices_spread_the_load() -> None:
    choices = replicas(*[0] * 10)
    dice = random.Random(1)
    for _ in range(1000):
        chosen = pick(choices, 0.0, dice.getrandbits(DICE))
        assert chosen is not None
        chosen.in_flight += 1
    loads = [replica.in_flight for replica in choices]
    assert max(loads) - min(loads) <= 6


def test_after_a_failed_connect_one_at_a_time_whatever_else_is_in_flight() -> None:
    (replica,) = replicas(3)
    replica.unreached(10.0)
    assert choose([replica], 10.1, 0, GET) is None
    assert free([replica], 10.1, 5) == 0
    assert choose([replica], 10.3, 0, POST) is replica
    assert free([replica], 10.3, 5) == 1
    replica.probe = an_exchange()
    assert choose([replica], 10.3, 0, GET) is None
    replica.reached(10.4)
    assert free([replica], 10.4, 5) == 5
    replica.slots = 4
    assert free([replica], 10.4, 5) == 1


@given(REPLICAS)
def test_at_most_half_are_ejected_one_at_least_never_the_last_good_one(states: list[tuple[int, int, bool]]) -> None:
    choices = in_state([(0, GOOD if health == DOWN else health, over) for _, health, over in states])
    for one in choices:
        if may_eject(choices, one) and one.health == GOOD:
            one.health = EJECTED
            out = sum(replica.health == EJECTED for replica in choices)
            assert out <= max(1, len(choices) // 2)
            assert out < len(choices)


def test_how_many_of_how_many() -> None:
    for number, most in ((1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)):
        choices = replicas(*[0] * number)
        for one in choices:
            if may_eject(choices, one):
                one.health = EJECTED
        assert sum(one.health == EJECTED for one in choices) == most


def test_a_probation_prefers_what_can_be_sent_again() -> None:
    good, bad = choices = in_state([(5, GOOD, True), (0, EJECTED, True)])
    bad.until = 10.0
    assert choose(choices, 10.5, 1, GET) is bad
    assert choose(choices, 10.5, 1, POST) is good
    good.slots = 5
    assert choose(choices, 10.5, 1, POST) is bad, "rather than hold it"
    good.slots = UNLIMITED
    assert choose(choices, 11.0, 1, POST) is bad, "nothing else has come for a second"


def share(cold: Replica, warm: Replica, now: float) -> float:
    dice = random.Random(7)
    return sum(pick([cold, warm], now, dice.getrandbits(DICE)) is cold for _ in range(4000)) / 4000


def test_slow_start_is_a_share_that_grows() -> None:
    cold, warm = replicas(0, 0)
    cold.warm_at = 100.0 + WARMING
    shares = [share(cold, warm, 100.0 + second) for second in (0.0, 2.5, 5.0, 7.5, 10.0)]
    for measured, meant in zip(shares, (0.05, 0.125, 0.25, 0.375, 0.5), strict=True):
        assert abs(measured - meant) < 0.03


def test_slow_start_relieves_who_is_busy_and_is_for_nobody_alone() -> None:
    cold, warm = replicas(4, 100)
    cold.warm_at = 10.0
    assert share(cold, warm, 0.0) == 1.0, "it has less than a tenth of the other's load"
    cold.in_flight = 50
    assert 0.05 < share(cold, warm, 0.0) < 0.15
    assert pick([cold], 0.0, 0) is cold
    warm.warm_at = 10.0
    assert share(cold, warm, 0.0) == 1.0, "all are new"


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.floats(0.0, 10.0), DICES)
def test_slow_start_never_makes_a_request_wait(one: int, two: int, limit: int, now: float, dice: int) -> None:
    choices = replicas(one, two, limit=limit)
    choices[0].warm_at = 10.0
    chosen = pick(choices, now, dice)
    assert (chosen is None) == (limit > 0 and min(one, two) >= limit)
    assert chosen is None or fits(chosen, now)
