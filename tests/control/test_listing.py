"""Lists of services by namespace and status: right after every change, and no request costs a walk over all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from control.services.listing import Listing

STATUSES = ("running", "failed")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "stir", "list"]),
        st.integers(0, 7),
        st.sampled_from(STATUSES),
        st.sampled_from(["a", "b"]),
    )
)


class World:
    """What is true, kept without any index; `looked` counts the looks at statuses."""

    def __init__(self) -> None:
        self.services: dict[str, tuple[str, int]] = {}
        self.status: dict[str, str] = {}
        self.looked: Counter[str] = Counter()
        self.listing = Listing(self.status_of)

    def status_of(self, service_id: str) -> str | None:
        self.looked[service_id] += 1
        return self.status.get(service_id)

    def put(self, number: int, namespace: str, status: str) -> None:
        service_id = f"s{number}"
        namespace, created_at = self.services.setdefault(service_id, (namespace, number // 2))
        self.status[service_id] = status
        self.listing.put(namespace, service_id, created_at)

    def drop(self, number: int) -> None:
        self.services.pop(f"s{number}", None)
        self.status.pop(f"s{number}", None)
        self.listing.drop(f"s{number}")

    def stir(self, number: int, status: str) -> None:
        if f"s{number}" in self.services:
            self.status[f"s{number}"] = status
        self.listing.stir(f"s{number}")

    async def check(self) -> None:
        for namespace in ("a", "b"):
            own = sorted((at, i) for i, (of, at) in self.services.items() if of == namespace)
            assert self.listing.inhabited(namespace) == bool(own)
            for status in (None, *STATUSES):
                wanted = [i for _, i in own if status in (None, self.status[i])]
                assert await self.listing.page(namespace, status, 0, 2000) == (wanted, len(wanted))
                assert await self.listing.page(namespace, status, 1, 3) == (wanted[1:3], len(wanted))
        assert self.listing.namespaces() == {namespace for namespace, _ in self.services.values()}


@given(EVENTS)
def test_a_list_is_what_a_walk_would_find(events):
    async def play() -> None:
        world = World()
        for what, number, status, namespace in events:
            if what == "put":
                world.put(number, namespace, status)
            elif what == "drop":
                world.drop(number)
            elif what == "stir":
                world.stir(number, status)
            else:
                await world.check()
        await world.check()

    asyncio.run(play())


async def test_a_status_is_looked_at_once_until_its_service_changes():
    world = World()
    for number in range(1000):
        world.put(number, "a", STATUSES[number % 2])
    for _ in range(3):
        _, total = await world.listing.page("a", "failed", 0, 20)
        assert total == 500
    assert set(world.looked.values()) == {1}
    world.looked.clear()
    world.stir(7, "running")
    world.drop(9)
    assert (await world.listing.page("a", "failed", 0, 20))[1] == 498
    assert world.looked == {"s7": 1}
    await world.listing.page("a", None, 900, 1000)
    assert world.looked == {"s7": 1}


async def test_what_changes_while_statuses_are_looked_at_is_listed_right():
    """The first list after a start gives way to the loop between slices."""
    world = World()
    for number in range(1000):
        world.put(number, "a", "failed")
    first, second = (asyncio.create_task(world.listing.page("a", "failed", 0, 2000)) for _ in range(2))
    await asyncio.sleep(0)
    assert 0 < len(world.looked) < 1000
    for number in range(100):
        world.drop(number)
        world.stir(999 - number, "running")
    world.put(1000, "a", "failed")
    for listing in (first, second):
        ids, total = await listing
        assert (len(ids), total) == (801, 801)
    await world.check()
