"""The simulation of prompt caches: what it says of the product's choice, on a small plan."""

from __future__ import annotations

from bench.prompt_caches import Plan, simulate, table

SMALL = Plan(workers=1, seconds=300.0, cache=200_000)


def test_caches_have_more_of_the_prompts_and_no_replica_has_much_more_to_do() -> None:
    plain, by_prefix = simulate(SMALL, "two choices"), simulate(SMALL, "prefix")
    assert plain.requests == by_prefix.requests > 1000
    assert by_prefix.share > 1.3 * plain.share
    assert by_prefix.first_token < plain.first_token
    assert by_prefix.busiest < 1.25


def test_the_same_plan_says_the_same() -> None:
    assert simulate(SMALL, "prefix") == simulate(SMALL, "prefix")
    assert table({"small": SMALL}).count("\n") == 3
