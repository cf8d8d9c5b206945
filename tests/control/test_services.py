"""Create, get, list, delete: as SPEC section 2 says, over HTTP and a real store."""

from __future__ import annotations

import asyncio
import collections
from dataclasses import replace

from domain_parts import TOKEN_KEY

from activator.status import STATUSES
from certs.proof import token
from control.services.names import labels
from state.codec import decode, encode
from state.kinds import Kind
from state.models import Backend, Deployment, DeploymentState, Replica, ReplicaState, Route, Scale, Service
from state.store import Change, Conflict, Unavailable, events_key


async def test_its_creation_is_told_before_anybody_can_see_it(rig, monkeypatch):
    """From the commit on the leader tells what becomes of it: that must come second."""
    commit, told = rig.store.commit, []

    async def committed(changes, **options):
        for change in changes:
            if change.kind is Kind.SERVICE:
                told.extend(await rig.store.events(change.id))
        return await commit(changes, **options)

    monkeypatch.setattr(rig.store, "commit", committed)
    created = await rig.create("api")
    assert [one.event.kind for one in told] == ["service.created"]
    assert await rig.store.client.ttl(events_key(created.json["id"])) == -1


async def test_a_created_service_has_the_shape_and_defaults_of_the_spec(rig):
    answer = await rig.create("Llama_3", min_replicas=0, env={"KEY": "secret"}, custom_domain="www.acme.com")
    assert answer.status == 201
    assert answer.headers["Location"] == "https://api.example.com/acme/service/Llama_3"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    body = answer.json
    for volatile in ("id", "created_at", "updated_at"):
        assert body.pop(volatile)
    deployment = body.pop("deployment")
    assert deployment["state"] == "pending"
    assert set(deployment) == {"id", "state", "cause", "commit", "digest", "created_at", "finished_at", "reason"}
    webhook = body.pop("webhook")
    assert webhook["url"] == "https://api.example.com/hooks/git/acme/Llama_3"
    assert len(webhook["secret"]) == 50
    domain = body["domain"]
    assert body == {
        "namespace": "acme",
        "name": "Llama_3",
        "status": "deploying",
        "endpoint": "http://llama-3-acme.apps.localhost:8080",
        "repo": "acme/app",
        "branch": "main",
        "image": None,
        "gpu": "none",
        "gpu_count": None,
        "cpu": 2,
        "memory": 4,
        "limits": "none",
        "min_replicas": 0,
        "max_replicas": 1,
        "target_gpu_utilization": 70,
        "port": 8080,
        "health_check_path": "/",
        "env": {"KEY": "***"},
        "region": "us-east-1",
        "custom_domain": "www.acme.com",
        "scaling": {
            "concurrency": 0,
            "target_concurrency": 100,
            "target_requests_per_second": None,
            "target_queue_delay_ms": None,
            "idle_timeout": 300,
            "scale_down_delay": 60,
            "hold_timeout": 120,
            "startup_timeout": 600,
            "affinity": "none",
            "hold_keepalive": False,
            "waiting_page": True,
            "warm_reserve": False,
        },
        "replicas": {"desired": 1, "ready": 0, "starting": 0, "unhealthy": 0, "draining": 0},
        "rollout": None,
        "domain": domain,
        "domains": [domain],
    }
    for volatile in ("created_at", "next_check_at"):
        assert domain.pop(volatile)
    assert domain == {
        "name": "www.acme.com",
        "status": "pending_dns",
        "reason": None,
        "detail": None,
        "redirect_to": None,
        "records": [
            {"type": "CNAME", "name": "www.acme.com", "value": "llama-3-acme.apps.localhost", "observed": None},
            {
                "type": "TXT",
                "name": "_wakegate.www.acme.com",
                "value": token(TOKEN_KEY, "acme", "www.acme.com"),
                "observed": None,
            },
        ],
        "certificate": None,
        "verified_at": None,
        "checked_at": None,
    }
    read = await rig.api("GET", "/acme/service/llama-3")
    assert read.status == 200
    assert read.headers["ETag"] == answer.headers["ETag"]
    created = answer.json
    del created["webhook"]  # shown once
    assert read.json == created


async def test_one_commit_holds_all_that_workers_and_the_activator_need(rig):
    before = await rig.store.revision()
    created = (await rig.create("api", min_replicas=2, max_replicas=5, scaling={"concurrency": 7})).json
    assert await rig.store.revision() == before + 1
    (entry,) = await rig.store.read_feed(before)
    kinds = {kind for kind, _, _ in entry.changes}
    assert kinds == {
        Kind.SERVICE, Kind.DEPLOYMENT, Kind.NAME, Kind.LABEL, Kind.ROUTE, Kind.BACKEND, Kind.SCALE, Kind.TALLY,
    }  # fmt: skip
    service = decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value)
    deployment = decode(Deployment, (await rig.store.get(Kind.DEPLOYMENT, service.latest)).value)
    assert deployment.state is DeploymentState.PENDING
    assert deployment.run == service.run
    assert decode(Scale, (await rig.store.get(Kind.SCALE, service.id)).value).desired == 2
    assert decode(Backend, (await rig.store.get(Kind.BACKEND, service.id)).value).concurrency == 7
    route = decode(Route, (await rig.store.get(Kind.ROUTE, "api-acme.apps.localhost")).value)
    assert route == Route(service.id, "acme", "api")


async def test_the_environment_is_sealed_in_the_store_and_masked_outside(rig):
    answer = await rig.create("api", env={"TOKEN": "hunter2-hunter2", "EMPTY": ""})
    assert answer.json["env"] == {"EMPTY": "***", "TOKEN": "***"}
    service_id = answer.json["id"]
    raw = (await rig.store.get(Kind.SERVICE, service_id)).value
    assert b"hunter2" not in raw
    sealed = decode(Service, raw).run.env
    assert rig.vault.unseal("acme", service_id, "TOKEN", sealed["TOKEN"]) == "hunter2-hunter2"
    assert rig.vault.unseal("acme", service_id, "EMPTY", sealed["EMPTY"]) == ""


async def test_a_create_answers_only_after_the_workers_know_the_route(rig):
    rig.workers.acknowledge.clear()
    creating = asyncio.create_task(rig.create("api"))
    async with asyncio.timeout(30):
        while not rig.workers.asked:
            await asyncio.sleep(0.005)
    assert not creating.done()
    rig.workers.acknowledge.set()
    assert (await creating).status == 201
    revision, timeout = rig.workers.asked[0]
    assert revision == await rig.store.revision()
    assert timeout is not None


async def test_twenty_creates_of_one_name_at_once_make_one_service(rig):
    spellings = ["my-api", "My_Api", "MY-API", "my_api"] * 5
    answers = await asyncio.gather(*(rig.create(name) for name in spellings))
    assert collections.Counter(a.status for a in answers) == {201: 1, 409: 19}
    assert all(a.fields == {"name"} for a in answers if a.status == 409)
    contents = await rig.contents()
    assert {kind: len(ids) for kind, ids in contents.items()} == dict.fromkeys(
        ("service", "deployment", "scale", "backend", "route", "name", "label", "tally"), 1
    )


async def test_a_custom_domain_is_held_by_one_service_of_the_namespace(rig):
    assert (await rig.create("one", custom_domain="www.acme.com")).status == 201
    taken = await rig.create("two", custom_domain="WWW.acme.com.")
    assert (taken.status, taken.fields) == (409, {"custom_domain"})
    assert (await rig.create("two", namespace="other", custom_domain="www.acme.com")).status == 201
    assert (await rig.delete("one")).status == 204
    assert (await rig.create("two", custom_domain="www.acme.com")).status == 201


async def test_a_deleted_service_is_gone_at_once_and_its_host_is_a_tombstone(rig):
    created = (await rig.create("api")).json
    assert (await rig.delete("api")).status == 204
    assert (await rig.api("GET", "/acme/service/api")).status == 404
    assert (await rig.api("GET", "/acme/services")).json["total"] == 0
    assert (await rig.delete("api")).status == 404
    route = decode(Route, (await rig.store.get(Kind.ROUTE, "api-acme.apps.localhost")).value)
    assert route.deleted_at is not None
    service = decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value)
    assert service.deleted_at == route.deleted_at
    assert not service.forced
    assert rig.workers.asked[-1] == (await rig.store.revision(), 5.0)


async def test_force_is_told_to_the_activator(rig):
    created = (await rig.create("api")).json
    assert (await rig.api("DELETE", "/auth/v1/seed/acme/services/api?force=true")).status == 204
    assert decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value).forced


async def test_a_delete_waits_for_the_workers(rig):
    await rig.create("api")
    rig.workers.acknowledge.clear()
    asked = len(rig.workers.asked)
    deleting = asyncio.create_task(rig.delete("api"))
    async with asyncio.timeout(30):
        while len(rig.workers.asked) == asked:
            await asyncio.sleep(0.005)
    assert not deleting.done()
    rig.workers.acknowledge.set()
    assert (await deleting).status == 204


async def test_a_recreated_name_returns_to_its_label_and_the_tombstone_is_lifted(rig):
    first = (await rig.create("My_Api")).json
    await rig.delete("My_Api")
    second = (await rig.create("my-api")).json
    assert second["endpoint"] == first["endpoint"]
    assert second["id"] != first["id"]
    route = decode(Route, (await rig.store.get(Kind.ROUTE, "my-api-acme.apps.localhost")).value)
    assert route == Route(second["id"], "acme", "my-api")


async def test_a_label_stays_with_its_first_namespace(rig):
    first = (await rig.create("a-b", namespace="c")).json
    second = (await rig.create("a", namespace="b-c")).json
    assert first["endpoint"] == "http://a-b-c.apps.localhost:8080"
    _, suffixed, *_ = labels("b-c", "a")
    assert second["endpoint"] == f"http://{suffixed}.apps.localhost:8080"
    await rig.delete("a-b", namespace="c")
    await rig.delete("a", namespace="b-c")
    assert (await rig.create("a", namespace="b-c")).json["endpoint"] == second["endpoint"]
    assert (await rig.create("a-b", namespace="c")).json["endpoint"] == first["endpoint"]


async def test_twenty_deletes_at_once_are_one(rig):
    await rig.create("api")
    answers = await asyncio.gather(*(rig.delete("api") for _ in range(20)))
    assert collections.Counter(a.status for a in answers) == {204: 1, 404: 19}


async def test_a_delete_beside_the_activators_writes_succeeds(rig):
    created = (await rig.create("api")).json

    async def scribble():
        for round_ in range(10):
            record = await rig.store.get(Kind.SERVICE, created["id"])
            service = decode(Service, record.value)
            if service.deleted_at:
                return
            try:
                value = encode(replace(service, active=f"d{round_}"))
                await rig.store.commit([Change(Kind.SERVICE, service.id, value, record.version)])
            except Conflict:
                pass

    answer, _ = await asyncio.gather(rig.delete("api"), scribble())
    assert answer.status == 204
    assert decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value).deleted_at


async def test_if_match_guards_a_delete(rig):
    etag = (await rig.create("api")).headers["ETag"]
    path = "/auth/v1/seed/acme/services/api"
    assert (await rig.api("DELETE", path, headers={"If-Match": '"other"'})).status == 412
    assert (await rig.api("GET", "/acme/service/api")).status == 200
    assert (await rig.api("DELETE", path, headers={"If-Match": etag})).status == 204


async def test_pages_of_a_list_are_whole_ordered_and_linked(rig):
    ids = [(await rig.create(f"s{n}")).json["id"] for n in range(7)]
    await rig.create("elsewhere", namespace="other")
    seen = []
    for page in (1, 2, 3):
        answer = await rig.api("GET", f"/acme/services?page={page}&limit=3")
        assert {k: v for k, v in answer.json.items() if k != "items"} == {"page": page, "limit": 3, "total": 7}
        seen += [item["id"] for item in answer.json["items"]]
    assert seen == ids
    middle = await rig.api("GET", "/acme/services?page=2&per_page=3&status=deploying")
    base = "/acme/services?status=deploying&"
    assert middle.headers["Link"] == (
        f'<{base}page=1&limit=3>; rel="first", <{base}page=1&limit=3>; rel="prev", '
        f'<{base}page=3&limit=3>; rel="next", <{base}page=3&limit=3>; rel="last"'
    )
    past = await rig.api("GET", "/acme/services?page=9&limit=3")
    assert (past.status, past.json["items"], past.json["total"]) == (200, [], 7)
    assert (await rig.api("GET", "/acme/services?status=failed")).json["items"] == []
    assert (await rig.api("GET", "/acme/services")).json["limit"] == 20


async def test_events_say_what_happened(rig):
    await rig.create("api")
    events = (await rig.api("GET", "/acme/service/api/events")).json["items"]
    assert [e["kind"] for e in events] == ["service.created"]
    assert set(events[0]) == {"time", "kind", "reason", "deployment", "replica"}


async def test_without_the_store_reads_go_on_and_writes_say_try_again(rig, valkey):
    await rig.create("api")
    valkey.kill()
    assert (await rig.api("GET", "/acme/service/api")).status == 200
    assert (await rig.api("GET", "/acme/services")).json["total"] == 1
    for answer in (await rig.create("other"), await rig.delete("api")):
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    async with asyncio.timeout(30):
        while (await rig.api("GET", "/readyz", token="")).status != 503:
            await asyncio.sleep(0.05)
    assert (await rig.api("GET", "/healthz", token="")).status == 200
    valkey.start()
    async with asyncio.timeout(30):
        while (await rig.api("GET", "/readyz", token="")).status != 200:
            await asyncio.sleep(0.05)
    assert (await rig.delete("api")).status == 204


async def test_the_status_filter_follows_every_part_of_a_service(rig):
    created = (await rig.create("api", min_replicas=1)).json
    service = decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value)
    deployment = decode(Deployment, (await rig.store.get(Kind.DEPLOYMENT, service.latest)).value)
    ready = Replica("r1", service.id, deployment.id, "node", ReplicaState.READY, service.created_at)
    failed = replace(deployment, state=DeploymentState.FAILED, reason="no Procfile")
    active = replace(deployment, state=DeploymentState.ACTIVE)

    async def becomes(status: str, *changes: Change) -> None:
        await rig.mirror.reached(await rig.store.commit(list(changes)))
        shown = (await rig.api("GET", "/acme/service/api")).json
        assert shown["status"] == status
        for other in STATUSES:
            listed = (await rig.api("GET", f"/acme/services?status={other}")).json["total"]
            assert listed == (1 if other == status else 0), other

    await becomes("deploying", Change(Kind.SCALE, service.id, encode(Scale(desired=1))))
    await becomes("failed", Change(Kind.DEPLOYMENT, deployment.id, encode(failed)))
    await becomes(
        "running",
        Change(Kind.DEPLOYMENT, deployment.id, encode(active)),
        Change(Kind.SERVICE, service.id, encode(replace(service, active=deployment.id))),
        Change(Kind.REPLICA, "r1", encode(ready)),
    )
    await becomes("degraded", Change(Kind.REPLICA, "r1", encode(replace(ready, state=ReplicaState.UNHEALTHY))))
    await becomes("running", Change(Kind.REPLICA, "r1", encode(ready)))
    await becomes("degraded", Change(Kind.REPLICA, "r1", None))
    await becomes("stopped", Change(Kind.SCALE, service.id, encode(Scale(desired=0))))


async def test_a_failed_redeploy_is_the_rollout_of_a_running_service(rig):
    created = (await rig.create("api")).json
    service = decode(Service, (await rig.store.get(Kind.SERVICE, created["id"])).value)
    deployment = decode(Deployment, (await rig.store.get(Kind.DEPLOYMENT, service.latest)).value)
    second = replace(deployment, id="second", state=DeploymentState.FAILED, reason="no such branch")
    ready = Replica("r1", service.id, deployment.id, "node", ReplicaState.READY, service.created_at)
    revision = await rig.store.commit(
        [
            Change(Kind.DEPLOYMENT, deployment.id, encode(replace(deployment, state=DeploymentState.ACTIVE))),
            Change(Kind.DEPLOYMENT, second.id, encode(second)),
            Change(Kind.SERVICE, service.id, encode(replace(service, active=deployment.id, latest=second.id))),
            Change(Kind.REPLICA, "r1", encode(ready)),
        ]
    )
    await rig.mirror.reached(revision)
    shown = (await rig.api("GET", "/acme/service/api")).json
    assert shown["status"] == "running"
    assert shown["deployment"]["id"] == deployment.id
    assert (shown["rollout"]["id"], shown["rollout"]["reason"]) == ("second", "no such branch")
    assert shown["replicas"]["ready"] == 1


async def test_a_lost_answer_of_the_store_is_looked_after(rig, monkeypatch):
    """A create or delete that happened is told as such, although the store's answer to the commit was lost."""
    commit = rig.store.commit

    async def lost(changes, *, fence=None):
        await commit(changes, fence=fence)
        raise Unavailable("the connection broke")

    monkeypatch.setattr(rig.store, "commit", lost)
    created = await rig.create("web")
    assert created.status == 201
    assert (await rig.api("GET", "/acme/service/web")).json["id"] == created.json["id"]
    assert (await rig.delete("web")).status == 204
    assert (await rig.api("GET", "/acme/service/web")).status == 404


async def test_a_commit_that_did_not_happen_is_503_and_leaves_nothing(rig, monkeypatch):
    before = await rig.contents()

    async def failed(changes, *, fence=None):
        raise Unavailable("the connection broke")

    monkeypatch.setattr(rig.store, "commit", failed)
    assert (await rig.create("web")).status == 503
    assert await rig.contents() == before
