"""Exact concurrency, model-checked: every order in which requests, messages and faults can come, over the real code."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from slots_model import Act, Setting, State, explore

# The states are counted, so that a model that became smaller by mistake is noticed.
SETTINGS = {
    "three requests over two workers": (Setting(arrivals=3, ticks=0), 9000),
    "two replicas": (Setting(arrivals=3, replicas=("r1", "r2"), ticks=0), 6000),
    "three workers": (Setting(workers=3, arrivals=2, ticks=0), 800),
    "a lower limit": (Setting(arrivals=2, limits=(2, 1), ticks=0), 4000),
    "a higher limit": (Setting(arrivals=2, limits=(1, 2), ticks=0), 7000),
    "a hint is lost": (Setting(arrivals=2, faults=(("hint", 1),)), 2000),
    "a message or its answer is lost, or late": (Setting(arrivals=2, ticks=0, faults=(("lost", 1),)), 800),
    "a worker is killed": (Setting(arrivals=2, ticks=0, faults=(("death", 1),)), 1900),
    "the store is restarted, with or without its last writes": (
        Setting(arrivals=2, ticks=0, faults=(("restart", 1),)),
        2900,
    ),
    "a worker is cut off": (Setting(arrivals=2, ticks=0, faults=(("cut", 1), ("leap", 2))), 10_000),
    "a worker is cut off beside the replica": (
        Setting(arrivals=2, ticks=0, faults=(("cut", 1), ("leap", 2)), home=("r1",)),
        12_000,
    ),
    "two workers are cut off": (Setting(arrivals=1, ticks=0, faults=(("cut", 2), ("leap", 2))), 2700),
    "a worker is cut off while the store is restarted": (
        Setting(arrivals=1, ticks=0, faults=(("cut", 1), ("leap", 2), ("restart", 1))),
        4400,
    ),
    "the same beside the replica": (
        Setting(arrivals=1, ticks=0, faults=(("cut", 1), ("leap", 2), ("restart", 1)), home=("r1",)),
        4400,
    ),
    "a worker is killed and a message lost": (Setting(arrivals=2, ticks=0, faults=(("death", 1), ("lost", 1))), 5000),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_state_keeps_the_laws(name: str) -> None:
    setting, least = SETTINGS[name]
    assert explore(setting, 60_000).states >= least


def test_a_message_that_is_heard_very_late_changes_nothing() -> None:
    """Too long a story to be found among all."""
    fetch = (("heard", 0), ("told", 0))
    state = State.first(Setting(arrivals=4, faults=(("lost", 1),)))
    state = follow(state, (("arrive", 0), *fetch, ("end", 0, "r1"), ("arrive", 1), ("heard", 1), ("told", 1)))
    state = follow(state, (("hint", 0), ("given up", 0)))  # what is lost says that it gives its slot back
    late = state.workers[0].ghosts.pop()  # on its way for long
    state = follow(state, (("tick",), *fetch, ("hint", 1), *(("heard", 1), ("told", 1)) * 2, ("end", 1, "r1")))
    state = follow(state, (("arrive", 0), *fetch, ("hint", 1), ("heard", 1), ("hint", 0), *fetch))
    assert state.workers[0].busy == {"r1": 1}
    state.workers[0].ghosts.append(late)
    state = follow(state, (("ghost", 0, 0), ("told", 1), ("arrive", 1), ("heard", 1), ("told", 1)))
    assert state.workers[1].busy == {}


def follow(state: State, story: Iterable[Act]) -> State:
    for act in story:
        assert act in list(state.acts()), (act, list(state.acts()))
        state = state.after(act)
        state.check()
    return state
