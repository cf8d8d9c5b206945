"""What the API refuses for want of a node, and how a service says that none can run it any more."""

from __future__ import annotations

import pytest
from activator_part import active
from conftest import Rig

from activator.placement import Needs
from control.contract.problem import Problem
from control.services.placement import live_offers, refusals
from state.codec import encode
from state.kinds import Kind
from state.models import Node, Offer
from state.store import Change

EAST, WEST = Offer("process", "us-east-1", {"T4": 2}), Offer("process", "eu-west-1")


def test_lost_nodes_offer_nothing() -> None:
    assert live_offers([Node(EAST, lost_at=1), Node(WEST)]) == [WEST]
    told = {error.field: error.message for error in refusals(Needs("us-east-1"), [WEST])}
    assert told == {"region": "no node is in us-east-1; regions here: eu-west-1"}
    for unknown in ([], [Node(EAST, lost_at=1)]):
        with pytest.raises(Problem) as refused:
            live_offers(unknown)
        assert refused.value.status == 503


async def put(rig: Rig, node: str, value: Node | None) -> None:
    change = Change(Kind.NODE, node, None if value is None else encode(value))
    await rig.mirror.reached(await rig.store.commit([change]))


async def test_create_names_what_live_nodes_have(rig: Rig) -> None:
    await put(rig, "of-eu-west-1", Node(WEST))
    refused = await rig.create("one", gpu="T4", region="eu-west-1")
    assert (refused.status, refused.fields) == (422, {"gpu"})
    assert "no node in eu-west-1 has 1 x T4; GPUs in eu-west-1: none" in refused.text
    await put(rig, "of-us-east-1", Node(EAST, lost_at=1))
    refused = await rig.create("two")
    assert (refused.status, refused.fields) == (422, {"region"})
    assert "no node is in us-east-1; regions here: eu-west-1" in refused.text
    assert (await rig.create("three", region="eu-west-1")).status == 201


async def test_before_any_node_is_known_a_create_is_to_be_tried_again(rig: Rig) -> None:
    await put(rig, "of-eu-west-1", None)
    await put(rig, "of-us-east-1", None)
    answer = await rig.create("one")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_what_no_live_node_can_run_has_failed_and_says_why_until_one_is_back(rig: Rig) -> None:
    await active(rig)
    await rig.create("other", region="eu-west-1")

    async def listed(status: str) -> list[str]:
        answer = await rig.api("GET", f"/acme/services?status={status}")
        return [item["name"] for item in answer.json["items"]]

    before = await rig.api("GET", "/acme/service/api")
    assert await listed("failed") == []
    await put(rig, "of-us-east-1", Node(EAST, lost_at=1))
    shown = (await rig.api("GET", "/acme/service/api")).json
    assert shown["status"] == "failed"
    assert shown["deployment"]["reason"] == "no live node can run it: no node is in us-east-1; regions here: eu-west-1"
    assert await listed("failed") == ["api"]
    assert await listed(before.json["status"]) == []
    assert await listed("deploying") == ["other"]
    await put(rig, "of-us-east-1", Node(EAST))
    assert (await rig.api("GET", "/acme/service/api")).json == before.json
    assert await listed("failed") == []
