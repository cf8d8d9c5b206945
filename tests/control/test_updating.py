"""Updates: what they change, what starts a deployment and what does not, and what they refuse; over a real store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from activator_part import COMMIT, PATH, active, end, stored

from state.codec import decode, encode
from state.kinds import Kind
from state.models import DeploymentState, Offer, Scaling, Service
from state.store import Change


@pytest.fixture
def offers():
    """Of a node that runs images as well."""
    return {"us-east-1": Offer("container", "us-east-1", {"T4": 2}, images=True)}


async def put(rig, **fields):
    return await rig.api("PUT", PATH, fields)


async def test_scaling_changes_without_a_deployment(rig):
    service_id = await active(rig, max_replicas=2, scaling={"idle_timeout": 7, "concurrency": 3})
    before, _, _ = await stored(rig, service_id)
    answer = await put(
        rig, min_replicas=1, max_replicas=9, target_gpu_utilization=50, scaling={"concurrency": 4, "hold_timeout": 9}
    )
    assert answer.status == 200
    shown = answer.json
    assert (shown["min_replicas"], shown["max_replicas"], shown["target_gpu_utilization"]) == (1, 9, 50)
    assert (shown["scaling"]["idle_timeout"], shown["scaling"]["concurrency"]) == (7, 4)
    service, _, _ = await stored(rig, service_id)
    assert (service.latest, service.active, service.run) == (before.latest, before.active, before.run)
    assert service.updated_at > before.updated_at
    assert answer.headers["ETag"] == (await rig.api("GET", "/acme/service/api")).headers["ETag"]
    last = (await rig.api("GET", "/acme/service/api/events")).json["items"][-1]
    assert (last["kind"], last["reason"]) == (
        "service.updated",
        "changed: max_replicas from 2 to 9, target_gpu_utilization from 70 to 50, scaling.concurrency from 3 to 4, "
        "scaling.hold_timeout from none to 9",
    )


async def test_null_puts_members_of_scaling_back_and_is_absent_elsewhere(rig):
    service_id = await active(rig, scaling={"idle_timeout": 7, "concurrency": 3, "affinity": "cookie"}, env={"A": "b"})
    answer = await put(
        rig, env=None, branch=None, min_replicas=None, port=None, scaling={"idle_timeout": None, "affinity": None}
    )
    assert answer.json["scaling"]["idle_timeout"] == rig.site.idle_timeout
    service, _, _ = await stored(rig, service_id)
    assert service.scaling == Scaling(concurrency=3)
    assert set(service.run.env) == {"A"}


async def test_an_update_that_changes_nothing_writes_nothing(rig):
    await active(rig, env={"A": "b", "C": "d"}, cpu=4)
    revision = await rig.store.revision()
    same = {"env": {"C": "d", "A": "b"}, "branch": "main", "cpu": 4, "port": 8080}
    for body in ({}, same, {"scaling": {}}, {"scaling": {"concurrency": 0}}, {"min_replicas": 1}):
        answer = await put(rig, **body)
        assert answer.status == 200
        assert answer.json["rollout"] is None
    assert (await rig.api("PATCH", f"{PATH}/env", {"A": "b", "NEVER": None})).status == 200
    assert await rig.store.revision() == revision


@pytest.mark.parametrize(
    "fields", [{"env": {}}, {"port": 9}, {"health_check_path": "/up"}, {"cpu": 4}, {"memory": 8}, {"env": {"A": "x"}}]
)
async def test_what_a_replica_starts_with_is_deployed_from_the_same_commit(rig, fields):
    service_id = await active(rig, env={"A": "b"})
    answer = await put(rig, **fields)
    assert answer.status == 200
    rollout = answer.json["rollout"]
    assert (rollout["state"], rollout["cause"], rollout["commit"]) == ("pending", "update", COMMIT)
    service, latest, _ = await stored(rig, service_id)
    assert latest.run == service.run
    assert service.active != service.latest == latest.id


async def test_another_branch_is_deployed_from_its_newest_commit(rig):
    service_id = await active(rig)
    answer = await put(rig, branch="dev", env={"A": "b"})
    assert (answer.json["branch"], answer.json["rollout"]["commit"]) == ("dev", None)
    await end(rig, service_id, DeploymentState.FAILED, reason="there is no branch dev")
    shown = (await put(rig, env={"A": "c"})).json
    assert shown["rollout"]["commit"] is None  # what serves is of another branch


async def test_an_image_keeps_its_digest_until_another_is_asked_for(rig):
    service_id = await active(rig, image="acme/app:1")
    pinned = (await put(rig, env={"A": "b"})).json
    assert (pinned["rollout"]["digest"], pinned["rollout"]["commit"]) == (COMMIT, None)
    await end(rig, service_id)
    other = (await put(rig, image="acme/app:2")).json
    assert (other["image"], other["rollout"]["digest"]) == ("acme/app:2", None)


async def test_bad_fields_are_named_at_once_with_why(rig):
    await active(rig, env={"A": "b"})
    before = await rig.store.revision()
    answer = await put(
        rig,
        name="other",
        repo="a/b",
        gpu="T4",
        gpu_count=1,
        region="us-east-1",
        id="x",
        env={"A": "***", "PORT": "1"},
        scaling={"concurrency": -1, "zz": 1},
        min_replicas=101,
        custom_domain="localhost",
    )
    assert answer.status == 400
    told = {error["field"]: error["message"] for error in answer.json["errors"]}
    assert set(told) == {
        "name", "repo", "gpu", "gpu_count", "region", "id", "env.A", "env.PORT", "scaling.concurrency", "scaling.zz",
        "min_replicas", "custom_domain",
    }  # fmt: skip
    assert {told[field] for field in ("name", "repo", "gpu", "gpu_count", "region")} == {"fixed at creation"}
    assert (told["id"], told["scaling.zz"]) == ("unknown field", "unknown field")
    assert "as masked when read" in told["env.A"]
    assert await rig.store.revision() == before


async def test_the_merged_service_is_what_is_judged(rig):
    await active(rig, min_replicas=2, max_replicas=4)
    low = await put(rig, max_replicas=1)
    assert (low.status, low.fields) == (422, {"max_replicas"})
    high = await put(rig, min_replicas=5)
    assert (high.status, high.fields) == (422, {"min_replicas"})
    image = await put(rig, image="acme/app:1", min_replicas=5)
    assert (image.status, image.fields) == (422, {"image", "min_replicas"})
    assert (await put(rig, min_replicas=5, max_replicas=5)).status == 200


async def test_a_branch_is_not_for_an_image(rig):
    await active(rig, image="acme/app:1")
    answer = await put(rig, branch="dev")
    assert (answer.status, answer.fields) == (422, {"branch"})


async def test_a_custom_domain_moves_in_the_commit_that_changes_it(rig):
    await active(rig, custom_domain="old.acme.com")
    await rig.create("sister", custom_domain="www.acme.com")
    before = await rig.contents()
    taken = await put(rig, custom_domain="www.acme.com", min_replicas=1, env={"A": "b"})
    assert (taken.status, taken.fields) == (409, {"custom_domain"})
    assert await rig.contents() == before
    moved = await put(rig, custom_domain="new.acme.com")
    assert moved.json["domain"]["name"] == "new.acme.com"
    assert moved.json["rollout"] is None
    assert (await rig.create("third", custom_domain="old.acme.com")).status == 201
    assert (await put(rig, custom_domain=None)).json["custom_domain"] is None
    assert (await rig.create("fourth", custom_domain="new.acme.com")).status == 201


async def test_sisters_that_want_one_domain_at_once_don_t_both_get_it(rig):
    names = [f"s{n}" for n in range(6)]
    for name in names:
        await rig.create(name)
    path = "/auth/v1/seed/acme/services/{}"
    answers = await asyncio.gather(
        *(rig.api("PUT", path.format(name), {"custom_domain": "www.acme.com"}) for name in names)
    )
    assert sorted(a.status for a in answers) == [200, 409, 409, 409, 409, 409]


async def test_the_environment_is_patched_name_by_name(rig):
    service_id = await active(rig, env={"A": "1", "B": "2", "C": "3"})
    answer = await rig.api("PATCH", f"{PATH}/env", {"A": "9", "B": None, "D": ""})
    assert answer.status == 200
    assert answer.json["env"] == {"A": "***", "C": "***", "D": "***"}
    assert answer.json["rollout"]["cause"] == "update"
    service, _, _ = await stored(rig, service_id)
    plain = {name: rig.vault.unseal("acme", service_id, name, sealed) for name, sealed in service.run.env.items()}
    assert plain == {"A": "9", "C": "3", "D": ""}


async def test_a_bad_patch_of_the_environment_names_every_name(rig):
    await active(rig, env={f"N{n}": "x" for n in range(200)})
    bad = await rig.api("PATCH", f"{PATH}/env", {"1A": "x", "PORT": "1", "A": "***", "B": 1, "C": "a\0b", "2B": None})
    assert (bad.status, bad.fields) == (400, {"1A", "PORT", "A", "B", "C", "2B"})
    for body in ([], ["A"], "A"):
        assert (await rig.api("PATCH", f"{PATH}/env", body)).fields == {"body"}
    many = await rig.api("PATCH", f"{PATH}/env", {f"M{n}": "x" for n in range(57)})
    assert (many.status, many.fields) == (422, {"env"})
    assert (await rig.api("PATCH", f"{PATH}/env", {f"M{n}": "x" for n in range(56)})).status == 200


async def test_the_merged_environment_has_a_bound_in_all(rig):
    """No single body can hold it: by patches it would grow for ever."""
    service_id = await active(rig, env={"A": "é"})  # 5 bytes
    halves = [{f"N{n:02}": "x" * (32_768 - 5) for n in part} for part in (range(16), range(16, 32))]
    assert (await rig.api("PATCH", f"{PATH}/env", halves[0])).status == 200
    await end(rig, service_id)
    before = await rig.contents()
    more = await rig.api("PATCH", f"{PATH}/env", halves[1])
    assert (more.status, more.fields) == (422, {"env"})
    assert more.json["errors"][0]["message"] == "would be 1048581 bytes; 1048576 is the most"
    many = await rig.api("PATCH", f"{PATH}/env", halves[1] | {f"M{n}": "" for n in range(256)})
    assert many.json["errors"][0]["message"].startswith("would have 289 names; 256 is the most, and would be 10")
    bad = await rig.api("PATCH", f"{PATH}/env", halves[1] | {"1A": ""})
    assert (bad.status, bad.fields) == (400, {"1A"})
    assert await rig.contents() == before
    assert (await rig.api("PATCH", f"{PATH}/env", halves[1] | {"A": None})).status == 200
    assert (await put(rig, min_replicas=0)).status == 200


async def test_an_environment_from_before_there_was_a_bound_can_be_left_and_replaced(rig):
    service_id = await active(rig)
    service, latest, _ = await stored(rig, service_id)
    env = rig.services.sealing.environment("acme", service_id, {"A" * 300_000: "1", "B": "x" * 800_000})
    changes = [
        Change(Kind.SERVICE, service_id, encode(replace(service, run=replace(service.run, env=env)))),
        Change(Kind.DEPLOYMENT, latest.id, encode(replace(latest, run=replace(latest.run, env=env)))),
    ]
    await rig.mirror.reached(await rig.store.commit(changes))
    assert len((await put(rig, min_replicas=0)).json["env"]) == 2
    assert (await rig.api("PATCH", f"{PATH}/env", {"C": "1"})).fields == {"env"}
    assert (await put(rig, env={"C": "1"})).json["env"] == {"C": "***"}


async def test_a_deployment_in_progress_refuses_another_but_not_scaling(rig):
    await rig.create("api", env={"A": "b"})
    for body in ({"env": {}}, {"branch": "dev"}, {"memory": 8, "min_replicas": 0}):
        refused = await put(rig, **body)
        assert refused.status == 409
        assert "in progress" in refused.json["detail"]
    assert (await put(rig, env={"A": "b"}, min_replicas=0)).json["min_replicas"] == 0
    assert (await rig.api("PATCH", f"{PATH}/env", {"A": "c"})).status == 409


async def test_an_update_meets_what_the_activator_writes_meanwhile(rig, monkeypatch):
    """After a conflict the service is looked at again: nobody's change is lost."""
    service_id = await active(rig)
    commit, raced = rig.store.commit, []

    async def racing(changes, *, fence=None):
        if not raced and any(c.kind is Kind.SERVICE for c in changes):
            raced.append(1)
            record = await rig.store.get(Kind.SERVICE, service_id)
            service = replace(decode(Service, record.value), hooked_at=77)
            await commit([Change(Kind.SERVICE, service_id, encode(service), record.version)])
        return await commit(changes, fence=fence)

    monkeypatch.setattr(rig.store, "commit", racing)
    assert (await put(rig, min_replicas=0)).status == 200
    service, _, _ = await stored(rig, service_id)
    assert (service.hooked_at, service.min_replicas, len(raced)) == (77, 0, 1)
