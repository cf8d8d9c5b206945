"""Redeploy, rollback, cancel, sleep, wake, waiting and the list of deployments, over a real store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from activator_part import COMMIT, PATH, active, end, stored

from control.contract.problem import Problem
from control.limits.shares import Bounds
from control.services.waiting import Waiting
from state.codec import decode, encode
from state.kinds import Kind
from state.models import ApiKey, Deployment, DeploymentState, Replica, ReplicaState, RunSpec, Scale
from state.store import ABSENT, Change, Unavailable


async def post(rig, what, body=None, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await rig.api("POST", f"{PATH}/{what}", body, headers=sent)


async def test_a_redeploy_takes_the_newest_commit(rig):
    service_id = await active(rig)
    answer = await post(rig, "redeploy")
    assert answer.status == 200
    rollout = answer.json["rollout"]
    assert (rollout["cause"], rollout["state"], rollout["commit"]) == ("redeploy", "pending", None)
    assert answer.headers["ETag"]
    assert (await post(rig, "redeploy")).status == 409
    await end(rig, service_id, source="d" * 40)
    shown = (await rig.api("GET", "/acme/service/api")).json
    assert (shown["deployment"]["commit"], shown["rollout"]) == ("d" * 40, None)


async def test_twenty_redeploys_at_once_start_one(rig):
    await active(rig)
    answers = await asyncio.gather(*(post(rig, "redeploy") for _ in range(20)))
    assert sorted(a.status for a in answers) == [200] + [409] * 19
    assert (await rig.api("GET", "/acme/service/api/deployments")).json["total"] == 2


async def test_a_push_waits_for_the_deployment_in_progress(rig):
    service_id = await active(rig)
    pushed = await rig.services.redeploy("acme", "api", cause="push", pushed="b" * 40)
    assert pushed.started is not None
    _, latest, _ = await stored(rig, service_id)
    assert latest.cause == "push"
    for _ in range(2):  # the last wins: there is nothing to count
        queued = await rig.services.redeploy("acme", "api", cause="push", pushed="c" * 40)
        assert (queued.started, queued.facts.service.queued, queued.facts.service.pushed) == (None, True, "c" * 40)
    with pytest.raises(Problem) as refused:
        await rig.services.redeploy("acme", "api", cause="push")
    assert refused.value.status == 409
    service, latest, _ = await stored(rig, service_id)
    taken = Change(Kind.DEPLOYMENT, latest.id, encode(replace(latest, commit="d" * 40)))
    await rig.mirror.reached(await rig.store.commit([taken]))
    no_news = await rig.services.redeploy("acme", "api", cause="push", pushed="d" * 40)
    assert (no_news.started, no_news.facts.service.pushed) == (None, "c" * 40)
    await end(rig, service_id, DeploymentState.FAILED, reason="it broke")
    assert (await post(rig, "redeploy")).status == 200  # brings the branch's head, so that nothing is left to do
    service, _, _ = await stored(rig, service_id)
    assert not service.queued


async def test_a_rollback_runs_exactly_what_ran(rig):
    service_id = await active(rig, env={"A": "1"}, port=1)
    first, _, _ = await stored(rig, service_id)
    await rig.api("PUT", PATH, {"env": {"A": "2"}, "port": 2, "branch": "dev"})
    await end(rig, service_id, source="d" * 40)
    answer = await post(rig, "rollback")
    assert answer.status == 200
    assert (answer.json["port"], answer.json["branch"]) == (1, "main")
    assert (answer.json["rollout"]["cause"], answer.json["rollout"]["commit"]) == ("rollback", COMMIT)
    service, latest, _ = await stored(rig, service_id)
    assert service.run == latest.run == first.run
    assert (await post(rig, "rollback")).status == 409
    await end(rig, service_id)
    listed = (await rig.api("GET", "/acme/service/api/deployments")).json["items"]
    assert [(d["cause"], d["state"]) for d in listed] == [
        ("rollback", "active"),
        ("update", "superseded"),
        ("create", "superseded"),
    ]
    chosen = await post(rig, "rollback", {"deployment": listed[1]["id"]})
    assert chosen.json["rollout"]["commit"] == "d" * 40


async def test_a_rollback_to_what_never_served_or_is_not_there_is_refused(rig):
    service_id = await active(rig)
    assert (await post(rig, "rollback")).status == 409
    await post(rig, "redeploy")
    failed = await end(rig, service_id, DeploymentState.FAILED, reason="it broke")
    other = (await rig.create("other")).json["deployment"]["id"]
    for deployment in (failed, other, "nothing", ""):
        refused = await post(rig, "rollback", {"deployment": deployment})
        assert (refused.status, refused.fields) == (422, {"deployment"})
    assert (await post(rig, "rollback", {"deployment": 1})).status == 400
    serving = (await rig.api("GET", "/acme/service/api")).json["deployment"]["id"]
    assert (await post(rig, "rollback", {"deployment": serving})).status == 200


async def test_a_cancelled_deployment_is_over(rig):
    service_id = await active(rig)
    assert (await post(rig, "cancel")).status == 409
    await post(rig, "redeploy")
    answer = await post(rig, "cancel")
    assert (answer.status, answer.json["rollout"]) == (200, None)
    _, latest, _ = await stored(rig, service_id)
    assert latest.state is DeploymentState.CANCELLED
    assert latest.finished_at is not None
    assert (await post(rig, "cancel")).status == 409


async def test_a_first_deployment_that_was_cancelled_leaves_it_stopped(rig):
    await rig.create("api")
    answer = await post(rig, "cancel")
    assert (answer.json["status"], answer.json["deployment"]["state"]) == ("stopped", "cancelled")
    for what in ("sleep", "wake"):
        assert (await post(rig, what)).status == 409
    assert (await post(rig, "redeploy")).status == 200


async def test_sleep_and_wake_change_what_is_wanted(rig):
    service_id = await active(rig, min_replicas=0)
    asleep = await post(rig, "sleep")
    assert (asleep.status, asleep.json["status"], asleep.json["replicas"]["desired"]) == (200, "stopped", 0)
    assert (await stored(rig, service_id))[2] == Scale(desired=0, asleep=True)
    revision = await rig.store.revision()
    assert (await post(rig, "sleep")).status == 200
    assert await rig.store.revision() == revision
    woken = await post(rig, "wake")
    assert (woken.status, woken.json["replicas"]["desired"]) == (200, 1)
    scale = (await stored(rig, service_id))[2]
    assert scale == Scale(desired=1, active_at=scale.active_at, woken_at=scale.active_at)
    assert scale.active_at is not None  # it stays awake for the whole idle time-out
    revision = await rig.store.revision()
    assert (await post(rig, "wake")).status == 200
    assert await rig.store.revision() == revision
    assert (await post(rig, "sleep")).status == 200
    assert (await stored(rig, service_id))[2].woken_at is None


async def test_who_may_not_sleep_is_told_why(rig):
    await active(rig, min_replicas=1)
    awake = await post(rig, "sleep")
    assert awake.status == 409
    assert "min_replicas is 1" in awake.json["detail"]
    await rig.api("PUT", PATH, {"min_replicas": 0})
    await post(rig, "redeploy")
    assert "in progress" in (await post(rig, "sleep")).json["detail"]


WRITES = (
    ("PUT", "", {"min_replicas": 0}),
    ("PUT", "", {"env": {}}),
    ("PATCH", "/env", {"A": "b"}),
    ("POST", "/redeploy", None),
    ("POST", "/rollback", None),
    ("POST", "/cancel", None),
    ("POST", "/sleep", None),
    ("POST", "/wake", None),
)


@pytest.mark.parametrize(("method", "what", "body"), WRITES)
async def test_if_match_guards_every_write(rig, method, what, body):
    await active(rig, env={"X": "y"}, min_replicas=0)
    tag = (await rig.api("GET", "/acme/service/api")).headers["ETag"]
    before = await rig.store.revision()
    for wrong in ('"other"', "W/" + tag, "nonsense"):
        assert (await rig.api(method, PATH + what, body, headers={"If-Match": wrong})).status == 412
    assert await rig.store.revision() == before
    right = await rig.api(method, PATH + what, body, headers={"If-Match": f'"other", {tag}'})
    assert right.status in (200, 409)
    assert (await rig.api(method, PATH + what, body, headers={"If-Match": "*"})).status in (200, 409)


@pytest.mark.parametrize(("method", "what", "body"), WRITES)
async def test_no_write_to_what_is_not_there(rig, method, what, body):
    for name in ("nobody", "no body", "%20"):
        answer = await rig.api(method, f"/auth/v1/seed/acme/services/{name}{what}", body)
        assert answer.status == 404
    reader = await rig.key("reader", "acme", "read")
    assert (await rig.api(method, PATH + what, body, token=reader)).status == 403


@pytest.mark.parametrize("what", ["redeploy", "cancel", "sleep", "wake"])
async def test_calls_without_a_body_take_an_empty_object_at_most(rig, what):
    await active(rig, min_replicas=0)
    assert (await post(rig, what, {"branch": "dev"})).fields == {"branch"}
    assert (await post(rig, what, {})).status in (200, 409)


async def test_the_list_of_deployments_has_pages(rig):
    service_id = await active(rig)
    for _ in range(4):
        await post(rig, "redeploy")
        await end(rig, service_id)
    path = "/acme/service/api/deployments"
    page = await rig.api("GET", f"{path}?limit=2&page=2")
    assert (page.json["total"], len(page.json["items"])) == (5, 2)
    assert 'rel="last"' in page.headers["Link"]
    every = (await rig.api("GET", path)).json["items"]
    assert page.json["items"] == every[2:4]
    assert [d["created_at"] for d in every] == sorted((d["created_at"] for d in every), reverse=True)
    assert (await rig.api("GET", f"{path}?limit=0")).status == 400
    assert (await rig.api("GET", "/acme/service/nobody/deployments")).status == 404
    await rig.delete("api")
    assert (await rig.api("GET", path)).status == 404


# Waiting


async def waiter(rig):
    """Until a call waits."""
    async with asyncio.timeout(30):
        while not rig.catalogue.waiting._waiters:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("state", [DeploymentState.ACTIVE, DeploymentState.FAILED, DeploymentState.CANCELLED])
async def test_a_call_waits_until_its_deployment_has_ended(rig, state):
    service_id = await active(rig)
    waiting = asyncio.create_task(post(rig, "redeploy?wait=running&timeout=30"))
    await waiter(rig)
    await end(rig, service_id, DeploymentState.BUILDING)
    assert not waiting.done()
    which = await end(rig, service_id, state, reason=None if state is DeploymentState.ACTIVE else "so it ended")
    answer = await waiting
    assert answer.status == 200
    shown = answer.json["deployment"] if state is DeploymentState.ACTIVE else answer.json["rollout"]
    assert (None if shown is None else shown["id"]) == (None if state is DeploymentState.CANCELLED else which)


async def test_a_create_waits_and_its_answer_is_that_of_then(rig):
    body = {"name": "api", "repo": "acme/app", "gpu": "none"}
    waiting = asyncio.create_task(rig.api("POST", "/auth/v1/seed/acme/services?wait=running", body))
    await waiter(rig)
    (created,) = (await rig.api("GET", "/acme/services")).json["items"]
    await end(rig, created["id"], DeploymentState.FAILED, reason="it broke")
    answer = await waiting
    assert (answer.status, answer.json["status"]) == (201, "failed")
    assert answer.json["webhook"]["secret"]


async def test_a_time_out_answers_with_what_there_is(rig):
    await active(rig)
    answer = await post(rig, "redeploy?wait=running&timeout=1")
    assert (answer.status, answer.json["rollout"]["state"]) == (200, "pending")


async def test_what_starts_nothing_waits_for_nothing(rig):
    await active(rig)
    assert (await rig.api("PUT", f"{PATH}?wait=running&timeout=3600", {"min_replicas": 0})).status == 200


async def test_a_wake_waits_for_a_replica(rig):
    service_id = await active(rig, min_replicas=0)
    await post(rig, "sleep")
    waiting = asyncio.create_task(post(rig, "wake?wait=running"))
    await waiter(rig)
    service, _, _ = await stored(rig, service_id)
    ready = Replica("r1", service_id, service.active, "n1", ReplicaState.READY, 1)
    backend = await rig.store.get(Kind.BACKEND, service_id)
    await rig.store.commit(
        [Change(Kind.REPLICA, "r1", encode(ready), ABSENT), Change(Kind.BACKEND, service_id, backend.value)]
    )
    answer = await waiting
    assert (answer.json["status"], answer.json["replicas"]["ready"]) == ("running", 1)


async def test_the_end_of_the_process_ends_the_waiting(rig):
    await active(rig)
    waiting = asyncio.create_task(post(rig, "redeploy?wait=running"))
    await waiter(rig)
    await rig.server.stop()
    assert (await waiting).status == 200


async def test_a_service_that_goes_ends_the_waiting(rig):
    service_id = await active(rig)
    waiting = asyncio.create_task(post(rig, "redeploy?wait=running"))
    await waiter(rig)
    assert (await rig.delete("api")).status == 204
    _, latest, _ = await stored(rig, service_id)
    await rig.store.commit([Change(Kind.DEPLOYMENT, latest.id, None)])
    answer = await waiting
    assert (answer.status, answer.json["id"]) == (200, service_id)


async def test_where_waiting_means_nothing_it_is_refused(rig):
    await active(rig, min_replicas=0)
    for method, path in (
        ("DELETE", PATH),
        ("POST", f"{PATH}/sleep"),
        ("POST", f"{PATH}/cancel"),
    ):
        refused = await rig.api(method, f"{path}?wait=running")
        assert (refused.status, refused.fields) == (400, {"wait"})
    for parameters, fields in (("timeout=5", {"timeout"}), ("wait=ready&timeout=0", {"wait", "timeout"})):
        refused = await post(rig, f"redeploy?{parameters}")
        assert (refused.status, refused.fields) == (400, fields)


async def test_only_so_many_wait() -> None:
    waiting = Waiting(Bounds(key=1, namespace=1, node=1))
    mine, other = (ApiKey("ci", namespace, "write", "", 0) for namespace in ("acme", "other"))
    with waiting.place(mine, 1.0):
        for caller, status in ((mine, 429), (other, 503)):
            with pytest.raises(Problem) as refused, waiting.place(caller, 1.0):
                pass
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (status, "1")
            with waiting.place(caller, None):  # who does not wait needs no place
                pass
    with waiting.place(other, 1.0):
        pass


# A store that loses its answers


async def test_a_deployment_whose_answer_was_lost_is_found_again(rig, monkeypatch):
    service_id = await active(rig, min_replicas=0)
    commit = rig.store.commit

    async def lost(changes, *, fence=None):
        await commit(changes, fence=fence)
        raise Unavailable("the connection broke")

    monkeypatch.setattr(rig.store, "commit", lost)
    assert (await post(rig, "redeploy")).status == 200
    assert (await post(rig, "cancel")).status == 200
    assert (await rig.api("PUT", PATH, {"max_replicas": 7})).json["max_replicas"] == 7
    assert (await post(rig, "sleep")).status == 200
    assert len(rig.catalogue.deployments(service_id)) == 2


async def test_a_deployment_that_was_not_written_is_503_and_nothing(rig, monkeypatch):
    await active(rig)
    before = await rig.contents()

    async def failed(changes, *, fence=None):
        raise Unavailable("the connection broke")

    monkeypatch.setattr(rig.store, "commit", failed)
    for what in ("redeploy", "rollback"):
        assert (await post(rig, what)).status in (409, 503)
    assert (await rig.api("PUT", PATH, {"env": {"A": "b"}})).status == 503
    assert await rig.contents() == before


async def test_old_deployments_are_decoded_and_listed(rig):
    """Records of before have no cause."""
    service_id = await active(rig)
    old = Deployment("d0", service_id, DeploymentState.SUPERSEDED, RunSpec(repo="acme/app", branch="main"), 1)
    raw = encode(replace(old, proven=True))
    assert b"cause" not in raw
    await rig.mirror.reached(await rig.store.commit([Change(Kind.DEPLOYMENT, "d0", raw, ABSENT)]))
    listed = (await rig.api("GET", "/acme/service/api/deployments")).json["items"]
    assert (listed[-1]["id"], listed[-1]["cause"]) == ("d0", "create")
    assert decode(Deployment, raw).cause == "create"
