"""The table of an exchange, walked at random: no way leads out of an end, and every end is reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import states
from gateway.states import TRANSITIONS, IllegalStep, may_read_request, may_read_response, step

EVENTS = range(12)
REQUESTS = (states.HEAD, states.HELD, states.BODY, states.DONE, states.GONE, states.TUNNEL)


def reachable() -> set[int]:
    found, new = set(), {states.HEAD | states.NONE}
    while new:
        found |= new
        new = {after for (before, _), after in TRANSITIONS.items() if before in found} - found
    return found


def test_every_state_of_the_table_is_reached() -> None:
    assert {before for before, _ in TRANSITIONS} <= reachable()


def test_ends_are_ends() -> None:
    for state in reachable():
        over = state & ~7 == states.GONE or state & 7 in (states.COMPLETE, states.CUT)
        ways = [event for event in EVENTS if (state, event) in TRANSITIONS]
        if state & ~7 == states.BODY and state & 7 <= states.FLOWING:
            assert states.REQUEST_END in ways
        assert bool(ways) is not over


@given(st.lists(st.integers(0, 11), max_size=30))
def test_a_walk(events: list[int]) -> None:
    state = states.HEAD | states.NONE
    final_heads = 0
    for event in events:
        if (state, event) not in TRANSITIONS:
            with pytest.raises(IllegalStep):
                step(state, event)
            continue
        after = step(state, event)
        if event in (states.RESPONSE_HEAD, states.ANSWER, states.UPGRADE):
            final_heads += 1
        if event == states.RETRY:
            assert state & 7 <= states.INTERIM
        state = after
    assert final_heads <= 1


def test_gates() -> None:
    assert not may_read_request(states.BODY, True, 0)
    assert may_read_request(states.BODY, False, 10)
    assert may_read_request(states.HELD, False, 0)
    assert not may_read_request(states.HELD, False, 1)
    assert may_read_request(states.DONE, False, 1000)
    assert not may_read_request(states.DONE, False, 1 << 20)
    assert not may_read_request(states.GONE, False, 0)
    assert not may_read_request(states.TUNNEL, True, 0)
    assert may_read_response(states.DONE, False)
    assert not may_read_response(states.DONE, True)
