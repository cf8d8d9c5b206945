"""From workers' windows to answers, by a real store: each request counts once, whoever is killed, whatever is lost."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from conftest import Rig

from control.analytics.collector import Analytics
from control.analytics.resolution import DAY, HOUR, TIERS, choose
from control.services import remains
from gateway.histogram import count
from gateway.windows import Windows
from state.codec import encode
from state.counts import Counts, Header, encode_window
from state.kinds import Kind
from state.leases import Lease
from state.models import Replica, ReplicaState
from state.rollups import INBOX, Rollups
from state.store import Change, Fence, Fenced, Store

NOW = 1_700_000_000


async def leading(store: Store, holder: str = "one") -> Fence:
    lease = Lease(store, "leader", holder=holder, owner="node")
    await lease.step(lambda _: None, lambda: None)
    assert lease.fence is not None
    return lease.fence


def window(number: int, slot: int, rows: dict[str, Counts], *, worker: str = "node/s/1/a") -> bytes:
    texts = [(service, json.dumps(counts.row())) for service, counts in rows.items()]
    return encode_window(Header(worker, number, slot, 0, True), texts)


async def known(rig: Rig, *services: str) -> None:
    """They were services once, and are remembered."""
    notes = [remains.note(service, remains.Gone("acme", service, 0)) for service in services]
    await rig.mirror.reached(await rig.store.commit(notes))


async def totals(analytics: Analytics, service: str = "s", *, back: int = HOUR, step: int = 60, now: int = NOW) -> Any:
    return (await analytics.read(service, choose(now - back, now + 60, step, now), now))["totals"]


async def test_windows_become_lines_and_lines_chunks(rig: Rig, store: Store) -> None:
    """At each stage the answer is the same."""
    await known(rig, "s")
    rollups, analytics, fence = Rollups(store), rig.analytics, await leading(store)
    for number in range(1, 31):
        data = window(number, NOW - 600 + 10 * number, {"s": Counts(requests=number, duration={5: number})})
        assert await rollups.deliver("node/s/1/a", number, data)
    waiting = await totals(analytics)
    assert (waiting["requests"], len(await rollups.inbox())) == (465, 30)
    await analytics.work(fence, NOW)
    assert (await rollups.inbox(), len(await rollups.lines("s", 100))) == ({}, 30)
    assert await totals(analytics) == waiting
    await analytics.work(fence, NOW + 590)
    assert await rollups.names("s") == []
    await analytics.work(fence, NOW + 600)
    assert (await rollups.lines("s", 100), await totals(analytics)) == ([], waiting)
    assert {name.partition(":")[0] for name in await rollups.names("s")} == {"10", "60", "3600"}
    for back, step in ((HOUR, 10), (DAY, 60), (80 * DAY, 3600)):
        assert (await totals(analytics, back=back, step=step))["requests"] == 465


async def test_a_window_counts_once_however_often_it_is_delivered(rig: Rig, store: Store) -> None:
    rollups, fence = Rollups(store), await leading(store)
    await known(rig, "s")
    first, second = (window(n, NOW - 60, {"s": Counts(requests=n)}) for n in (1, 2))
    for _ in range(2):
        assert await rollups.deliver("node/s/1/a", 1, first)
    await rig.analytics.work(fence, NOW)
    assert await rollups.deliver("node/s/1/a", 1, first)
    assert await rollups.deliver("node/s/1/a", 2, second)
    assert await rollups.deliver("node/s/1/a", 2, first, unless_there=True)
    await rig.analytics.fold(fence, NOW)
    await rig.analytics.tend("s", fence, NOW)
    assert (await totals(rig.analytics))["requests"] == 3


async def test_what_a_worker_merged_into_a_later_window_is_not_told_by_its_will(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had to merge windows 1 and 2, for the store was gone, and delivered that as 2 before it was killed."""
    for module in ("heard", "collector"):
        monkeypatch.setattr(f"control.analytics.{module}.LATE", 0.0)
    rollups, fence = Rollups(store), await leading(store)
    await known(rig, "s")
    for number in (1, 2, 3):
        rig.analytics.heard(window(number, NOW - 60, {"s": Counts(requests=1)}))
    assert await rollups.deliver("node/s/1/a", 2, window(2, NOW - 60, {"s": Counts(requests=2)}))
    assert (await totals(rig.analytics))["requests"] == 3
    await rig.analytics.work(fence, NOW)
    assert await rollups.inbox() == {}
    assert (await totals(rig.analytics))["requests"] == 3


async def test_what_all_workers_say_of_a_slot_is_one_line(rig: Rig, store: Store) -> None:
    rollups, fence = Rollups(store), await leading(store)
    for worker in "abc":
        data = window(1, NOW - 60, {"s": Counts(requests=2)}, worker=worker)
        await rollups.deliver(worker, 1, data)
    await rig.analytics.fold(fence, NOW)
    assert len(await rollups.lines("s", 10)) == 1
    assert (await totals(rig.analytics))["requests"] == 6


async def test_a_leader_of_before_changes_nothing(rig: Rig, store: Store) -> None:
    rollups, old = Rollups(store), await leading(store)
    await rollups.deliver("w", 1, window(1, NOW - 60, {"s": Counts(requests=1)}))
    new = await leading(store, "two")
    for attempt in (rig.analytics.fold(old, NOW), rig.analytics.tend("s", old, NOW)):
        with pytest.raises(Fenced):
            await attempt
    assert len(await rollups.inbox()) == 1
    await rig.analytics.fold(new, NOW)
    assert (await totals(rig.analytics))["requests"] == 1


async def test_an_inbox_without_a_leader_is_bounded(rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("state.rollups.INBOX", 3)
    rollups = Rollups(store)
    taken = [await rollups.deliver("w", n, window(n, NOW, {"s": Counts(requests=1)})) for n in range(1, 6)]
    assert taken == [True, True, True, False, False]
    assert await rollups.deliver("w", 2, window(2, NOW, {"s": Counts(requests=1)}))
    await rig.analytics.fold(await leading(store), NOW)
    assert await rollups.deliver("w", 4, window(4, NOW, {"s": Counts(requests=1)}))
    assert INBOX >= 1000


async def test_windows_that_can_not_be_read_do_not_stand_in_the_way(rig: Rig, store: Store) -> None:
    rollups, fence = Rollups(store), await leading(store)
    await rollups.deliver("w", 1, b"nonsense")
    await rollups.deliver("w", 2, window(2, NOW - 60, {"s": Counts(requests=7)}))
    assert (await totals(rig.analytics))["requests"] == 7
    await rig.analytics.fold(fence, NOW)
    assert (rig.analytics.dropped, await rollups.inbox(), (await totals(rig.analytics))["requests"]) == (1, {}, 7)


async def test_late_windows_go_where_they_belong(rig: Rig, store: Store) -> None:
    """The store was gone for three hours."""
    rollups, fence = Rollups(store), await leading(store)
    for number, back in enumerate((3 * HOUR, 100, 90 * DAY - HOUR, 3 * DAY), 1):
        await rollups.deliver("w", number, window(number, (NOW - back) // 10 * 10, {"s": Counts(requests=10**number)}))
        await rig.analytics.fold(fence, NOW)
        await rig.analytics.tend("s", fence, NOW)
    assert (await totals(rig.analytics, step=10))["requests"] == 100
    assert (await totals(rig.analytics, back=DAY))["requests"] == 110
    assert (await totals(rig.analytics, back=10 * DAY, step=3600))["requests"] == 10_110
    assert (await totals(rig.analytics, back=90 * DAY, step=HOUR * 24))["requests"] == 11_110


async def test_replicas_are_there_until_they_were_looked_at_last(rig: Rig, store: Store) -> None:
    """A node ends with a ready replica; a later control finds none."""
    fence = await leading(store)
    await known(rig, "s")
    replica = encode(Replica("r", "s", "d", "n", ReplicaState.READY, 0, cold=True))
    one, another = (Analytics(store, rig.mirror, lambda: fence) for _ in range(2))
    await rig.mirror.reached(await store.commit([Change(Kind.REPLICA, "r", replica)]))
    one.changed([(Kind.REPLICA, "r")])
    began = int(time.time())
    await one.work(fence, began - 1000)
    await one.close()
    await rig.mirror.reached(await store.commit([Change(Kind.REPLICA, "r", None)]))
    another.changed([(Kind.REPLICA, "r")])
    await another.work(fence, began + 1000)
    found = await another.read("s", choose(began - 2000, began + 2000, 10, began), began + 2000)
    ready = sum(step["replicas"] * 10 for step in found["series"])
    assert 990 <= ready <= 1000 + (time.time() - began) + 10
    assert found["totals"]["cold_starts"] == 1


async def test_what_is_over_goes_and_what_is_deleted_is_forgotten(rig: Rig, store: Store) -> None:
    rollups, fence = Rollups(store), await leading(store)
    created = await rig.create("api")
    alive = created.json["id"]
    for service in (alive, "noted", "gone"):
        await rollups.deliver(service, 1, window(1, NOW - 60, {service: Counts(requests=1)}))
    await known(rig, "noted")
    await rig.analytics.fold(fence, NOW)
    for service in (alive, "noted", "gone"):
        await rig.analytics.tend(service, fence, NOW)
    await rig.analytics.sweep(NOW)
    assert sorted(await rollups.services()) == sorted([alive, "noted"])
    assert await rollups.names("gone") == []
    assert (await rollups.folded()).keys() == {alive, "noted", "gone"}
    later = NOW
    for tier in TIERS:
        later = NOW + tier.retention + tier.span + 120
        await rig.analytics.tend(alive, fence, later)
        kept = {name.partition(":")[0] for name in await rollups.names(alive)}
        assert str(tier.step) not in kept
    assert alive not in await rollups.services()
    await rig.mirror.reached(await store.commit([replace(remains.note("noted", remains.Gone("", "", 0)), value=None)]))
    await rig.analytics.sweep(later)
    assert (await rollups.services(), await rollups.folded()) == ([], {})


@dataclass
class Book:
    id: str
    requests: dict[int, int] = field(default_factory=dict)
    duration: dict[int, int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    in_flight: int = 0
    room: tuple[object, ...] = ()


class Fleet:
    """Workers, a control and a store, of which anything may end or be repeated at any time."""

    def __init__(self, rig: Rig, store: Store, dice: random.Random, fence: Fence) -> None:
        self.rig, self.store, self.dice, self.fence = rig, store, dice, fence
        self.rollups = Rollups(store)
        self.now = float(NOW)
        self.workers: dict[str, tuple[Windows, dict[str, Book]]] = {}
        self.expected: dict[str, int] = {}
        self.number = 0
        self.control()

    def control(self) -> None:
        """A new one, which knows nothing."""
        self.analytics = Analytics(self.store, self.rig.mirror, lambda: self.fence)

    async def start(self) -> None:
        self.number += 1
        name = f"node/s/1/{self.number}"
        self.workers[name] = Windows(name), {service: Book(service) for service in ("s", "t")}
        await self.store.register(name)

    async def traffic(self, name: str) -> None:
        """Some requests, and the look that takes them in, of which control hears."""
        windows, books = self.workers[name]
        for _ in range(self.dice.randrange(5)):
            book = books[self.dice.choice("st")]
            book.requests[200] = book.requests.get(200, 0) + 1
            count(book.duration, self.dice.random())
            self.expected[book.id] = self.expected.get(book.id, 0) + 1
        await windows.sample(list(books.values()), self.now, self.now)
        self.speak(name)

    def speak(self, name: str) -> None:
        for data in self.workers[name][0].open():
            self.analytics.heard(data)

    async def deliver(self, name: str) -> None:
        """One window; the answer may be lost."""
        windows, _ = self.workers[name]
        if (oldest := windows.oldest()) is not None:
            number, data = oldest
            assert await self.rollups.deliver(name, number, data)
            if self.dice.random() < 0.7:
                windows.delivered(number)

    async def drain(self, name: str) -> None:
        windows, books = self.workers[name]
        await windows.close(list(books.values()), self.now, self.now)
        while windows.waiting:
            await self.deliver(name)
        await self.store.unregister([name])
        del self.workers[name]

    async def kill(self, name: str) -> None:
        """Between a look and the next request: what was said is all there is."""
        await self.store.unregister([name])
        del self.workers[name]
        await self.analytics.work(self.fence, self.now)

    async def step(self) -> None:
        self.now += self.dice.random() * 8
        what = self.dice.choices(["traffic", "deliver", "work", "drain", "kill", "control"], [10, 4, 4, 1, 1, 1])[0]
        name = self.dice.choice(list(self.workers))
        if what == "traffic":
            await self.traffic(name)
        elif what == "deliver":
            await self.deliver(name)
        elif what == "work":
            await self.analytics.work(self.fence, self.now)
            for service in "st":
                if self.dice.random() < 0.3:
                    await self.analytics.tend(service, self.fence, int(self.now))
        elif what == "control":
            self.control()
            for other in self.workers:
                self.speak(other)  # within the second
        else:
            await (self.drain(name) if what == "drain" else self.kill(name))
            await self.start()

    async def check(self) -> None:
        """Every request is in the answer, once; as soon as what is over has been delivered."""
        for name, (windows, _) in self.workers.items():
            while windows.waiting:
                await self.deliver(name)
        for service in "st":
            found = (await totals(self.analytics, service, now=int(self.now)))["requests"]
            assert found == self.expected.get(service, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_any_interleaving_counts_each_request_once(
    rig: Rig, store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost answers, drains, killed workers and controls, in any order, checked at every step."""
    for module in ("heard", "collector"):
        monkeypatch.setattr(f"control.analytics.{module}.LATE", 0.0)
    fleet = Fleet(rig, store, random.Random(seed), await leading(store))
    await known(rig, "s", "t")
    await fleet.start()
    await fleet.start()
    for _ in range(60):
        await fleet.step()
        await fleet.check()
    for name in list(fleet.workers):
        await fleet.drain(name)
    fleet.control()
    await fleet.check()
    await fleet.analytics.work(fleet.fence, fleet.now + 20)
    assert await fleet.rollups.inbox() == {}
    await fleet.check()


# The API


async def test_the_api_answers_the_last_hour_by_minute(rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.handlers.analytics.time.time", lambda: NOW + 0.5)
    service = (await rig.create("api")).json["id"]
    data = window(1, NOW - 100, {service: Counts(4, 1, 10, 20, duration={0: 4})})
    await Rollups(store).deliver("w", 1, data)
    answer = await rig.api("GET", "/acme/service/api/analytics")
    assert answer.status == 200
    body = answer.json
    assert (body["step"], len(body["series"])) == (60, 60)
    assert (body["totals"]["requests"], body["totals"]["errors"]) == (4, 1)
    assert [step["requests"] for step in body["series"] if step["requests"]] == [4]
    assert sum(step["p99_ms"] > 0 for step in body["series"]) == 1
    deleted = await rig.delete("api")
    assert deleted.status == 204
    assert (await rig.api("GET", "/acme/service/api/analytics")).status == 404
    old = await rig.api("GET", f"/acme/service/{service}/analytics")
    assert (old.status, old.json["totals"]["requests"]) == (200, 4)


async def test_parameters_are_judged_all_at_once(rig: Rig) -> None:
    await rig.create("api")
    for query, status, fields in (
        ("step=9&from=yesterday&to=1&x=1", 400, {"step", "from", "to", "x"}),
        ("step=60.0", 400, {"step"}),
        ("from=1969-12-31T00:00:00Z&to=9999-12-31T23:59:59Z", 400, {"from", "to"}),
        ("step=10&step=20", 400, {"step"}),
        ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00%2B00:00", 422, {"from"}),
        ("from=2999-01-01T00:00:00Z", 422, {"from"}),
        ("from=2026-01-01T00:00:00Z&to=2026-01-02T01:00:01Z", 422, {"step"}),
        ("from=2026-01-01T00:00:00Z&to=2026-01-02T01:00:00Z", 200, set()),
        ("from=1970-01-01T00:00:00Z&to=2999-12-31T00:00:00Z&step=31536000", 200, set()),
        ("from=2026-11-24T05:00:00%2B05:30&to=2026-11-24T00:00:00Z&step=10", 200, set()),
    ):
        answer = await rig.api("GET", f"/acme/service/api/analytics?{query}")
        assert (answer.status, answer.fields) == (status, fields), answer.text


async def test_who_may_not_read_learns_nothing(rig: Rig) -> None:
    await rig.create("api")
    key = await rig.key("other", "other", "read")
    for name in ("api", "nothing"):
        assert (await rig.api("GET", f"/acme/service/{name}/analytics", token=key)).status == 403
        assert (await rig.api("GET", f"/acme/service/{name}/analytics", token="")).status == 401
    assert (await rig.api("GET", "/acme/service/nothing/analytics")).status == 404
