"""`--max-services`: exact, also for many creates at once on several nodes; what is refused leaves nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from conftest import SITE

from control.site import Site
from state.kinds import Kind
from state.store import Change

MOST = 5
BEYOND = "namespace: has 5 services, and 5 are the most (--max-services): delete one first"


@pytest.fixture
def site() -> Site:
    return replace(SITE, max_services=MOST)


async def tally(rig, namespace: str = "acme") -> int:
    record = await rig.store.get(Kind.TALLY, namespace)
    return 0 if record is None else int(record.value)


async def delete(rig, name: str) -> int:
    return (await rig.api("DELETE", f"/auth/v1/seed/acme/services/{name}")).status


async def test_twenty_creates_at_once_on_two_nodes_at_the_boundary(rig, neighbour):
    for n in range(MOST - 2):
        assert (await rig.create(f"first-{n}")).status == 201
    answers = await asyncio.gather(*((rig, neighbour)[n % 2].create(f"more-{n}") for n in range(20)))
    assert Counter(answer.status for answer in answers) == {201: 2, 422: 18}
    for answer in answers:
        if answer.status == 422:
            assert answer.json["detail"] == BEYOND
            assert [error["field"] for error in answer.json["errors"]] == ["namespace"]
    for node in (rig, neighbour):
        assert (await node.api("GET", "/acme/services")).json["total"] == MOST
    assert await tally(rig) == MOST


async def test_what_is_refused_leaves_nothing_and_is_no_answer_for_another_namespace(rig):
    for n in range(MOST):
        assert (await rig.create(f"s{n}")).status == 201
    before = await rig.contents()
    assert (await rig.create("beyond")).status == 422
    assert await rig.contents() == before
    assert (await rig.create("S0")).status == 409  # that the name is taken says more
    other = await rig.api("POST", "/auth/v1/seed/other/services", {"name": "a", "repo": "a/b", "gpu": "none"})
    assert other.status == 201


async def test_a_delete_makes_room_at_once(rig):
    for n in range(MOST):
        assert (await rig.create(f"s{n}")).status == 201
    for n in range(3):
        assert await delete(rig, f"s{n}") == 204
        assert (await rig.create(f"next-{n}")).status == 201
        assert (await rig.create("beyond")).status == 422
    assert [await delete(rig, "next-0"), await delete(rig, "next-0")] == [204, 404]  # one is one
    assert await tally(rig) == MOST - 1


@pytest.mark.parametrize("wrong", [None, b"2", b"50"])
async def test_a_count_that_is_wrong_is_put_right(rig, wrong):
    for n in range(MOST - 1):
        assert (await rig.create(f"s{n}")).status == 201
    await rig.mirror.reached(await rig.store.commit([Change(Kind.TALLY, "acme", wrong)]))
    answers = await asyncio.gather(*(rig.create(f"more-{n}") for n in range(6)))
    assert Counter(answer.status for answer in answers) == {201: 1, 422: 5}
    assert await tally(rig) == MOST
