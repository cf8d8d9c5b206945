"""Who must acknowledge: what a vanished registration means."""

from __future__ import annotations

from activator.census import Census, Count

R1, R2 = "run 1", "run 2"


def read(census: Census, run_id: str, *registered: str) -> Count:
    return census.read(census.known(), run_id, registered)


def count(*workers: str, lost: tuple[str, ...] = (), over: tuple[str, ...] = ()) -> Count:
    return Count(frozenset(workers), frozenset(lost), frozenset(over))


def test_one_that_goes_within_a_run_was_ended_by_somebody() -> None:
    census = Census()
    assert read(census, R1, "a", "b") == count("a", "b")
    assert read(census, R1, "b") == count("b")
    assert read(census, R2, "b") == count("b")


def test_one_that_goes_with_the_run_was_lost() -> None:
    census = Census()
    read(census, R1, "a", "b")
    assert read(census, R2, "b") == count("a", "b", lost=("a",))
    assert read(census, R2, "b") == count("a", "b", lost=("a",))
    census.restored({"a"}, R2)
    assert read(census, R2, "b") == count("b")


def test_one_that_was_only_heard_counts() -> None:
    census = Census()
    census.heard("a", last=False)
    assert read(census, R1) == count("a", lost=("a",))
    census.heard("a", last=True)
    assert read(census, R1) == count()


def test_one_that_is_heard_after_it_was_ended_is_alive() -> None:
    census = Census()
    read(census, R1, "a")
    read(census, R1)
    census.heard("a", last=False)
    assert read(census, R1) == count("a", lost=("a",))


def test_nobody_comes_back_after_a_last_report() -> None:
    census = Census()
    read(census, R1, "a", "b")
    census.heard("a", last=True)
    census.heard("a", last=False)
    assert read(census, R1, "a", "b") == count("b", over=("a",))
    census.restored({"a"}, R2)
    assert read(census, R2, "b") == count("b")


def test_a_reading_says_nothing_of_those_who_came_meanwhile() -> None:
    census = Census()
    before = census.known()
    read(census, R1, "a")
    assert census.read(before, R1, ()) == count()
    assert read(census, R1, "a") == count("a")


def test_an_older_reading_does_not_end_who_was_restored_since() -> None:
    census = Census()
    read(census, R1, "a")
    before = census.known()
    census.restored({"a"}, R2)
    assert census.read(before, R2, ()) == count("a", lost=("a",))
