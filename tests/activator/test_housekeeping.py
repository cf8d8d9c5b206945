"""What is removed off the path of wakes."""

from __future__ import annotations

from activator.housekeeping import Housekeeping
from activator.settings import Settings
from activator.views import Catalog
from state.kinds import Kind
from state.mirror import Mirror
from state.slots import Message, Slots
from state.store import Change, Fence, Store


async def test_slots_of_services_that_are_no_more_are_removed(store: Store) -> None:
    slots = Slots(store)
    await store.commit([Change(Kind.SERVICE, "kept", b"{}")])
    for service in ("kept", "gone"):
        await slots.sync(service, "w", Message(1, {"r": 1}, 0, 0, 1, 1, ("r",)))
    housekeeping = Housekeeping(store, Catalog(Mirror(store, [])), Settings(node="n"), {})
    await housekeeping.run(Fence("leader", 1))
    assert await slots.services() == {"kept"}
