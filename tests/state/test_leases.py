"""Leases: one holder, tokens that only grow, take-over by an unseen beat or by the same owner."""

from __future__ import annotations

from dataclasses import dataclass, field

from state.leases import Lease
from state.store import Fence, Store


@dataclass
class Tenure:
    gained: list[int] = field(default_factory=list)
    lost: int = 0

    def gain(self, fence: Fence) -> None:
        self.gained.append(fence.token)

    def loss(self) -> None:
        self.lost += 1


def contender(store: Store, holder: str, owner: str, ttl: float = 3600) -> tuple[Lease, Tenure]:
    return Lease(store, "leader", holder=holder, owner=owner, ttl=ttl), Tenure()


async def test_one_holds_and_the_other_waits(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A")
    second, second_tenure = contender(store, "b1", "B")
    for _ in range(3):
        await first.step(first_tenure.gain, first_tenure.loss)
        await second.step(second_tenure.gain, second_tenure.loss)
    assert (first_tenure.gained, second_tenure.gained) == ([1], [])
    assert first.fence == Fence("leader", 1)
    assert second.fence is None


async def test_a_silent_holder_is_replaced_and_learns_it(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A", ttl=0)
    second, second_tenure = contender(store, "b1", "B", ttl=0)
    await first.step(first_tenure.gain, first_tenure.loss)
    await second.step(second_tenure.gain, second_tenure.loss)  # sees the beat
    assert second_tenure.gained == []
    await second.step(second_tenure.gain, second_tenure.loss)  # sees no other one
    assert second_tenure.gained == [2]
    await first.step(first_tenure.gain, first_tenure.loss)
    assert (first_tenure.lost, first.fence) == (1, None)


async def test_a_holder_that_beats_is_not_replaced(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A", ttl=0)
    second, second_tenure = contender(store, "b1", "B", ttl=0)
    for _ in range(4):
        await first.step(first_tenure.gain, first_tenure.loss)
        await second.step(second_tenure.gain, second_tenure.loss)
    assert (first_tenure.gained, second_tenure.gained) == ([1], [])


async def test_the_same_owner_takes_over_at_once(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A")
    heir, heir_tenure = contender(store, "a2", "A")
    await first.step(first_tenure.gain, first_tenure.loss)
    await heir.step(heir_tenure.gain, heir_tenure.loss)
    assert heir_tenure.gained == [2]


async def test_one_that_is_given_back_is_taken_with_the_next_attempt(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A")
    second, second_tenure = contender(store, "b1", "B")
    await first.step(first_tenure.gain, first_tenure.loss)
    await second.step(second_tenure.gain, second_tenure.loss)
    await first.release()
    assert first.fence is None
    await first.step(first_tenure.gain, first_tenure.loss)  # a beat that comes late takes nothing back
    await second.step(second_tenure.gain, second_tenure.loss)
    assert (first_tenure.gained, second_tenure.gained) == ([1], [2])
    await first.release()
    await second.step(second_tenure.gain, second_tenure.loss)
    assert second.fence == Fence("leader", 2)


async def test_who_does_not_hold_it_gives_nothing_back(store: Store) -> None:
    first, first_tenure = contender(store, "a1", "A")
    second, second_tenure = contender(store, "b1", "B")
    await first.step(first_tenure.gain, first_tenure.loss)
    await second.step(second_tenure.gain, second_tenure.loss)
    await second.release()
    await store.release_lease("leader", "b1")
    await store.release_lease("nothing", "b1")
    third, third_tenure = contender(store, "c1", "C")
    await third.step(third_tenure.gain, third_tenure.loss)
    assert (first.fence, third.fence) == (Fence("leader", 1), None)
