"""Analytics in a real store: what is taken in, folded, compacted and forgotten."""

from __future__ import annotations

import pytest

from state.leases import Lease
from state.rollups import Compaction, Fold, Rollups
from state.store import Fence, Fenced, Store, Unavailable
from tests.conftest import Valkey

A, B = "node/s/1/a", "node/s/2/b"


@pytest.fixture
async def fence(store: Store) -> Fence:
    lease = Lease(store, "leader", holder="one", owner="node")
    await lease.step(lambda _: None, lambda: None)
    assert lease.fence is not None
    return lease.fence


async def test_windows_wait_by_worker_and_number(store: Store) -> None:
    rollups = Rollups(store)
    for worker, number in ((A, 1), (A, 2), (B, 1)):
        assert await rollups.deliver(worker, number, f"{worker} {number}".encode())
    assert sorted(await rollups.waiting()) == [(A, 1), (A, 2), (B, 1)]
    assert await rollups.windows([(A, 2), (B, 9)]) == {(A, 2): b"node/s/1/a 2"}
    assert await rollups.deliver(A, 2, b"another", unless_there=True)
    assert await rollups.deliver(A, 1, b"newer")
    assert (await rollups.inbox())[A, 2] == b"node/s/1/a 2"
    assert (await rollups.inbox())[A, 1] == b"newer"


async def test_what_is_folded_is_taken_in_no_more(store: Store, fence: Fence) -> None:
    rollups = Rollups(store)
    await rollups.deliver(A, 3, b"window")
    await rollups.fold(Fold([(A, 3)], {"s": [b"line"]}, {"s": {"r2", "r1"}}, 77), fence, 100, 700)
    for number in (1, 2, 3):
        assert await rollups.deliver(A, number, b"late")
    assert await rollups.inbox() == {}
    assert await rollups.folded() == {A: (3, 100)}
    assert await rollups.ready() == ({"s": frozenset({"r1", "r2"})}, 77)
    await rollups.fold(Fold((), {}, {"s": ()}), fence, 101, 701)
    assert await rollups.ready() == ({}, 77)
    await rollups.forget_workers([A])
    assert await rollups.deliver(A, 1, b"anew")
    assert await rollups.waiting() == [(A, 1)]


async def test_lines_that_come_while_others_are_compacted_stay(store: Store, fence: Fence) -> None:
    rollups = Rollups(store)
    await rollups.fold(Fold((), {"s": [b"1", b"2"], "t": [b"9"]}), fence, 100, 700)
    await rollups.fold(Fold((), {"s": [b"3"]}), fence, 110, 710)
    assert (await rollups.due(699, 10), await rollups.due(700, 10)) == ([], ["s", "t"])
    await rollups.compact(Compaction("s", 2, {"10:1": b"chunk", "60:1": b"other"}, (), 5000), fence, 1300)
    assert (await rollups.lines("s", 10), await rollups.due(1299, 10)) == ([b"3"], ["t"])
    stored = await rollups.read("s", ["10:1", "10:2"])
    assert (stored.chunks, stored.lines) == ({"10:1": b"chunk"}, [b"3"])
    await rollups.compact(Compaction("s", 1, {}, ["10:1"], 5000), fence, 1400)
    assert (await rollups.names("s"), await rollups.due(4999, 10)) == (["60:1"], ["t"])
    await rollups.compact(Compaction("s", 0, {}, ["60:1"], None), fence, 1400)
    assert sorted(await rollups.services()) == ["t"]
    await rollups.forget("t")
    assert (await rollups.services(), await rollups.lines("t", 10)) == ([], [])


async def test_who_does_not_lead_changes_nothing(store: Store, fence: Fence) -> None:
    rollups, old = Rollups(store), Fence(fence.lease, fence.token - 1)
    await rollups.deliver(A, 1, b"window")
    with pytest.raises(Fenced):
        await rollups.fold(Fold([(A, 1)], {"s": [b"line"]}, {"s": {"r"}}, 1), old, 100, 700)
    with pytest.raises(Fenced):
        await rollups.compact(Compaction("s", 1, {"10:1": b"chunk"}, (), None), old, 100)
    assert await rollups.waiting() == [(A, 1)]
    assert (await rollups.folded(), await rollups.services(), await rollups.names("s")) == ({}, [], [])


async def test_a_store_that_is_gone_is_told(valkey: Valkey, store: Store) -> None:
    rollups = Rollups(store)
    valkey.kill()
    with pytest.raises(Unavailable):
        await rollups.deliver(A, 1, b"window")
    with pytest.raises(Unavailable):
        await rollups.read("s", ["levels"])
