"""The script in Valkey and its twin in Python do the same, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slots_twin import World, empty, step

from state.slots import CHANNEL, CLAIMS_KEY, DOCUMENTS_KEY, HEARD_KEY, Message, Slots, decode_answer, decode_hint
from state.store import WORKERS_KEY, Store, script
from tests.conftest import Valkey

WORKERS = ("w1", "w2", "w3")
REPLICAS = ("r1", "r2", "r3")

counts = st.dictionaries(st.sampled_from(REPLICAS), st.integers(1, 3), max_size=3)
messages = st.builds(
    Message,
    seq=st.sampled_from([1, 1, 1, 1, 0]),  # beyond the last one of the worker
    holds=counts,
    want=st.sampled_from([0, 0, 1, 2, 7]),
    waited=st.integers(0, 500),
    version=st.integers(1, 3),
    limit=st.sampled_from([0, 1, 1, 2, 3, 4]),
    ready=st.lists(st.sampled_from(REPLICAS), unique=True).map(tuple),
    shun=st.frozensets(st.sampled_from(REPLICAS), max_size=1),
    leaving=st.sampled_from([False, False, False, True]),
    home=st.frozensets(st.sampled_from(REPLICAS), max_size=2),
)
worker = st.sampled_from(WORKERS)
sync = st.tuples(st.just("sync"), worker, messages)
acts = st.one_of(
    *[sync] * 12,
    *[st.tuples(st.just("register"), worker, st.none())] * 2,
    *[st.tuples(st.just("pass"), st.none(), st.sampled_from([60, 150, 1500, 2500, 6000, 12_000, 26_000]))] * 3,
    st.tuples(st.just("claim"), worker, st.none()),
    st.tuples(st.just("end"), worker, st.none()),
    st.tuples(st.just("restart"), st.none(), st.none()),
)


def says(who: str, want: int = 0, waited: int = 0, limit: int = 1, **more: Any) -> tuple[str, str, Message]:
    given = {"holds": {}, "version": 1, "ready": REPLICAS} | more
    return "sync", who, Message(1, want=want, waited=waited, limit=limit, **given)


STORIES: dict[str, list[tuple[str, Any, Any]]] = {
    "the one who has waited longest gets first, and is told": [
        says("w1", holds={"r1": 9}, want=64, limit=9, ready=("r1",)),
        says("w2", want=3, waited=100, limit=9, ready=("r1",)),
        says("w3", want=3, waited=300, limit=9, ready=("r1",)),
        ("register", "w3", None),
        says("w3", want=3, waited=300, limit=9, ready=("r1",)),
        says("w1", holds={"r1": 8}, limit=9, ready=("r1",)),
        says("w1", holds={"r1": 4}, limit=9, ready=("r1",)),
    ],
    "a fair share in advance": [says("w1", want=1, limit=3), says("w2", want=1, limit=3), says("w2", limit=3)],
    "an odd share": [says("w1", want=1, limit=1), says("w1", holds={"r1": 1}, limit=1), says("w2", limit=1)],
    "who leaves gets none": [says("w1", want=1), says("w1", leaving=True)],
    "who shuns gets none there": [says("w1", want=5, shun=frozenset({"r1"})), says("w2", want=1)],
    "who ended lingers": [
        says("w1", want=1, ready=("r1",)),
        ("end", "w1", None),
        says("w2", want=1, ready=("r1",)),
        ("pass", None, 2500),
        says("w2", want=1, ready=("r1",)),
        ("pass", None, 2500),
        says("w2", want=1, ready=("r1",)),
        says("w1", holds={"r1": 1}, ready=("r1",)),
    ],
    "who is silent for long wants nothing": [
        says("w1", holds={"r1": 1}, want=0, ready=("r1",)),
        says("w2", want=1, ready=("r1",)),
        ("pass", None, 2500),
        says("w1", ready=("r1",)),
        says("w2", want=1, ready=("r1",)),
    ],
    "who is not heard of for long keeps what is at home": [
        says("w1", holds={"r1": 1, "r2": 1}, home=frozenset({"r2"}), ready=("r1", "r2")),
        ("pass", None, 26_000),
        says("w2", want=2, ready=("r1", "r2")),
        ("pass", None, 6000),
        says("w2", want=2, ready=("r1", "r2")),
        ("pass", None, 6000),
        says("w2", want=2, ready=("r1", "r2")),
        says("w1", holds={"r1": 1, "r2": 1}, want=1, home=frozenset({"r2"}), ready=("r1", "r2")),
        says("w2", want=1, holds={"r1": 1}, ready=("r1", "r2")),
    ],
    "a clock that jumps is no silence": [
        says("w1", holds={"r1": 1}, ready=("r1",)),
        ("pass", None, 26_000),
        says("w2", want=1, ready=("r1",)),
        says("w1", holds={"r1": 1}, ready=("r1",)),
        ("pass", None, 12_000),
        says("w2", want=1, ready=("r1",)),
    ],
    "after a restart who is not heard of is not waited for": [
        says("w1", holds={"r1": 1, "r2": 1}, home=frozenset({"r2"}), ready=("r1", "r2")),
        ("restart", None, None),
        ("claim", "w2", None),
        ("pass", None, 26_000),
        says("w2", want=2, ready=("r1", "r2")),
        ("pass", None, 12_000),
        says("w2", want=2, ready=("r1", "r2")),
    ],
    "a recall is told again": [
        says("w1", want=1, ready=("r1",)),
        says("w2", want=1, ready=("r1",)),
        says("w2", want=1, ready=("r1",)),
        ("pass", None, 150),
        says("w2", want=1, ready=("r1",)),
    ],
    "a lower limit": [
        says("w1", want=3, limit=3, ready=("r1",)),
        says("w2", limit=1, version=2, ready=("r1",)),
        says("w1", holds={"r1": 3}, limit=3, ready=("r1",)),
        says("w1", holds={"r1": 1}, limit=1, version=2, ready=("r1",)),
    ],
    "after a restart all claim first": [
        says("w1", want=1, ready=("r1",)),
        ("restart", None, None),
        says("w2", want=1, ready=("r1",)),
        ("claim", "w1", None),
        ("pass", None, 150),
        says("w2", want=1, ready=("r1",)),
        ("claim", "w2", None),
        says("w2", want=1, ready=("r1",)),
    ],
    "a claim stays": [
        says("w1", want=1, ready=("r1",)),
        ("restart", None, None),
        says("w1", holds={"r1": 1}, ready=("r1",)),
        ("claim", "w1", None),
        ("claim", "w2", None),
        ("pass", None, 150),
        says("w2", want=1, ready=("r1",)),
    ],
}


def normal(doc: Any) -> Any:
    """cjson has one empty table, JSON two."""
    if isinstance(doc, dict):
        return {key: normal(value) for key, value in doc.items() if value not in ([], {}, False)}
    return [normal(value) for value in doc] if isinstance(doc, list) else doc


class Pair:
    """The real store and the twin's world; time passes by moving what was written into the past, in both."""

    def __init__(self, store: Store) -> None:
        self.client = store.client
        self.script = self.client.register_script(script("slots.lua"))
        self.doc = empty()
        self.world = World()
        self.seqs = dict.fromkeys(WORKERS, 0)

    async def begin(self) -> None:
        await self.client.delete(DOCUMENTS_KEY, CLAIMS_KEY, WORKERS_KEY, HEARD_KEY)
        info = await self.client.info("server")
        self.world.run = str(info["run_id"])

    async def act(self, kind: str, who: str | None, what: Any) -> None:
        world = self.world
        if kind == "sync":
            assert who is not None
            self.seqs[who] += what.seq
            await self.sync(who, replace(what, seq=self.seqs[who]))
        elif kind == "register":
            await self.client.hset(WORKERS_KEY, who, "1")
            world.registered.add(str(who))
        elif kind == "end":
            await self.client.hdel(WORKERS_KEY, who)
            world.registered.discard(str(who))
        elif kind == "claim":
            await self.client.hset(CLAIMS_KEY, who, world.run)
            world.claims[str(who)] = world.run
            if world.claimed_run != world.run:
                now = (await self.now()) - 900
                await self.client.hset(CLAIMS_KEY, "@", f"{world.run} {now}")
                world.claimed_run, world.since = world.run, now
        elif kind == "restart":  # as the new server finds them: of another run
            self.doc["run"] = "gone"
            for entry in self.doc["workers"].values():
                entry["run"] = "gone"
            world.claims.clear()
            world.claimed_run = ""
            await self.client.delete(CLAIMS_KEY)
            await self.write()
        else:
            await self.age(what)

    async def now(self) -> int:
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def age(self, ms: int) -> None:
        for entry in self.doc["workers"].values():
            for key in ("dead", "at", "since", "told"):
                if entry.get(key):
                    entry[key] -= ms
        if self.world.claimed_run:
            self.world.since -= ms
            await self.client.hset(CLAIMS_KEY, "@", f"{self.world.run} {self.world.since}")
        for who in self.world.heard:
            self.world.heard[who] -= ms
            await self.client.hset(HEARD_KEY, who, str(self.world.heard[who]))
        await self.write()

    async def write(self) -> None:
        if self.doc["workers"]:
            await self.client.hset(DOCUMENTS_KEY, "s", json.dumps(self.doc))
        else:
            self.doc = empty()
            await self.client.hdel(DOCUMENTS_KEY, "s")

    async def sync(self, who: str, message: Message) -> None:
        async with self.client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(*(CHANNEL + one for one in WORKERS))
            keys = [DOCUMENTS_KEY, WORKERS_KEY, CLAIMS_KEY, HEARD_KEY]
            raw = await self.script(keys=keys, args=["s", who, CHANNEL, message.encode()])
            await self.client.publish(CHANNEL + who, b"end")
            heard = {}
            while True:
                told = await pubsub.get_message(timeout=5)
                if told is None or told["type"] != "message":
                    continue
                if told["data"] == b"end":
                    break
                heard[told["channel"].decode().removeprefix(CHANNEL)] = decode_hint(told["data"])
        stale = raw == b"stale"
        self.world.now = self.world.now if stale else json.loads(raw)["now"]
        answer, hints = step(self.doc, "s", who, message, self.world)
        assert answer == (None if stale else decode_answer(raw))
        assert hints == heard
        kept = await self.client.hget(DOCUMENTS_KEY, "s")
        if not self.doc["workers"]:
            assert kept is None
            self.doc = empty()
        else:
            assert normal(json.loads(kept)) == normal(self.doc)


async def told(url: str, settled: bool, story: list[tuple[str, Any, Any]]) -> None:
    """`settled`: w1 and w2 have claimed before it begins."""
    store = Store(url)
    try:
        pair = Pair(store)
        await pair.begin()
        for one in ("w1", "w2"):
            await pair.act("register", one, None)
            if settled:
                await pair.act("claim", one, None)
        if settled:
            await pair.act("pass", None, 150)
        for act in story:
            await pair.act(*act)
    finally:
        await store.close()


@pytest.mark.parametrize("story", STORIES)
async def test_the_script_and_its_twin_tell_the_same_story(valkey: Valkey, story: str) -> None:
    await told(valkey.url, True, STORIES[story])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([True, True, True, False]), st.lists(acts, min_size=4, max_size=16))
def test_the_script_and_its_twin_are_equal(valkey: Valkey, settled: bool, story: list[tuple[str, Any, Any]]) -> None:
    asyncio.run(told(valkey.url, settled, story))


async def test_claims_are_of_one_run_and_of_the_registered(store: Store) -> None:
    slots = Slots(store)
    for one in ("w1", "w2"):
        await store.register(one)
    run, known = await slots.claimed("w1")
    assert not known
    assert not await slots.claim("w1", "another run")
    assert await slots.claim("w1", run)
    assert await slots.claimed("w1") == (run, True)
    await store.unregister(["w1"])
    assert await slots.claim("w2", run)
    assert await slots.claimed("w1") == (run, False), "it is not registered any more"


async def test_documents_of_services_that_are_no_more_are_removed(store: Store) -> None:
    slots = Slots(store)
    await store.register("w1")
    message = Message(1, {"r1": 1}, 1, 0, 1, 1, ("r1",))
    for service in ("a", "b"):
        assert await slots.sync(service, "w1", message) is not None
    assert await slots.sync("a", "w1", message) is None, "it was heard before"
    assert await slots.services() == {"a", "b"}
    await slots.forget({"a"})
    assert await slots.services() == {"b"}
    await slots.forget(())


async def test_the_store_notes_when_it_heard_of_whom(store: Store) -> None:
    slots = Slots(store)
    for one in ("w1", "w2"):
        await store.register(one)
    run, _ = await slots.claimed("w1")
    await slots.sync("a", "w2", Message(1, {"r1": 1}, 1, 0, 1, 1, ("r1",)))
    await slots.claimed("a stranger")
    seconds, _ = await store.client.time()
    heard = await store.client.hgetall(HEARD_KEY)
    assert heard.keys() == {b"w1", b"w2"}
    assert all(0 <= seconds + 1 - int(at) / 1000 < 60 for at in heard.values())
    await store.unregister(["w2"])
    assert await slots.claim("w1", run)
    assert (await store.client.hgetall(HEARD_KEY)).keys() == {b"w1"}
