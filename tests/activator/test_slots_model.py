"""Exact concurrency, model-checked: every order in which requests, messages and faults can come, over the real code."""

from __future__ import annotations

import pytest
from slots_model import Setting, explore

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
    "a worker is killed and a message lost": (Setting(arrivals=2, ticks=0, faults=(("death", 1), ("lost", 1))), 5000),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_state_keeps_the_laws(name: str) -> None:
    setting, least = SETTINGS[name]
    assert explore(setting, 60_000).states >= least
