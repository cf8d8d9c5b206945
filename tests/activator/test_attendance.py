"""When a node counts as present, and when as lost: silence counts only while we hear ourselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from activator.attendance import Attendance, Leave, verdicts
from state.models import Node, Offer

OFFER = Offer("process", "us-east-1")
LIVE = Node(OFFER)
GRACE = 30.0


def listening(*others: str, until: float = 0.0) -> Attendance:
    """Has heard itself each second from 0 to `until`, and the others at 0."""
    made = Attendance("own", 5.0)
    for node in ("own", *others):
        made.heard(node, 0.0)
    for second in range(1, int(until) + 1):
        made.heard("own", float(second))
    return made


def judged(attendance: Attendance, now: float, **nodes: Node) -> dict[str, int | None]:
    found = verdicts({"own": LIVE, **nodes}, attendance, "own", GRACE, now, 1_000_000_000)
    return {node: after.lost_at for node, after in found.items()}


def test_a_node_is_present_until_it_is_silent_or_says_that_it_leaves() -> None:
    attendance = listening("a")
    assert attendance.present("a", 4.9)
    assert not attendance.present("a", 5.0)
    attendance.heard("a", 6.0, Leave.RELOAD)
    assert not attendance.present("a", 6.0)
    attendance.heard("a", 7.0)
    assert attendance.present("a", 7.0)
    assert not attendance.present("never", 7.0)


def test_how_a_node_goes_is_its_last_word_until_it_is_back() -> None:
    attendance = listening("a", until=20)
    attendance.heard("a", 6.0, Leave.DRAIN)
    attendance.heard("a", 7.0, Leave.EVICT)
    assert attendance.leaving("a") is Leave.EVICT
    assert attendance.leaving("never") is None
    assert not attendance.present("a", 7.0)
    attendance.heard("a", 21.0)
    assert attendance.leaving("a") is None


def test_a_silent_node_is_lost_after_the_grace_since_it_was_heard() -> None:
    assert judged(listening("a", until=29), 29.9, a=LIVE) == {}
    assert judged(listening("a", until=30), 30.5, a=LIVE) == {"a": 970_000_000}


def test_one_that_was_never_heard_has_as_long_as_the_others() -> None:
    assert judged(listening(until=29), 29.0, a=LIVE) == {}
    assert "a" in judged(listening(until=30), 30.0, a=LIVE)


def test_it_is_heard_again() -> None:
    attendance = listening("a", until=40)
    lost = Node(OFFER, lost_at=5)
    assert judged(attendance, 40.0, a=lost) == {}
    attendance.heard("a", 41.0)
    attendance.heard("own", 41.0)
    assert judged(attendance, 41.0, a=lost) == {"a": None}
    assert judged(attendance, 41.0, own=lost) == {"own": None}, "who judges lives"


def test_an_outage_or_a_stall_begins_the_count_anew_for_everybody() -> None:
    attendance = listening("a", until=20)
    assert judged(attendance, 500.0, a=LIVE) == {}, "nobody can be heard"
    assert attendance.silence("a", 500.0) == 0
    attendance.heard("own", 500.0)
    assert judged(attendance, 500.5, a=LIVE) == {}
    for second in range(501, 530):
        attendance.heard("own", float(second))
    assert judged(attendance, 529.0, a=LIVE) == {}
    attendance.heard("own", 530.0)
    assert "a" in judged(attendance, 530.0, a=LIVE)


def test_all_are_known_once_they_were_heard_or_had_time_to() -> None:
    attendance = Attendance("own", 5.0)
    assert not attendance.complete(["a"], 0.0)
    attendance.heard("own", 0.0)
    assert attendance.complete([], 0.0)
    assert not attendance.complete(["a"], 0.0)
    attendance.heard("a", 1.0)
    assert attendance.complete(["a"], 1.0)
    for second in range(1, 6):
        attendance.heard("own", float(second))
    assert attendance.complete(["a", "dead"], 5.0)
    attendance.heard("own", 100.0)
    assert not attendance.complete(["a"], 100.0), "it was heard before the outage"


@given(st.lists(st.tuples(st.sampled_from(["own", "a", "b"]), st.floats(0.01, 20.0)), max_size=60))
def test_nobody_is_lost_without_the_whole_grace_of_our_own_hearing(beats: list[tuple[str, float]]) -> None:
    attendance, now, heard, since, last = Attendance("own", 5.0), 0.0, dict.fromkeys("ab", -1.0), -1.0, -100.0
    for node, wait in beats:
        now += wait
        attendance.heard(node, now)
        if node == "own":
            since = now if now - last >= 5.0 else since
            last = now
        else:
            heard[node] = now
        for lost in judged(attendance, now, a=LIVE, b=LIVE):
            assert last - max(since, heard[lost]) >= GRACE
