"""Many callers at once, at one API process and at two on one store: what one of them wins, the others lose cleanly."""

from __future__ import annotations

import asyncio
import collections
import re

from state.codec import decode
from state.kinds import Kind
from state.models import Route, Service
from state.store import events_key

SPELLINGS = ("my-api", "My_Api", "MY-API", "my_api")
ONE_SERVICE = dict.fromkeys(("service", "deployment", "scale", "backend", "route", "name", "label", "tally"), 1)


def statuses(answers):
    return collections.Counter(answer.status for answer in answers)


async def counts(rig):
    return {kind: len(ids) for kind, ids in (await rig.contents()).items()}


async def listed(rig, query=""):
    """Ids and headers of one page."""
    answer = await rig.api("GET", f"/acme/services{query}")
    assert answer.status == 200, answer.text
    return [item["id"] for item in answer.json["items"]], answer


async def walked(rig, limit, between=None, begin="", relation="next"):
    """The ids of all pages, the next one taken from Link each time."""
    ids, path = [], begin or f"/acme/services?limit={limit}"
    while path:
        answer = await rig.api("GET", path)
        ids += [item["id"] for item in answer.json["items"]]
        if between is not None:
            await between()
        path = linked(answer, relation)
    return ids


def linked(answer, relation):
    found = re.search(rf'<([^>]*)>; rel="{relation}"', answer.headers["Link"])
    return found and found[1]


async def test_twenty_creates_of_one_name_at_two_nodes_make_one_service(rig, neighbour):
    spelled = [(node, name) for node in (rig, neighbour) for name in SPELLINGS] * 3
    answers = await asyncio.gather(*(node.create(name) for node, name in spelled[:20]))
    assert statuses(answers) == {201: 1, 409: 19}
    assert all(a.fields == {"name"} for a in answers if a.status == 409)
    assert await counts(rig) == ONE_SERVICE
    (created,) = (a.json["id"] for a in answers if a.status == 201)
    assert [key async for key in rig.store.client.scan_iter(events_key("*"))] == [events_key(created).encode()]
    for node in (rig, neighbour):
        await node.mirror.reached(await rig.store.revision())
        assert (await node.api("GET", "/acme/service/my-api")).json["id"] == created


async def test_one_label_and_two_namespaces_make_two_services_with_an_endpoint_each(rig, neighbour):
    """`a-b` of c and `a` of b-c want the same label."""
    wanted = [("a-b", "c", rig), ("a", "b-c", neighbour)] * 5
    answers = await asyncio.gather(*(node.create(name, namespace=of) for name, of, node in wanted))
    assert statuses(answers) == {201: 2, 409: 8}
    endpoints = {a.json["endpoint"] for a in answers if a.status == 201}
    assert len(endpoints) == 2
    assert "http://a-b-c.apps.localhost:8080" in endpoints


async def test_a_domain_goes_to_one_of_twenty_sisters(rig, neighbour):
    nodes = [rig, neighbour] * 10
    answers = await asyncio.gather(*(n.create(f"s{i}", custom_domain="www.acme.com") for i, n in enumerate(nodes)))
    assert statuses(answers) == {201: 1, 409: 19}
    assert all(a.fields == {"custom_domain"} for a in answers if a.status == 409)
    # no name, label or route of those that lost
    assert await counts(rig) == {**ONE_SERVICE, "domain": 1}
    (winner,) = (a.json["name"] for a in answers if a.status == 201)
    sister = next(name for name in ("s0", "s1") if name != winner)
    refused = await rig.create(sister, custom_domain="WWW.Acme.com.")
    assert (refused.status, refused.fields) == (409, {"custom_domain"})
    assert (await rig.create(sister)).status == 201
    assert (await rig.delete(winner)).status == 204
    assert (await rig.create(winner, custom_domain="www.acme.com")).status == 201


async def test_a_domain_of_another_namespace_is_no_conflict(rig):
    for namespace in ("acme", "other"):
        assert (await rig.create("api", namespace=namespace, custom_domain="www.acme.com")).status == 201


async def test_twenty_deletes_at_two_nodes_are_one(rig, neighbour):
    await rig.create("api")
    answers = await asyncio.gather(*(node.delete("api") for node in [rig, neighbour] * 10))
    assert statuses(answers) == {204: 1, 404: 19}


async def test_a_deleted_name_can_be_created_again_at_once_at_either_node(rig, neighbour):
    endpoints, ids = set(), set()
    for turn in range(10):
        one, other = (rig, neighbour) if turn % 2 else (neighbour, rig)
        created = await one.create("api", custom_domain="www.acme.com")
        assert created.status == 201, created.text
        endpoints.add(created.json["endpoint"])
        ids.add(created.json["id"])
        assert (await other.delete("api")).status == 204
        assert (await other.api("GET", "/acme/service/api")).status == 404
    assert len(endpoints) == 1
    assert len(ids) == 10
    route = decode(Route, (await rig.store.get(Kind.ROUTE, "api-acme.apps.localhost")).value)
    assert route.deleted_at is not None
    assert route.service == created.json["id"]


async def test_creates_and_deletes_of_one_name_that_race_end_in_one_service_or_none(rig, neighbour):
    async def churn(node):
        done = collections.Counter()
        for _ in range(8):
            done[(await node.create("api")).status] += 1
            done[(await node.delete("api")).status] += 1
        return done

    done = sum(await asyncio.gather(*(churn(node) for node in (rig, neighbour) * 2)), collections.Counter())
    assert set(done) <= {201, 204, 404, 409}
    names = (await rig.contents()).get("name", set())
    alive = [decode(Service, record.value).deleted_at is None async for _, record in rig.store.scan(Kind.SERVICE)]
    assert done[201] - done[204] == sum(alive) == len(names)


async def test_hundred_and_one_services_are_pages_of_100_and_1(rig):
    assert statuses(await asyncio.gather(*(rig.create(f"s{n}") for n in range(101)))) == {201: 101}
    first, answer = await listed(rig, "?limit=100")
    assert {k: v for k, v in answer.json.items() if k != "items"} == {"page": 1, "limit": 100, "total": 101}
    base = "/acme/services?"
    assert answer.headers["Link"] == (
        f'<{base}page=1&limit=100>; rel="first", <{base}page=2&limit=100>; rel="next", '
        f'<{base}page=2&limit=100>; rel="last"'
    )
    second, answer = await listed(rig, "?limit=100&page=2")
    assert (len(first), len(second)) == (100, 1)
    assert answer.json["total"] == 101
    assert answer.headers["Link"] == (
        f'<{base}page=1&limit=100>; rel="first", <{base}page=1&limit=100>; rel="prev", '
        f'<{base}page=2&limit=100>; rel="last"'
    )
    pages = [item for page in (1, 2) for item in (await rig.api("GET", f"{base}page={page}&limit=100")).json["items"]]
    order = [(item["created_at"], item["id"]) for item in pages]
    assert order == sorted(set(order))
    assert await walked(rig, 1) == first + second
    assert await walked(rig, 7) == first + second


async def test_pages_are_stable_under_inserts(rig, neighbour):
    """Whoever walks the pages meets each service that was there when he set out once, and nothing twice."""
    assert statuses(await asyncio.gather(*(rig.create(f"s{n}") for n in range(30)))) == {201: 30}
    before = await walked(rig, 100)
    inserted = iter(range(1000))

    async def insert():
        both = (node.create(f"new{next(inserted)}") for node in (rig, neighbour))
        assert statuses(await asyncio.gather(*both)) == {201: 2}

    seen = await walked(rig, 7, between=insert)
    assert seen[:30] == before
    assert len(set(seen)) == len(seen)
    await rig.mirror.reached(await rig.store.revision())
    _, answer = await listed(rig)
    assert answer.json["total"] == 30 + next(inserted)
    assert set(seen) <= set(await walked(rig, 100))


async def test_backwards_no_page_misses_a_service_under_deletes(rig):
    """Whoever walks from `last` by `prev` meets each service that is there all the while."""
    assert statuses(await asyncio.gather(*(rig.create(f"s{n}") for n in range(30)))) == {201: 30}
    _, answer = await listed(rig, "?limit=100")
    names = [item["name"] for item in answer.json["items"]]  # from the oldest
    going = iter([names[n] for n in (0, 1, 2, 14, 15, 29, 28, 13)])

    async def delete():
        if (name := next(going, None)) is not None:
            assert (await rig.api("DELETE", f"/auth/v1/seed/acme/services/{name}")).status == 204

    _, first = await listed(rig, "?limit=3")
    seen = await walked(rig, 3, between=delete, begin=linked(first, "last"), relation="prev")
    staying, _ = await listed(rig, "?limit=100")
    assert len(staying) == 22
    assert set(staying) <= set(seen)


async def test_pages_of_a_status_are_stable_under_inserts(rig):
    await asyncio.gather(*(rig.create(f"s{n}") for n in range(5)))
    first, answer = await listed(rig, "?status=deploying&limit=3")
    await rig.create("late")
    second, after = await listed(rig, "?status=deploying&limit=3&page=2")
    assert (answer.json["total"], after.json["total"]) == (5, 6)
    assert first + second == (await listed(rig, "?limit=100"))[0]
