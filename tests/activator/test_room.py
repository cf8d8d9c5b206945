"""The waiting room: bounded, first in first out, everybody comes out exactly once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from activator.room import Room


def room_of(*items: str, limit: int = 10, timeout: float = 5.0) -> Room[str]:
    room: Room[str] = Room(limit, timeout)
    for now, item in enumerate(items):
        assert room.admit(item, float(now))
    return room


def test_releases_in_order_of_arrival_and_only_as_many_as_are_free() -> None:
    room = room_of("a", "b", "c")
    assert room.release(2) == ["a", "b"]
    assert list(room) == ["c"]
    assert room.release(5) == ["c"]
    assert room.release(5) == []


@pytest.mark.parametrize("free", [0, -1])
def test_no_free_slot_releases_nobody(free: int) -> None:
    room = room_of("a")
    assert room.release(free) == []
    assert len(room) == 1


def test_a_full_room_refuses_at_once_and_counts_it() -> None:
    room = room_of("a", "b", limit=2)
    assert not room.admit("c", 3.0)
    assert (list(room), room.refused) == (["a", "b"], 1)


def test_a_limit_of_zero_holds_nobody() -> None:
    assert not room_of(limit=0).admit("a", 0.0)


def test_who_leaves_frees_the_slot_and_is_never_handed_out() -> None:
    room = room_of("a", "b", "c", limit=3)
    assert room.cancel("b")
    assert room.admit("d", 4.0)
    assert room.release(3) == ["a", "c", "d"]
    assert not room.cancel("a")
    assert (room.cancelled, room.released) == (1, 3)


def test_nobody_is_inside_twice() -> None:
    room = room_of("a")
    with pytest.raises(ValueError, match="already"):
        room.admit("a", 1.0)
    with pytest.raises(ValueError, match="already"):
        room.readmit("a", 1.0)


def test_expiry_takes_the_oldest_at_the_very_timeout() -> None:
    room = room_of("a", "b", timeout=5.0)
    assert room.expired(4.999) == room.expired(60.0, 0) == []
    assert room.expired(5.0) == ["a"]
    assert room.oldest(5.5) == 4.5
    assert room.expired(60.0) == ["b"]
    assert (room.oldest(60.0), room.expired_total) == (0.0, 2)


def test_a_new_timeout_counts_for_those_inside() -> None:
    room = room_of("a", "b")
    room.timeout = 1.0
    assert room.expired(1.5) == ["a"]


def test_a_lower_limit_sends_nobody_away() -> None:
    room = room_of("a", "b", "c")
    room.limit = 1
    assert len(room) == 3
    assert not room.admit("d", 4.0)


def test_an_unserved_item_returns_to_the_front_with_its_own_time() -> None:
    room = room_of("a", "b", "c", timeout=5.0)
    first, second = room.release(2)
    assert room.readmit(second, 1.0)
    assert room.readmit(first, 0.0)
    assert list(room) == ["a", "b", "c"]
    assert room.since("a") == 0.0
    assert room.expired(5.0) == ["a"]


def test_items_that_return_in_any_order_have_their_own_again() -> None:
    room = room_of("a", "b", "c", "d", timeout=5.0)
    room.release(3)
    for item, since in (("b", 1.0), ("a", 0.0), ("c", 2.0)):
        room.readmit(item, since)
    assert list(room) == ["a", "b", "c", "d"]
    assert room.expired(6.0) == ["a", "b"]


def test_the_first_has_the_place_of_whoever_came_when_he_did() -> None:
    room = room_of("a", "b")
    assert room.first(9.0) == 0.0
    room.readmit("new", room.first(9.0))
    assert list(room) == ["new", "a", "b"]
    assert room_of().first(9.0) == 9.0


def test_a_full_room_takes_nobody_back() -> None:
    room = room_of("a", limit=1)
    room.release(1)
    room.admit("b", 1.0)
    assert not room.readmit("a", 0.0)


def test_repr_shows_the_state() -> None:
    room = room_of("a", "b")
    assert repr(room) == "<Room 2/10>"
    assert "a" in room
    assert "z" not in room


class Conversation(RuleBasedStateMachine):
    """Any sequence of calls, against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.room: Room[int] = Room(5, 10.0)
        self.model: list[tuple[int, float]] = []
        self.now = 0.0
        self.entered = 0
        self.left = 0

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        self.entered += 1
        taken = self.room.admit(self.entered, self.now)
        assert taken == (len(self.model) < 5)
        if taken:
            self.model.append((self.entered, self.now))

    @rule(free=st.integers(-1, 7))
    def release(self, free: int) -> None:
        expected = [item for item, _ in self.model[: max(free, 0)]]
        assert self.room.release(free) == expected
        del self.model[: len(expected)]
        self.left += len(expected)

    @rule(order=st.permutations(range(3)))
    def some_come_back(self, order: list[int]) -> None:
        out = self.room.release(3)
        since = dict(self.model[: len(out)])
        del self.model[: len(out)]
        for item in (out[place] for place in order if place < len(out)):
            assert self.room.readmit(item, since[item])
            place = sum(at < since[item] for _, at in self.model)
            self.model.insert(place, (item, since[item]))
        self.left += len(out)
        self.entered += len(out)

    @rule()
    def expire(self) -> None:
        expected = [item for item, since in self.model if self.now - since >= 10.0]
        assert self.room.expired(self.now) == expected
        del self.model[: len(expected)]
        self.left += len(expected)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        item, _ = self.model.pop(place)
        assert self.room.cancel(item)
        assert not self.room.cancel(item)
        self.left += 1

    @invariant()
    def agrees(self) -> None:
        assert list(self.room) == [item for item, _ in self.model]
        assert self.room.oldest(self.now) == (self.now - self.model[0][1] if self.model else 0.0)
        assert self.entered == self.left + len(self.room) + self.room.refused
        assert self.left == self.room.released + self.room.expired_total + self.room.cancelled


TestConversation = Conversation.TestCase
