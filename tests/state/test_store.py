"""The store against the real server: all-or-nothing commits, versions, fences, the feed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from state.kinds import Kind
from state.models import Event
from state.store import (
    ABSENT,
    ANY,
    CONNECTIONS,
    EVENTS_KEPT,
    EVENTS_LINGER,
    FEED_INLINE,
    REPORTS,
    Change,
    Conflict,
    Fence,
    Fenced,
    Full,
    Record,
    Store,
    Unavailable,
    events_key,
)
from tests.conftest import Valkey


async def test_a_commit_gives_every_object_the_same_version(store: Store) -> None:
    revision = await store.commit([Change(Kind.SERVICE, "a", b"1", ABSENT), Change(Kind.ROUTE, "a.test", b"2", ABSENT)])
    assert revision == 1
    assert await store.get(Kind.SERVICE, "a") == Record(b"1", 1)
    assert await store.get_many(Kind.ROUTE, ["a.test", "b.test"]) == {"a.test": Record(b"2", 1)}


async def test_a_conflict_changes_nothing_and_names_the_object(store: Store) -> None:
    await store.commit([Change(Kind.SERVICE, "a", b"1")])
    with pytest.raises(Conflict) as caught:
        await store.commit([Change(Kind.SERVICE, "b", b"2", ABSENT), Change(Kind.SERVICE, "a", b"3", ABSENT)])
    assert (caught.value.kind, caught.value.id, caught.value.version) == (Kind.SERVICE, "a", 1)
    assert await store.get(Kind.SERVICE, "b") is None
    assert await store.revision() == 1


async def test_what_a_commit_only_depends_on_is_neither_written_nor_told(store: Store) -> None:
    await store.commit([Change(Kind.DOMAIN, "acme/a.test", b"1")])
    held = Change(Kind.DOMAIN, "acme/a.test", None, 1, unchanged=True)
    assert await store.commit([held, Change(Kind.CERTIFICATE, "a.test", b"2", ABSENT)]) == 2
    assert await store.get(Kind.DOMAIN, "acme/a.test") == Record(b"1", 1)
    (entry,) = await store.read_feed(1)
    assert entry.changes == ((Kind.CERTIFICATE, "a.test", b"2"),)
    await store.commit([Change(Kind.DOMAIN, "acme/a.test", None)])
    with pytest.raises(Conflict):
        await store.commit([held, Change(Kind.CERTIFICATE, "a.test", b"3")])


async def test_of_twenty_writers_of_one_version_one_wins(store: Store) -> None:
    answers = await asyncio.gather(
        *(store.commit([Change(Kind.NAME, "acme/api", b"%d" % n, ABSENT)]) for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(a, int) for a in answers) == 1
    assert sum(isinstance(a, Conflict) for a in answers) == 19


async def test_many_callers_at_once_share_few_connections(store: Store) -> None:
    revisions = await asyncio.gather(
        *(store.commit([Change(Kind.NAME, f"acme/{n}", b"x", ABSENT)]) for n in range(300))
    )
    assert sorted(revisions) == list(range(1, 301))
    assert len(await store._client.client_list()) <= CONNECTIONS


async def test_deletes_and_large_payloads_are_told_by_the_feed(store: Store) -> None:
    await store.commit([Change(Kind.SERVICE, "big", b"x" * (FEED_INLINE + 1)), Change(Kind.KEY, "acme/k", b"k")])
    await store.commit([Change(Kind.KEY, "acme/k", None, 1)])
    first, second = await store.read_feed(0)
    assert (first.revision, first.changes, first.large) == (1, ((Kind.KEY, "acme/k", b"k"),), ((Kind.SERVICE, "big"),))
    assert (second.revision, second.changes) == (2, ((Kind.KEY, "acme/k", None),))
    assert await store.get(Kind.KEY, "acme/k") is None


async def test_reading_the_feed_waits_for_the_next_commit(store: Store) -> None:
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(store.read_feed(0, wait=30))
        await store.commit([Change(Kind.ROUTE, "a", b"")])
    assert [e.revision for e in reading.result()] == [1]


async def test_a_fence_of_a_former_holder_is_refused(store: Store) -> None:
    _, token, _ = await store.try_lease("leader", "h1", "s1", (0, 0), False)
    assert await store.commit([Change(Kind.SCALE, "a", b"1")], fence=Fence("leader", token)) == 1
    await store.try_lease("leader", "h2", "s1", (0, 0), False)
    with pytest.raises(Fenced):
        await store.commit([Change(Kind.SCALE, "a", b"2")], fence=Fence("leader", token))
    assert await store.get(Kind.SCALE, "a") == Record(b"1", 1)


async def test_scan_sees_everything(store: Store) -> None:
    await store.commit([Change(Kind.ROUTE, f"h{n}", b"r") for n in range(500)])
    assert len({i async for i, _ in store.scan(Kind.ROUTE)}) == 500


async def test_registrations(store: Store) -> None:
    await store.register("n/s/1/a")
    await store.register("n/s/2/b")
    await store.unregister(["n/s/1/a", "never/was/1/x"])
    assert await store.registered() == {"n/s/2/b"}


async def test_published_levels_reach_subscribers(store: Store) -> None:
    async def first() -> tuple[str, bytes]:
        async for message in store.subscribe(REPORTS):
            return message
        raise AssertionError

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        reader = group.create_task(first())
        while not reader.done():  # a level is repeated until it is heard
            await store.publish(REPORTS, b"hello")
            await asyncio.sleep(0.01)
    assert reader.result() == (REPORTS, b"hello")


class TcpPath:
    """A TCP path to the store that can go silent without an end: what is connected then hears and says nothing more."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._open: list[asyncio.Event] = []

    async def __aenter__(self) -> TcpPath:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for cut in self._open:
            cut.set()

    def silence(self) -> None:
        for cut in self._open:
            cut.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._valkey.socket))
        passing = asyncio.Event()
        passing.set()
        self._open.append(passing)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    await passing.wait()
                    sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))


async def test_a_subscription_on_a_silent_path_connects_anew(valkey: Valkey, store: Store) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(by: Store) -> None:
        async for _, data in by.subscribe(REPORTS):
            heard.put_nowait(data)

    async def say_until_heard(data: bytes) -> None:
        while True:  # a level is repeated until it is heard
            await store.publish(REPORTS, data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    while await heard.get() != data:
                        pass
                    return

    async with TcpPath(valkey) as path:
        far = Store(path.url)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            listening = group.create_task(listen(far))
            await say_until_heard(b"before")
            path.silence()
            began = asyncio.get_running_loop().time()
            await say_until_heard(b"after")
            assert asyncio.get_running_loop().time() - began < 10
            listening.cancel()
        await far.close()


async def test_events_are_kept_in_order(store: Store) -> None:
    for n in range(3):
        await store.append_event("svc", Event(n, "replica.ready", f"r{n}"))
    assert [told.event.time for told in await store.events("svc", 2)] == [1, 2]


async def test_events_have_places_that_rise_whatever_the_clocks_of_their_writers_say(store: Store) -> None:
    for time in (5000, 7000, 6000, 6000, 9000):
        await store.append_event("svc", Event(time, "replica.ready", f"at {time}"))
    told = await store.events("svc")
    assert [one.event.time for one in told] == [5000, 7000, 6000, 9000]
    assert [one.place for one in told] == [5000, 7000, 7001, 9000]
    assert await store.events_after("svc", 0) == told
    assert await store.events_after("svc", 7000) == told[2:]
    assert await store.events_after("svc", 7000, 1) == told[2:3]
    assert await store.events_after("svc", 9000) == []


async def test_an_event_that_is_tried_again_is_kept_once(store: Store) -> None:
    """Its writer can't know whether the first time, whose answer was lost, was told."""
    first, second = Event(5, "service.woke", "a request is waiting"), Event(5, "replica.ready", "it is healthy")
    for event in (first, second, first, second, second):
        await store.append_event("svc", event)
    assert [told.event for told in await store.events("svc")] == [first, second]


async def test_the_last_thousand_events_are_kept(store: Store) -> None:
    for n in range(EVENTS_KEPT + 30):
        await store.append_event("svc", Event(n, "replica.ready", "it is healthy"))
    assert [told.event.time for told in await store.events("svc")] == list(range(30, EVENTS_KEPT + 30))


async def test_forgotten_events_go_and_take_a_late_one_along(store: Store) -> None:
    await store.commit([Change(Kind.SERVICE, "svc", b"{}")])
    await store.append_event("svc", Event(0, "service.removed", "its last replica is gone"))
    assert await store._client.ttl(events_key("svc")) == -1
    await store.forget_events("svc")
    await store.append_event("svc", Event(1, "service.deleted", "gracefully"))
    assert EVENTS_LINGER - 10 < await store._client.ttl(events_key("svc")) <= EVENTS_LINGER
    await store.forget_events("svc", 0)
    assert await store.events("svc") == []


async def test_events_told_after_their_service_are_not_kept_for_ever(store: Store) -> None:
    await store.append_event("svc", Event(1, "build.cancelled", "its service was deleted"))
    assert EVENTS_LINGER - 10 < await store._client.ttl(events_key("svc")) <= EVENTS_LINGER


async def test_events_told_before_their_service_is_stored_stay_with_it(store: Store) -> None:
    await store.append_event("svc", Event(1, "service.created", "as svc"))
    await store.commit([Change(Kind.SERVICE, "svc", b"{}")])
    await store.keep_events("svc")
    assert await store._client.ttl(events_key("svc")) == -1
    assert [told.event.kind for told in await store.events("svc")] == ["service.created"]


async def test_a_store_that_is_gone_is_unavailable(tmp_path: object) -> None:
    store = Store(f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unavailable):
        await store.commit([Change(Kind.SERVICE, "a", b"", ANY)])
    await store.close()


async def test_a_count_adds_up_and_never_passes_its_bound(store: Store) -> None:
    def step(by: int, most: int = 0) -> Change:
        return Change(Kind.TALLY, "acme", None, step=by, most=most)

    outcomes = await asyncio.gather(*(store.commit([step(1, 7)]) for _ in range(20)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Full)]
    assert [(one.kind, one.id, one.found) for one in refused] == [(Kind.TALLY, "acme", 7)] * 13
    assert await store.get(Kind.TALLY, "acme") == Record(b"7", 7)
    with pytest.raises(Full):
        await store.commit([Change(Kind.META, "a", b"1"), step(1, 5)])
    assert await store.get(Kind.META, "a") is None
    with pytest.raises(Conflict):  # what it depends on is looked at first
        await store.commit([Change(Kind.META, "a", b"1", 3), step(1, 5)])
    await store.commit([step(-3, 1)])  # it may fall, though it is beyond its bound still
    assert await store.get(Kind.TALLY, "acme") == Record(b"4", 8)
    await store.commit([step(-9)])
    assert await store.get(Kind.TALLY, "acme") is None
    assert [entry.changes for entry in await store.read_feed(7)] == [
        ((Kind.TALLY, "acme", b"4"),),
        ((Kind.TALLY, "acme", None),),
    ]
