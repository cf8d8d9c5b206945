"""What the supervisor decides, by values."""

from hypothesis import given
from hypothesis import strategies as st

from activator.drivers.process.driver import STOP_GRACE
from wakegate.supervision import (
    LONGEST_BACKOFF,
    Hearing,
    accepts,
    adoptions,
    attended,
    backoff,
    ending_time,
    failures_after,
    finishing_time,
    lost,
)


def test_the_first_restart_is_immediate_then_the_wait_doubles_up_to_a_bound():
    assert [backoff(failures) for failures in range(6)] == [0, 0, 0.5, 1, 2, 4]
    assert backoff(10_000) == LONGEST_BACKOFF


def test_a_life_that_was_long_enough_forgets_earlier_failures():
    assert failures_after(7, 60.0, was_ready=True) == 1
    assert failures_after(7, 60.0, was_ready=False) == 8
    assert failures_after(7, 1.0, was_ready=True) == 8


def test_control_has_both_drain_times_and_a_margin_to_hand_over_its_replicas():
    assert ending_time(30.0, evacuating=True) == 80.0


def test_a_short_drain_time_leaves_control_the_grace_of_the_replicas():
    assert ending_time(30.0, evacuating=False) == 30.0
    assert ending_time(0.0, evacuating=False) > STOP_GRACE


def test_our_own_stall_counts_as_two_beats_at_most():
    assert attended(0.25) == 0.25
    assert attended(600.0) == 0.5


def test_silence():
    heard = Hearing(silence=0.9, answered=True, ready=True)
    silent = Hearing(silence=1.0, answered=True, ready=True)
    assert accepts(heard)
    assert not accepts(silent)
    assert not accepts(None)
    assert not accepts(Hearing(0.0, answered=True, ready=False))
    assert not lost(silent, waited_for=True)
    assert lost(Hearing(3.0, True, True), waited_for=True)
    assert not lost(Hearing(9.9, True, True), waited_for=False)
    assert lost(Hearing(10.0, True, True), waited_for=False)
    assert not lost(Hearing(59.0, answered=False, ready=False), waited_for=True)  # it imports
    assert lost(Hearing(60.0, answered=False, ready=False), waited_for=False)


def test_both_neighbours_adopt():
    assert adoptions([True, True, True]) == [(), (), ()]
    assert adoptions([True, False, True, True]) == [(1,), (), (1,), ()]
    assert adoptions([False, False, True]) == [(), (), (0, 1)]
    assert adoptions([True, False]) == [(1,), ()]
    assert adoptions([False]) == [()]
    assert adoptions([]) == []


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_nobody_is_left_alone_while_anybody_accepts(accepting):
    given_to = adoptions(accepting)
    for index, accepts_itself in enumerate(accepting):
        by = [other for other, numbers in enumerate(given_to) if index in numbers]
        assert all(accepting[other] for other in by)
        assert len(by) == (0 if accepts_itself else min(2, sum(accepting)))


def test_who_makes_room_for_a_younger_one_still_has_its_drain_timeout():
    assert finishing_time(100.0, 30.0, 100.0) == 30.0
    assert finishing_time(100.0, 30.0, 120.0) == 10.0
    assert finishing_time(100.0, 30.0, 5000.0) == 0.0
