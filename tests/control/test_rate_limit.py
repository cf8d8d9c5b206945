"""The quota of a key: one for all nodes, told in every answer; without the store there is none, and that is counted."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest

from control.contract.problem import Problem
from control.credentials import failures
from control.credentials.failures import Failures, client_of
from control.door import DOOR
from control.limits import rate_limit
from control.limits.rate_limit import RateLimit
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import ApiKey
from state.store import Change, Store
from wakegate.metrics import of_the_door


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine is not a silent store."""
    monkeypatch.setattr(rate_limit, "_PATIENCE", 30.0)


@pytest.fixture
async def limited(limited_to):
    async with limited_to(5) as made:
        yield made


async def test_the_quota_is_told_and_ends_in_429(limited):
    token = await limited.key("ci", "acme", "write")  # with the admin's quota
    for left in (4, 3, 2, 1, 0):
        answer = await limited.api("GET", "/acme/services", token=token)
        assert answer.status == 200
        assert answer.headers["RateLimit-Policy"] == '"default";q=5;w=60'
        assert re.fullmatch(rf'"default";r={left};t=\d+', answer.headers["RateLimit"])
    for method, path in (
        ("GET", "/acme/services"),
        ("POST", "/auth/v1/seed/acme/services"),
        ("GET", "/other/services"),
    ):
        refused = await limited.api(method, path, token=token)
        assert (refused.status, refused.json["status"]) == (429, 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= 12  # one of five comes back every 12 s
        assert refused.headers["RateLimit"] == f'"default";r=0;t={refused.headers["Retry-After"]}'
    assert (await limited.api("GET", "/healthz", token=token)).status == 200
    assert (await limited.api("GET", "/acme/services")).status == 200, "each key has its own"


async def test_the_keys_of_a_namespace_share_ten_quotas(rig, limited, monkeypatch):
    monkeypatch.setattr(rate_limit, "KEYS", 2)
    mine = [await rig.key(f"k{n}", "acme", "read") for n in range(3)]
    other = await rig.key("k", "other", "read")
    await limited.mirror.reached(await rig.store.revision())
    asked = [(await limited.api("GET", "/acme/services", token=token)) for token in mine[:2] for _ in range(5)]
    assert [answer.status for answer in asked] == [200] * 10
    refused = await limited.api("GET", "/acme/services", token=mine[2])
    wait = refused.headers["Retry-After"]
    assert (refused.status, 1 <= int(wait) <= 6) == (429, True)  # one of ten comes back every 6 s
    assert "acme together have made 10 requests" in refused.json["detail"]
    assert refused.headers["RateLimit-Policy"] == '"namespace";q=10;w=60'
    assert refused.headers["RateLimit"] == f'"namespace";r=0;t={wait}'
    assert await rig.store.client.exists("{wg}:quota:acme/k2") == 0, "what is refused is not taken from the key"
    assert 0 < await rig.store.client.pttl("{wg}:quota:acme") <= 60_000
    assert (await limited.api("GET", "/other/services", token=other)).status == 200
    assert (await limited.api("GET", "/acme/services")).status == 200, "a key of every namespace has its own alone"
    assert await rig.store.client.exists("{wg}:quota:*") == 0


async def test_problems_and_other_paths_tell_it_too(limited):
    missing = await limited.api("GET", "/acme/service/x")
    assert (missing.status, "RateLimit" in missing.headers) == (404, True)
    for path in ("/healthz", "/openapi.json", "/nothing"):
        assert "RateLimit" not in (await limited.api("GET", path)).headers
    assert "RateLimit" not in (await limited.api("GET", "/acme/services", token="x$y")).headers


async def test_all_nodes_share_it(rig, limited, limited_to):
    token = await rig.key("ci", "acme", "read")
    await limited.mirror.reached(await rig.store.revision())
    async with limited_to(5) as third:
        asked = [(limited, third)[n % 2].api("GET", "/acme/services", token=token) for n in range(20)]
        statuses = sorted(answer.status for answer in await asyncio.gather(*asked))
    assert statuses == [200] * 5 + [429] * 15


async def spent(limit, key):
    """What is left, or None if there was nothing left."""
    try:
        return await limit.spend(key)
    except Problem:
        return None


async def test_it_comes_back_with_time(rig, monkeypatch):
    monkeypatch.setattr(rate_limit, "WINDOW", 1)
    limit = RateLimit(rig.store, rig.mirror, 4)
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    for _ in range(4):
        await limit.spend(key)
    async with asyncio.timeout(30):
        while (quota := await spent(limit, key)) is None:
            await asyncio.sleep(0.01)
    assert quota.left <= 1


async def test_nothing_of_it_stays(rig):
    limit = RateLimit(rig.store, rig.mirror, 1000)
    await limit.spend(rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey))
    left = await rig.store.client.pttl("{wg}:quota:*/admin")
    assert 0 < left <= 60


async def test_zero_is_any_number(rig):
    limit = RateLimit(rig.store, rig.mirror, 0)
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    assert [await limit.spend(key) for _ in range(5)] == [None] * 5


async def test_a_revoked_key_is_refused_by_a_node_whose_mirror_lags(rig):
    """The mirror knows the key still; the store, asked for the quota, does not."""
    await rig.key("ci", "acme", "read")
    key = rig.mirror.decoded(Kind.KEY, "acme/ci", ApiKey)
    limit = RateLimit(rig.store, rig.mirror, 0)
    await limit.spend(key)
    await rig.store.commit([Change(Kind.KEY, "acme/ci", None)])
    with pytest.raises(Problem) as refused:
        await limit.spend(key)
    assert refused.value.status == 401
    again = ApiKey("ci", "acme", "read", "0" * 64, now_us())
    await rig.store.commit([Change(Kind.KEY, "acme/ci", encode(again))])
    with pytest.raises(Problem):
        await limit.spend(key)


async def test_without_the_store_reads_go_on_and_are_counted(rig, tmp_path, monkeypatch):
    limit = RateLimit(Store(f"unix://{tmp_path}/nobody.sock"), rig.mirror, 5)
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    assert [await limit.spend(key) for _ in range(20)] == [None] * 20
    assert limit.unlimited == 20


async def test_a_store_that_hangs_costs_one_short_wait(rig, monkeypatch):
    monkeypatch.setattr(rate_limit, "_PATIENCE", 0.05)
    limit = RateLimit(rig.store, rig.mirror, 5)
    asked = 0

    async def silent(*_):
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    limit._ask = silent
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    assert [await limit.spend(key) for _ in range(5)] == [None] * 5
    assert (asked, limit.unlimited) == (1, 5)


async def test_a_call_that_is_lost_in_a_crowd_ends_no_quota(rig):
    """The store has answered others a moment ago: it is not silent, and goes on being asked."""
    limit = RateLimit(rig.store, rig.mirror, 2)
    key = rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)
    ask = limit._ask

    async def lost(*_):
        raise TimeoutError

    assert (await limit.spend(key)).left == 1
    limit._ask = lost
    assert await limit.spend(key) is None
    limit._ask = ask
    assert (await limit.spend(key)).left == 0
    assert limit.unlimited == 1


async def test_strangers_get_429_and_good_keys_pass(limited_to):
    async with limited_to(3) as made:
        statuses = [(await made.api("GET", "/acme/services", token="x$y")).status for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        refused = await made.api("GET", "/acme/services", token="")
        assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (429, True)
        assert "WWW-Authenticate" not in refused.headers
        assert (await made.api("GET", "/acme/services")).status == 200


def test_failures_by_address():
    counted = Failures(limit=3)
    assert [counted.note("192.0.2.1", 100.0) > 0 for _ in range(5)] == [False, False, False, True, True]
    assert counted.note("192.0.2.1", 100.0) == pytest.approx(20.0)
    assert counted.note("192.0.2.1", 121.0) == 0
    assert counted.note("192.0.2.2", 100.0) == 0
    assert counted.total == 8


def test_a_prefix_of_ipv6_is_one_client():
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")
    assert client_of(None) == client_of("/run/socket") == ""


def test_the_table_of_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(failures, "ADDRESSES", 3)
    counted = Failures(limit=1)
    for last in range(9):
        counted.note(f"192.0.2.{last}", 1.0)
    assert len(counted._whole) == 3


async def test_reads_go_on_while_the_store_is_stopped(limited, valkey, monkeypatch):
    monkeypatch.setattr(rate_limit, "_PATIENCE", 0.5)
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        answers = [await limited.api("GET", "/acme/services") for _ in range(8)]
        assert [answer.status for answer in answers] == [200] * 8
        assert not any("RateLimit" in answer.headers for answer in answers)
        assert limited.server._app[DOOR].limit.unlimited == 8
        monkeypatch.setattr(rate_limit, "_PAUSE", 60.0)
        await limited.api("GET", "/acme/services")
        async with asyncio.timeout(4):  # the store's own time-out is 5 s: it is not waited for
            for path in ("events", "events?follow=true", "analytics"):
                refused = await limited.api("GET", f"/acme/service/api/{path}")
                assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        while "RateLimit" not in (await limited.api("GET", "/acme/services")).headers:
            await asyncio.sleep(0.05)


async def test_what_the_door_counts_is_in_the_metrics(limited_to):
    async with limited_to(2) as made:
        for token in (None, None, None, "x$y"):
            await made.api("GET", "/acme/services", token=token)
        told = {metric.name: metric.samples[0].value for metric in of_the_door(made.server._app[DOOR])}
    assert told == {
        "wakegate_api_unauthorized": 1,
        "wakegate_api_limited": 1,
        "wakegate_api_unlimited": 0,
        "wakegate_idempotent_answers_evicted": 0,
    }
