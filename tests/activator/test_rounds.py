"""When to look at which repository."""

from __future__ import annotations

import collections
import itertools
import random

import pytest

from activator.rounds import LONGEST_BACKOFF, Rounds


def rounds(pace: float = 0.2) -> Rounds:
    return Rounds(pace, random.Random(7))


def run(made: Rounds, start: float, end: float, *, failing: frozenset[str] = frozenset()) -> list[tuple[float, str]]:
    """Every look from start to end, each of which takes no time."""
    looks, now = [], start
    while (wait := made.wait(now)) is not None and now + wait < end:
        now += wait
        repo = made.take(now)
        assert repo is not None
        looks.append((now, repo))
        made.done(repo, now, failed=repo in failing)
    return looks


def test_each_is_looked_at_once_a_period_and_never_two_at_once():
    made = rounds()
    names = [f"acme/{n}" for n in range(100)]
    for name in names:
        made.put(name, 60.0, 0.0)
    looks = run(made, 0.0, 600.0)
    counts = collections.Counter(name for _, name in looks)
    assert set(counts) == set(names)
    assert all(9 <= count <= 12 for count in counts.values())
    assert all(after[0] - before[0] >= 0.2 - 1e-9 for before, after in itertools.pairwise(looks))


def test_the_first_looks_are_spread_over_the_period():
    made = rounds()
    for n in range(60):
        made.put(str(n), 60.0, 0.0)
    first = run(made, 0.0, 60.5)
    by_tens = collections.Counter(int(at // 10) for at, _ in first)
    assert all(by_tens[ten] >= 3 for ten in range(6))


def test_ten_thousand_repositories_take_longer_and_not_more():
    """5 a second, whatever there is: each has its turn in about 2000 s."""
    made = rounds()
    for n in range(10_000):
        made.put(str(n), 60.0, 0.0)
    looks = run(made, 0.0, 4000.0)
    assert len(looks) <= 4000 * 5 + 1
    counts = collections.Counter(name for _, name in looks)
    assert len(counts) == 10_000
    assert max(counts.values()) <= 3


def test_what_fails_is_looked_at_less_and_less():
    made = rounds()
    made.put("bad", 60.0, 0.0)
    looks = [at for at, _ in run(made, 0.0, 20_000.0, failing=frozenset({"bad"}))]
    gaps = [after - before for before, after in itertools.pairwise(looks)]
    for gap, wanted in zip(gaps, (60, 120, 240, 480, 960, 1920, 3600, 3600), strict=False):
        assert gap == pytest.approx(wanted, rel=0.101)
    assert max(gaps) <= LONGEST_BACKOFF * 1.1
    made.take(30_000.0)
    made.done("bad", 30_000.0, failed=False)
    assert made.wait(30_000.0) == pytest.approx(60, rel=0.101)


def test_a_long_period_is_not_shortened_by_failures():
    made = rounds()
    made.put("slow", 7200.0, 0.0)
    looks = [at for at, _ in run(made, 0.0, 40_000.0, failing=frozenset({"slow"}))]
    assert all(after - before >= 7200 * 0.9 for before, after in itertools.pairwise(looks))


def test_one_that_is_looked_at_is_not_taken_again_before_it_is_done():
    made = rounds(pace=0.0)
    made.put("a", 1.0, 0.0)
    assert made.take(5.0) == "a"
    assert made.wait(500.0) is None
    made.put("a", 1.0, 6.0)
    assert made.take(500.0) is None
    made.done("a", 500.0, failed=False)
    made.done("a", 500.0, failed=False)
    assert made.take(502.0) == "a"


def test_what_was_dropped_is_gone_also_while_it_is_looked_at():
    made = rounds(pace=0.0)
    for name in ("a", "b"):
        made.put(name, 1.0, 0.0)
    made.drop("b")
    made.drop("nothing")
    assert made.take(5.0) == "a"
    made.drop("a")
    made.done("a", 5.0, failed=False)
    assert made.wait(50.0) is None
    assert len(made) == 0
    assert made.take(50.0) is None


def test_one_that_comes_back_while_it_is_looked_at_waits_for_the_end_of_that():
    made = rounds(pace=0.0)
    made.put("a", 1.0, 0.0)
    assert made.take(5.0) == "a"
    made.drop("a")
    made.put("a", 1.0, 5.0)
    assert made.take(50.0) is None
    made.done("a", 50.0, failed=False)
    assert made.take(52.0) == "a"
    made.clear()
    made.done("a", 52.0, failed=False)
    assert made.take(500.0) is None


def test_another_period_counts_at_once():
    made = rounds(pace=0.0)
    made.put("a", 3600.0, 0.0)
    while made.take(4000.0) is None:
        pass
    made.done("a", 4000.0, failed=False)
    made.put("a", 60.0, 4000.0)
    wait = made.wait(4000.0)
    assert wait is not None
    assert wait <= 60.0
    made.put("a", 60.0, 4000.0)
    assert made.wait(4000.0) == wait
    made.put("a", 3600.0, 4000.0)
    later = made.wait(4000.0)
    assert later is not None
    assert later > 60.0  # with this seed: anywhere within the hour


def test_the_queue_stays_small_however_often_the_period_changes():
    made = rounds()
    made.put("a", 3600.0, 0.0)
    for turn in range(5000):
        made.put("a", 7200.0 - turn, 0.0)
        made.put("a", 60.0 - turn / 1000, 0.0)
        made.put("a", 7200.0, 0.0)
    assert len(made) == 1
    assert len(made._queue) < 100
