"""Registrations that the supervisor of a node without control ends; on a real store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from state.store import Store, StoreError
from wakegate.departures import Departures

OWN, OTHER = "n/s/1/mine", "m/s/1/mine"


async def registered(store: Store, expected: set[str]) -> None:
    deadline = time.monotonic() + 20
    found: set[str] | None = None
    while found != expected:
        assert time.monotonic() < deadline, found
        with contextlib.suppress(StoreError):  # its connections are of before the store was restarted
            found = await store.registered()
        await asyncio.sleep(0.01)


async def test_who_was_reaped_and_who_an_earlier_supervisor_left_is_registered_no_more(
    store: Store, store_url: str
) -> None:
    for worker in (OWN, OTHER, "n/s/2/stays", "n/before/1/mine"):
        await store.register(worker)
    departures = Departures(store_url, node="n", supervisor="s")
    task = asyncio.get_running_loop().create_task(departures.run())
    await registered(store, {OWN, OTHER, "n/s/2/stays"})
    departures.gone(["mine"])
    await registered(store, {OTHER, "n/s/2/stays"})
    await store.restore([OWN])  # by a control that had only heard of it
    await registered(store, {OTHER, "n/s/2/stays"})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    departures.gone(["mine", "stays"])
    await departures.close()
    assert await store.registered() == {OTHER}


async def test_a_store_that_is_gone_is_waited_for(store: Store, store_url: str, valkey: Any) -> None:
    await store.register(OWN)
    departures = Departures(store_url, node="n", supervisor="s")
    valkey.kill()
    departures.gone(["mine"])
    task = asyncio.get_running_loop().create_task(departures.run())
    await asyncio.sleep(0)
    valkey.start()
    await registered(store, set())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await departures.close()
