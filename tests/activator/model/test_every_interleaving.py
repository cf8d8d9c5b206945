"""Sleep and wake in every interleaving: no request is lost, nobody waits for ever, all returns to zero.

What is explored, how, and what was found by it: `docs/scale-to-zero.md`.
"""

from __future__ import annotations

import pytest
from exploring import Found, explore, settle
from mutations import MUTATIONS, Mutation, planted
from scenarios import ALL
from sleep_parts import Scenario


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_law_holds_in_every_state(scenario: Scenario) -> None:
    result = explore(scenario)
    print(f"{scenario.name}: {len(result.worlds)} states, {result.transitions} transitions")
    settle(result)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_in_the_rules_is_found(mutation: Mutation) -> None:
    with planted(mutation), pytest.raises(Found) as found:
        settle(explore(mutation.scenario))
    print(found.value)
    assert mutation.told in str(found.value)
