"""Routes and backends for the data plane: from the cache first, then from the mirror; never an exception."""

from __future__ import annotations

import asyncio

from gateway.source import RecordSource
from state.codec import encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Backend, Route
from state.store import Change, Record, Store

ROUTE = Route("s", "acme", "api")
BACKEND = Backend("s", "acme", "api")


async def test_the_mirror_takes_over_from_the_cache(store: Store) -> None:
    await store.commit([Change(Kind.ROUTE, "new.example", encode(ROUTE)), Change(Kind.BACKEND, "s", encode(BACKEND))])
    mirror = Mirror(store, (Kind.ROUTE, Kind.BACKEND))
    source = RecordSource(mirror, print)
    source.start_from({Kind.ROUTE: {"old.example": Record(encode(ROUTE), 1)}, Kind.BACKEND: {}})
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(mirror.run())
        await mirror.synced()
        assert (source.following, source.route("old.example"), source.route("new.example")) == (False, ROUTE, None)
        assert source.backend("s") is None
        source.follow()
        assert (source.following, source.route("old.example"), source.route("new.example")) == (True, None, ROUTE)
        assert source.backend("s") == BACKEND
        running.cancel()


async def test_an_unreadable_record_is_absent_and_told_once(store: Store) -> None:
    said: list[str] = []
    source = RecordSource(Mirror(store, (Kind.ROUTE, Kind.BACKEND)), said.append)
    source.start_from({Kind.ROUTE: {"h.example": Record(b"{", 3)}, Kind.BACKEND: {}})
    assert source.route("h.example") is None
    assert source.route("h.example") is None
    assert [line.split(" can't")[0] for line in said] == ["route h.example"]
