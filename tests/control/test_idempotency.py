"""Idempotency-Key: a POST that is sent again is answered again and not done again, at any node, also after a crash."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web

from control.contract.problem import FieldError, Problem
from control.limits import idempotency
from control.limits.idempotency import Idempotency
from state.kinds import Kind
from state.models import ApiKey
from state.store import Store, Unavailable

CREATE = "/auth/v1/seed/acme/services"
BODY = {"name": "api", "repo": "acme/api", "gpu": "none"}
KEYS = "/auth/v1/keys"


def once(name):
    return {"Idempotency-Key": name}


async def test_the_same_request_gets_the_same_answer(rig):
    first = await rig.api("POST", CREATE, BODY, headers=once("a"))
    again = await rig.api("POST", CREATE, BODY, headers=once("a"))
    assert first.status == again.status == 201
    assert again.text == first.text
    for name in ("Location", "ETag", "Content-Type", "Cache-Control"):
        assert again.headers.get(name) == first.headers.get(name)
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert first.headers["X-Request-Id"] != again.headers["X-Request-Id"]
    assert (await rig.api("GET", "/acme/services")).json["total"] == 1
    assert (await rig.api("POST", CREATE, BODY)).status == 409
    assert (await rig.api("POST", CREATE, BODY, headers=once("b"))).status == 409


async def test_another_node_answers_it_too(rig, neighbour):
    first = await rig.api("POST", CREATE, BODY, headers=once("a"))
    again = await neighbour.api("POST", CREATE, BODY, headers=once("a"))
    assert (again.status, again.text) == (201, first.text)


async def test_a_problem_is_an_answer(rig):
    wrong = {**BODY, "port": 0, "cpu": 3}
    first = await rig.api("POST", CREATE, wrong, headers=once("a"))
    again = await rig.api("POST", CREATE, wrong, headers=once("a"))
    assert (first.status, first.fields) == (again.status, again.fields) == (400, {"port", "cpu"})
    assert again.headers["Content-Type"].startswith("application/problem+json")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json["request_id"] == again.headers["X-Request-Id"] != first.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CREATE, {**BODY, "name": "other"}),
        (CREATE + "?wait=running", BODY),
        ("/auth/v1/seed/acme/services/api/redeploy", {}),
    ],
)
async def test_another_request_is_422(rig, path, body):
    assert (await rig.api("POST", CREATE, BODY, headers=once("a"))).status == 201
    other = await rig.api("POST", path, body, headers=once("a"))
    assert (other.status, other.fields) == (422, {"Idempotency-Key"})
    assert (await rig.api("GET", "/acme/services")).json["total"] == 1


async def test_each_key_and_each_namespace_has_its_own(rig):
    other = await rig.key("ci", "acme", "write")
    assert (await rig.api("POST", CREATE, BODY, headers=once("a"))).status == 201
    assert (await rig.api("POST", CREATE, BODY, headers=once("a"), token=other)).status == 409
    assert (await rig.api("POST", CREATE.replace("acme", "else"), BODY, headers=once("a"))).status == 201
    assert (await rig.api("DELETE", KEYS + "/ci")).status == 204
    again = await rig.key("ci", "acme", "write")
    assert (await rig.api("POST", CREATE, {**BODY, "name": "b"}, headers=once("a"), token=again)).status == 201


async def test_many_at_once_are_one(rig, neighbour):
    rigs = [rig, neighbour] * 10
    answers = await asyncio.gather(*(one.api("POST", CREATE, BODY, headers=once("a")) for one in rigs))
    made = [answer for answer in answers if answer.status == 201]
    assert made
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.text for answer in made}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in made) == 1
    assert all("Retry-After" in answer.headers for answer in answers if answer.status == 409)


async def test_one_in_flight_is_409(rig):
    rig.workers.acknowledge.clear()
    first = asyncio.create_task(rig.api("POST", CREATE, BODY, headers=once("a")))
    async with asyncio.timeout(30):
        while not rig.workers.asked:
            await asyncio.sleep(0.005)
    second = await rig.api("POST", CREATE, BODY, headers=once("a"))
    assert (second.status, second.headers["Retry-After"]) == (409, "1")
    rig.workers.acknowledge.set()
    assert (await first).status == 201
    assert (await rig.api("POST", CREATE, BODY, headers=once("a"))).text == (await first).text


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 256, "\u00e9"])
async def test_what_is_no_key_is_400(rig, name):
    answer = await rig.api("POST", CREATE, BODY, headers=once(name))
    assert (answer.status, answer.fields) == (400, {"Idempotency-Key"})


async def test_other_methods_do_not_look_at_it(rig):
    await rig.create("api")
    for _ in range(2):
        assert (await rig.api("GET", "/acme/service/api", headers=once("a"))).status == 200
    assert (await rig.api("DELETE", CREATE + "/api", headers=once("a"))).status == 204
    assert (await rig.api("DELETE", CREATE + "/api", headers=once("a"))).status == 404


async def test_secrets_in_an_answer_are_not_readable_in_the_store(rig):
    body = {"name": "ci", "namespace": "acme", "scope": "read"}
    first = await rig.api("POST", KEYS, body, headers=once("a"))
    secret = first.json["key"].partition("$")[2]
    assert (await rig.api("POST", KEYS, body, headers=once("a"))).json["key"] == first.json["key"]
    client = rig.store.client
    kept = [key async for key in client.scan_iter("*idempotency*")]
    assert kept
    for key in kept:
        assert await client.pttl(key) > (idempotency.LIFE - 60) * 1000
        if await client.type(key) == b"hash":
            assert secret.encode() not in b"".join(await client.hvals(key))


async def test_a_fault_of_ours_can_be_tried_again(rig, monkeypatch):
    async def broken(*_args, **_more):
        raise RuntimeError("inner workings")

    with monkeypatch.context() as patch:
        patch.setattr(type(rig.services), "create", broken)
        assert (await rig.api("POST", CREATE, BODY, headers=once("a"))).status == 500
    assert (await rig.api("POST", CREATE, BODY, headers=once("a"))).status == 201


class Request(dict):
    """As much of a request as a handler and `Idempotency` look at."""

    method, raw_path, content_length = "POST", "/x", None

    def __init__(self, name="a", body=b"{}"):
        super().__init__()
        self.headers, self.match_info, self._body = once(name), {"namespace": "acme"}, body

    async def read(self):
        return self._body


@pytest.fixture
def key(rig):
    return rig.mirror.decoded(Kind.KEY, "*/admin", ApiKey)


def answering(text, status=200):
    async def handler(_):
        return web.Response(text=text, status=status)

    return handler


async def never(_):
    raise AssertionError("done again")


async def test_a_crash_in_between_blocks_for_the_length_of_a_lease(rig, key, monkeypatch):
    monkeypatch.setattr(idempotency, "LEASE", 0.3)
    crashed, next_one = Idempotency(rig.store, rig.vault), Idempotency(rig.store, rig.vault)
    place = idempotency._Place.of(key, "acme", "a")
    await crashed._run("take", place, "dead", 300)
    with pytest.raises(Problem) as busy:
        await next_one.once(Request(), key, never)
    assert busy.value.status == 409
    async with asyncio.timeout(30):
        while True:
            try:
                response = await next_one.once(Request(), key, answering("done"))
                break
            except Problem:
                await asyncio.sleep(0.01)
    assert response.text == "done"
    assert await crashed._run("keep", place, "dead", "late") == [b"lost"], "the dead one's answer comes too late"
    assert (await next_one.once(Request(), key, never)).text == "done"


async def test_a_lease_is_renewed_for_as_long_as_it_takes(rig, key, monkeypatch):
    monkeypatch.setattr(idempotency, "LEASE", 2.0)
    once_ = Idempotency(rig.store, rig.vault)
    busy = 0

    async def slow(_):
        nonlocal busy
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            with pytest.raises(Problem):
                await Idempotency(rig.store, rig.vault).once(Request(), key, never)
            busy += 1
            await asyncio.sleep(0.1)
        return web.Response(text="slow")

    assert (await once_.once(Request(), key, slow)).text == "slow"
    assert busy > 1


async def test_an_error_comes_out_as_itself(rig, key):
    async def refused(_):
        raise Problem(409, "taken", [FieldError("name", "is taken")])

    with pytest.raises(Problem) as first:
        await Idempotency(rig.store, rig.vault).once(Request(), key, refused)
    with pytest.raises(Problem) as second:
        await Idempotency(rig.store, rig.vault).once(Request(), key, never)
    assert second.value.headers == {"Idempotent-Replayed": "true"}
    assert (first.value.document("x"), first.value.errors) == (second.value.document("x"), second.value.errors)


async def test_an_answer_that_is_too_long_is_not_kept_and_yet_not_done_again(rig, key, monkeypatch):
    monkeypatch.setattr(idempotency, "ANSWER", 100)
    once_ = Idempotency(rig.store, rig.vault)
    assert (await once_.once(Request(), key, answering("x" * 101, 201))).status == 201
    with pytest.raises(Problem) as again:
        await once_.once(Request(), key, never)
    assert (again.value.status, "201" in again.value.detail) == (409, True)


async def test_the_oldest_answers_of_a_tenant_make_room(rig, key, monkeypatch):
    monkeypatch.setattr(idempotency, "MOST", 3)
    once_ = Idempotency(rig.store, rig.vault)
    for number in range(5):
        await once_.once(Request(str(number)), key, answering(str(number)))
    assert once_.evicted == 2
    assert (await once_.once(Request("4"), key, never)).text == "4"
    assert (await once_.once(Request("0"), key, answering("anew"))).text == "anew"


async def test_they_are_bounded_in_bytes(rig, key, monkeypatch):
    monkeypatch.setattr(idempotency, "BYTES", 20_000)
    once_ = Idempotency(rig.store, rig.vault)
    for number in range(10):
        await once_.once(Request(str(number)), key, answering("x" * 4000))
    client = rig.store.client
    assert await client.zcard("{wg}:idempotency:*:order") == 3
    assert once_.evicted == 7
    fields = await client.hgetall("{wg}:idempotency:*")
    assert int(fields.pop(b"")) == sum(map(len, fields.values()))
    assert len(fields) == 3


async def test_after_a_day_it_is_forgotten(rig, key, monkeypatch):
    once_ = Idempotency(rig.store, rig.vault)
    await once_.once(Request("old"), key, answering("old"))
    await once_.once(Request("young"), key, answering("young"))
    client = rig.store.client
    day = idempotency.LIFE * 1000
    old = idempotency._Place.of(key, "acme", "old").request
    await client.zincrby("{wg}:idempotency:*:order", -day, old)
    assert (await once_.once(Request("young"), key, never)).text == "young"
    assert (await once_.once(Request("old"), key, answering("new"))).text == "new"
    await client.zincrby("{wg}:idempotency:*:order", -day, old)
    await once_.once(Request("third"), key, answering("third"))
    assert await client.zscore("{wg}:idempotency:*:order", old) is None
    assert once_.evicted == 0


async def test_without_the_store_nothing_is_done(rig, key, tmp_path):
    with pytest.raises(Unavailable):
        await Idempotency(Store(f"unix://{tmp_path}/nobody.sock"), rig.vault).once(Request(), key, never)


async def test_an_answer_that_can_not_be_kept_is_given_all_the_same(rig, key, caplog):
    once_ = Idempotency(rig.store, rig.vault)
    run = once_._run

    async def failing(action, *arguments):
        if action == "keep":
            raise Unavailable("gone")
        return await run(action, *arguments)

    once_._run = failing
    assert (await once_.once(Request(), key, answering("done"))).text == "done"
    assert "not kept" in caplog.text
