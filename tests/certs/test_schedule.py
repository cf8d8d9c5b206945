"""When which claim is looked at, and in turn between namespaces."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from certs.schedule import Schedule


def taken(schedule: Schedule, most: int = 100) -> list[str]:
    found = []
    while len(found) < most and (claim := schedule.take()) is not None:
        found.append(claim)
    return found


def test_what_is_due_comes_by_its_time():
    schedule = Schedule(share=8)
    schedule.put("a/1", "a", 30, 1)
    schedule.put("a/2", "a", 10, 2)
    assert schedule.due(5) == 10
    assert schedule.take() is None
    assert schedule.due(20) == 30
    assert taken(schedule) == ["a/2"]
    assert schedule.due(30) is None
    assert taken(schedule) == ["a/1"]
    schedule.done("a/1", 50)
    assert schedule.due(40) == 50


def test_namespaces_take_turns_and_none_has_more_than_its_share():
    schedule = Schedule(share=2)
    for i in range(1000):
        schedule.put(f"many/{i:04}", "many", 0, i + 1)
    schedule.put("one/1", "one", 0, 2000)
    schedule.due(1)
    assert taken(schedule) == ["many/0000", "one/1", "many/0001"]
    schedule.done("many/0000", 100)
    assert taken(schedule) == ["many/0002"]


def test_a_change_counts_and_an_echo_of_ones_own_does_not():
    schedule = Schedule(share=8)
    schedule.put("a/1", "a", 10, 1)
    schedule.due(10)
    assert taken(schedule) == ["a/1"]
    schedule.put("a/1", "a", 500, 7)  # what this look wrote comes back before its end
    schedule.done("a/1", 100, 7)
    assert schedule.due(10) == 100
    schedule.put("a/1", "a", 20, 7)
    assert schedule.due(10) == 100
    schedule.put("a/1", "a", 20, 8)
    assert schedule.due(10) == 20
    schedule.due(20)
    assert taken(schedule) == ["a/1"]
    schedule.put("a/1", "a", 30, 9)
    schedule.done("a/1", 100, None)
    schedule.due(20)
    assert taken(schedule) == ["a/1"], "it changed while it was looked at"


def test_what_is_gone_is_not_looked_at_and_leaves_its_place():
    schedule = Schedule(share=1)
    schedule.put("a/1", "a", 0, 1)
    schedule.put("a/2", "a", 0, 2)
    schedule.due(0)
    assert taken(schedule) == ["a/1"]
    schedule.drop("a/1")
    assert taken(schedule) == ["a/2"]
    schedule.done("a/1", 5)
    schedule.drop("a/2")
    schedule.done("a/2", 5)
    schedule.drop("a/2")
    assert (len(schedule), schedule.take(), schedule.due(100)) == (0, None, None)
    assert repr(schedule) == "<Schedule: 0 claims, 0 due, 0 busy>"


def test_changes_without_end_need_no_memory():
    schedule = Schedule(share=1)
    for version in range(1, 20_000):
        schedule.put("a/1", "a", version, version)
    assert len(schedule._times) < 2000


def test_everything_can_be_hastened():
    schedule = Schedule(share=8)
    for i in range(3):
        schedule.put(f"a/{i}", "a", 10**15, i + 1)
    schedule.hasten("a/2")
    schedule.due(0)
    assert taken(schedule) == ["a/2"]
    schedule.hasten_all()
    schedule.hasten("b/1")
    schedule.due(0)
    assert sorted(taken(schedule)) == ["a/0", "a/1"]


def test_what_its_owner_asks_for_comes_first_and_the_last_of_it_before_the_rest():
    schedule = Schedule(share=1)
    for i in range(5):
        schedule.put(f"a/{i}", "a", i, i + 1)
    schedule.put("a/new", "a", 8, 10, asked=True)
    schedule.due(8)
    schedule.put("a/3", "a", 9, 11, asked=True)  # it waits for its turn already
    schedule.due(9)
    order = []
    while (claim := schedule.take()) is not None:
        order.append(claim)
        schedule.done(claim, 100)
    assert order == ["a/3", "a/new", "a/0", "a/1", "a/2", "a/4"]


def test_what_is_asked_for_while_it_is_looked_at_comes_first_afterwards():
    schedule = Schedule(share=1)
    schedule.put("a/1", "a", 0, 1)
    schedule.put("a/2", "a", 0, 2)
    schedule.due(0)
    assert schedule.take() == "a/1"
    schedule.put("a/1", "a", 5, 3, asked=True)
    schedule.done("a/1", 100)
    schedule.due(5)
    assert schedule.take() == "a/1"
    schedule.done("a/1", 100)
    assert schedule.take() == "a/2"


def test_claims_without_an_answer_have_half_of_the_places():
    schedule = Schedule(share=4)
    for i in range(200):
        schedule.put(f"a/{i:03}", "a", 0, i + 1, silent=i < 100)
    schedule.due(0)
    assert taken(schedule) == [f"a/{i}" for i in range(100, 104)]
    schedule = Schedule(share=4)
    for i in range(200):
        schedule.put(f"a/{i:03}", "a", 0, i + 1, silent=True)
    schedule.due(0)
    assert taken(schedule) == ["a/000", "a/001"]
    schedule.put("a/good", "a", 1, 300)
    schedule.put("a/150", "a", 1, 301, asked=True)  # to ask for it makes it no faster
    schedule.due(1)
    assert taken(schedule) == ["a/good"]
    schedule.done("a/000", 1000)
    assert taken(schedule) == ["a/150"], "nothing was asked of 000, it is silent as before"
    schedule.done("a/150", 1000, silent=False)
    schedule.put("a/150", "a", 2, 302, asked=True)
    schedule.due(2)
    assert taken(schedule) == ["a/150", "a/002"]


class Turns(RuleBasedStateMachine):
    """Every claim is in one place: it waits for its time, for its turn, or is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(share=2)
        self.busy: set[str] = set()
        self.known: set[str] = set()
        self.silent: set[str] = set()
        self.version = self.now = 0

    @rule(claim=st.sampled_from(["a/1", "a/2", "a/3", "b/1"]), wait=st.integers(0, 5), asked=st.booleans())
    def put(self, claim: str, wait: int, asked: bool) -> None:
        self.version += 1
        silent = claim in self.silent
        self.schedule.put(claim, claim[0], self.now + wait, self.version, asked=asked, silent=silent)
        self.known.add(claim)

    @rule(claim=st.sampled_from(["a/1", "b/1"]))
    def drop(self, claim: str) -> None:
        self.schedule.drop(claim)
        self.known.discard(claim)
        self.busy.discard(claim)

    @rule(time=st.integers(0, 5))
    def take(self, time: int) -> None:
        self.now += time
        self.schedule.due(self.now)
        claim = self.schedule.take()
        if claim is None:
            return
        assert claim in self.known - self.busy
        self.busy.add(claim)
        assert sum(1 for one in self.busy if one[0] == claim[0]) <= 2
        assert sum(1 for one in self.busy & self.silent if one[0] == claim[0]) <= 1

    @rule(wait=st.integers(0, 5), wrote=st.booleans(), silent=st.booleans())
    def done(self, wait: int, wrote: bool, silent: bool) -> None:
        for claim in sorted(self.busy)[:1]:
            self.version += wrote
            self.schedule.done(claim, self.now + wait, self.version if wrote else None, silent=silent)
            self.busy.discard(claim)
            self.silent = self.silent | {claim} if silent else self.silent - {claim}

    @invariant()
    def nothing_is_forgotten(self) -> None:
        schedule = self.schedule
        assert set(schedule._entries) == self.known
        assert schedule._busy.total() == len(self.busy)
        assert all(schedule._ready.values()), "no empty queue is kept"
        for claim, entry in schedule._entries.items():
            waits = entry.at is not None and (entry.at, claim) in schedule._times
            queued = sum(claim in queue for queue in schedule._ready.values())
            assert entry.busy + waits + queued == 1
        assert sum(map(len, schedule._ready.values())) <= len(self.known)


TestTurns = Turns.TestCase
