"""The states of an exchange as one table: `{(state, event): state}`, and what may be read in each.

A state is a request state and a response state in one integer. Tunnels have one of their own. What the table doesn't
list can't happen. The design's response states HEAD, BODY and DONE are called STARTED, FLOWING and COMPLETE here,
because the request's have those names.
"""

from __future__ import annotations

from typing import Final

# Request states, times 8.
HEAD: Final = 0  # the head is read; nothing has been done with it
HELD: Final = 8  # waits for a replica, or for the connection to one
BODY: Final = 16  # goes to a replica
DONE: Final = 24  # has gone there completely
GONE: Final = 32  # the client has left
TUNNEL: Final = 40  # neither side speaks HTTP any more

# Response states.
NONE: Final = 0
INTERIM: Final = 1  # 1xx only
STARTED: Final = 2  # the final head has left (HEAD in the design's words)
FLOWING: Final = 3  # so has some of the body (BODY)
COMPLETE: Final = 4  # all of it (DONE)
CUT: Final = 5  # it ended before its end

# Events.
HOLD: Final = 0
FORWARD: Final = 1
REQUEST_END: Final = 2
RETRY: Final = 3
INTERIM_HEAD: Final = 4
RESPONSE_HEAD: Final = 5
RESPONSE_BODY: Final = 6
RESPONSE_END: Final = 7
ANSWER: Final = 8
BREAK: Final = 9
LEAVE: Final = 10
UPGRADE: Final = 11
_EVENTS: Final = 12

_PIPELINED: Final = 64 * 1024  # bytes of further requests read while one is answered


def _transitions() -> dict[tuple[int, int], int]:
    """(state, event) -> state, as the design says it."""
    table: dict[tuple[int, int], int] = {}
    table[HEAD | NONE, HOLD] = HELD | NONE
    table[HEAD | NONE, FORWARD] = table[HELD | NONE, FORWARD] = BODY | NONE
    for response in (NONE, INTERIM, STARTED, FLOWING):
        table[BODY | response, REQUEST_END] = DONE | response
    for request in (BODY, DONE):
        for response in (NONE, INTERIM):
            table[request | response, RETRY] = HELD | NONE
            table[request | response, INTERIM_HEAD] = request | INTERIM
            table[request | response, RESPONSE_HEAD] = request | STARTED
        for response in (STARTED, FLOWING):
            table[request | response, RESPONSE_BODY] = request | FLOWING
            table[request | response, RESPONSE_END] = request | COMPLETE
            table[request | response, BREAK] = request | CUT
    for request in (HEAD, HELD):
        table[request | NONE, ANSWER] = request | COMPLETE
        table[request | NONE, LEAVE] = GONE | NONE
    for request in (BODY, DONE):
        for response in (NONE, INTERIM):
            table[request | response, ANSWER] = request | COMPLETE
        for response in (NONE, INTERIM, STARTED, FLOWING):
            table[request | response, LEAVE] = GONE | response
    table[DONE | NONE, UPGRADE] = table[DONE | INTERIM, UPGRADE] = TUNNEL
    table[TUNNEL, LEAVE] = GONE
    table[TUNNEL, BREAK] = TUNNEL | CUT
    table[TUNNEL, RESPONSE_END] = TUNNEL | COMPLETE
    return table


TRANSITIONS: Final = _transitions()
_NEXT: Final = [TRANSITIONS.get((at // _EVENTS, at % _EVENTS), -1) for at in range(48 * _EVENTS)]


class IllegalStep(Exception):
    """The table doesn't list it: a bug of ours, never of a peer's."""


def step(state: int, event: int) -> int:
    """The state after `event`. Raises IllegalStep."""
    following = _NEXT[state * _EVENTS + event]
    if following < 0:
        raise IllegalStep(f"state {state}, event {event}")
    return following


def may_read_request(state: int, upstream_full: bool, waiting: int) -> bool:
    """Whether to read from the client. `waiting`: bytes read already that nobody has taken."""
    request = state & ~7
    if request in (BODY, TUNNEL):
        return not upstream_full
    if request == DONE:
        return waiting < _PIPELINED
    if request == HELD:
        return waiting == 0
    return request == HEAD


def may_read_response(state: int, downstream_full: bool) -> bool:
    """Whether to read from the replica."""
    return not downstream_full
