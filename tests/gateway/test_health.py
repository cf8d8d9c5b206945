"""A replica's health: the table of its states, times out, probation, decay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from parts import an_exchange

from gateway.health import DOWN, EJECTED, GOOD, IN_A_ROW, TRANSITIONS, WARMING, Health


def ejected(at: float) -> Health:
    health = Health()
    for _ in range(IN_A_ROW):
        health.failed(at, True, False)
    assert health.health == EJECTED
    return health


def fail_on_probation(health: Health) -> float:
    """How long it is out for the next failure."""
    at = health.until
    assert health.due(at)
    assert health.failed(at, True, True)
    return health.until - at


def test_a_connect_that_fails_takes_it_out_at_once_until_one_succeeds() -> None:
    health = Health()
    assert health.unreached(10.0)
    assert (health.health, health.due(10.2), health.due(10.25)) == (DOWN, False, True)
    assert not health.unreached(10.1), "begun before it was known"
    times = []
    for _ in range(6):
        at = health.until
        assert not health.unreached(at)
        times.append(health.until - at)
    assert times == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    health.reached(100.0)
    assert (health.health, health.failures, health.warm_at) == (GOOD, 0, 100.0 + WARMING)


def test_five_in_a_row_eject_and_an_answer_between_them_does_not_count_them_together() -> None:
    health = Health()
    for _ in range(3):
        for _ in range(IN_A_ROW - 1):
            assert not health.failed(0.0, True, False)
        assert not health.answered(0.0, False)
    for _ in range(IN_A_ROW - 1):
        assert not health.failed(0.0, True, False)
    assert health.failed(0.0, True, False)
    assert health.until == 0.25


def test_who_may_not_be_ejected_stays_until_he_may() -> None:
    health = Health()
    for _ in range(100):
        assert not health.failed(0.0, False, False)
    assert health.health == GOOD
    assert health.failed(0.0, True, False)


def test_each_ejection_is_longer_and_service_takes_the_length_back() -> None:
    health = ejected(0.0)
    times = [fail_on_probation(health) for _ in range(9)]
    assert times == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    back = health.until
    assert health.answered(back, True)
    assert health.health == GOOD
    again = back + 35.0  # three doublings are forgiven
    for _ in range(IN_A_ROW):
        health.failed(again, True, False)
    assert health.until - again == 4.0
    assert health.answered(again + 4.0, True)
    later = again + 1000.0
    for _ in range(IN_A_ROW):
        health.failed(later, True, False)
    assert health.until - later == 0.25


def test_what_was_sent_before_the_ejection_changes_nothing() -> None:
    health = ejected(0.0)
    assert not health.failed(0.1, True, False)
    assert not health.answered(0.1, False)
    assert (health.health, health.until) == (EJECTED, 0.25)
    down = Health()
    down.unreached(0.0)
    assert not down.failed(1.0, True, True)
    assert not down.answered(1.0, True)
    assert down.health == DOWN


def test_one_on_probation_at_a_time_and_a_stream_that_goes_on_is_none() -> None:
    health = ejected(0.0)
    health.probe = an_exchange()
    assert not health.due(1.0)
    health.answered(1.0, True)
    assert health.probe is None
    for _ in range(IN_A_ROW):
        health.failed(2.0, True, False)
    assert health.due(health.until)


def test_probation_waits_a_second_for_a_request_that_can_be_sent_again() -> None:
    health = ejected(0.0)
    assert not health.daring(0.25)
    assert health.daring(1.25)
    health = Health()
    health.unreached(0.0)
    assert health.daring(0.25), "no byte leaves before the connect has succeeded"


EVENTS = st.lists(
    st.tuples(st.sampled_from(["unreached", "reached", "failed", "answered", "renewed"]), st.booleans(), st.booleans()),
    max_size=60,
)


@given(EVENTS, st.floats(0.0, 40.0))
def test_whatever_happens_it_is_back_within_half_a_minute(events: list[tuple[str, bool, bool]], pause: float) -> None:
    health, now = Health(), 0.0
    for event, may_eject, probing in events:
        now += pause
        before = health.health
        if event == "unreached":
            health.unreached(now)
        elif event == "failed":
            health.failed(now, may_eject, probing)
        elif event == "answered":
            health.answered(now, probing)
        elif event == "reached":
            health.reached(now)
        else:
            health.renewed()
        moved = (before, health.health)
        assert (
            moved[0] == moved[1]
            or event == "renewed"
            or moved[1] in [to for (at, _), to in TRANSITIONS.items() if at == before]
        )
        assert health.until - now <= 30.0
        assert 0 <= health.doublings <= 7
        if health.health == GOOD and event != "renewed":
            assert may_eject is False or health.failures < IN_A_ROW or event != "failed"
        else:
            assert event == "renewed" or health.failures > 0, "the hot path looks only then"
