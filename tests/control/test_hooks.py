"""Webhook deliveries over HTTP, against a real store: what redeploys, what does nothing, and what strangers learn."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from control.pushes.deliveries import MOST, Deliveries
from control.pushes.hooks import BODY_LIMIT
from state.codec import decode, encode
from state.ids import new_id
from state.kinds import Kind
from state.models import Deployment, DeploymentState, Service
from state.store import Change

A, B, C = "a" * 40, "b" * 40, "c" * 40


def push(after: str = B, ref: str = "refs/heads/main", **members) -> bytes:
    document = {"ref": ref, "before": A, "after": after, "repository": {"full_name": "acme/app"}, **members}
    return json.dumps(document).encode()


class Forge:
    """Delivers to one service as GitHub does, unless a test says otherwise."""

    def __init__(self, rig, secret: str, path: str = "/hooks/git/acme/web") -> None:
        self.rig = rig
        self.secret = secret
        self.path = path

    async def send(self, body: bytes, *, event: str = "push", delivery: str | None = None, **headers: str):
        mac = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        fields = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": delivery or new_id(),
            "X-Hub-Signature-256": f"sha256={mac}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.post(body, fields)

    async def post(self, body: bytes, headers: dict[str, str]):
        return await self.rig.api("POST", self.path, token="", data=body, headers=headers)


async def service_of(rig, name: str = "web") -> Service:
    found = rig.catalogue.service("acme", name)
    assert found is not None
    record = await rig.store.get(Kind.SERVICE, found.id)
    return decode(Service, record.value)


async def put(rig, *changes: Change) -> None:
    await rig.mirror.reached(await rig.store.commit(list(changes)))


async def settle(rig, commit: str, state: DeploymentState = DeploymentState.ACTIVE) -> None:
    """The newest deployment has come to this; the one that serves is what it was, unless it is this."""
    service = await service_of(rig)
    record = await rig.store.get(Kind.DEPLOYMENT, service.latest)
    deployment = replace(decode(Deployment, record.value), state=state, commit=commit)
    active = deployment.id if state is DeploymentState.ACTIVE else service.active
    await put(
        rig,
        Change(Kind.DEPLOYMENT, deployment.id, encode(deployment)),
        Change(Kind.SERVICE, service.id, encode(replace(service, active=active))),
    )


async def events(rig) -> list[str]:
    answer = await rig.api("GET", "/acme/service/web/events")
    return [event["kind"] for event in answer.json["items"]]


@pytest.fixture
async def forge(rig) -> Forge:
    """The service acme/web runs commit A of acme/app, and this knows its secret."""
    made = await rig.create("web")
    assert made.json["webhook"]["url"] == "https://api.example.com/hooks/git/acme/web"
    await settle(rig, A)
    return Forge(rig, made.json["webhook"]["secret"])


async def test_a_push_of_the_branch_redeploys(rig, forge):
    before = (await rig.api("GET", "/acme/service/web")).headers["ETag"]
    answer = await forge.send(push(B))
    assert answer.status == 202, answer.text
    service = await service_of(rig)
    assert answer.json["action"] == "redeploy"
    assert answer.json["deployment"] == service.latest != service.active
    deployment = rig.mirror.decoded(Kind.DEPLOYMENT, service.latest, Deployment)
    assert (deployment.cause, deployment.state, deployment.commit) == ("push", DeploymentState.PENDING, None)
    assert service.hooked_at is not None
    assert (await events(rig))[-2:] == ["push.received", "deployment.created"]
    assert "secret" not in answer.text
    # its configuration is what it was
    after = await rig.api("PUT", "/auth/v1/seed/acme/services/web", {"max_replicas": 2}, headers={"If-Match": before})
    assert after.status == 200


@pytest.mark.parametrize("event", ["push", "Push Hook"])
async def test_the_vector_that_github_publishes(rig, forge, event):
    """The signature holds, so that the answer says what is missing; without it nothing is said."""
    service = await service_of(rig)
    sealed = rig.services.sealing.webhook("acme", service.id, "It's a Secret to Everybody")
    await put(rig, Change(Kind.SERVICE, service.id, encode(replace(service, webhook=sealed))))
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"X-GitHub-Event": event, "X-Hub-Signature-256": signature}
    assert (await forge.post(b"Hello, World!", headers)).status == 400
    assert (await forge.post(b"Hello, World!", {**headers, "X-GitHub-Event": "ping"})).status == 200
    assert (await forge.post(b"Hello, World?", headers)).status == 403


async def test_the_other_forges(rig, forge):
    def mac(body: bytes) -> str:
        return hmac.new(forge.secret.encode(), body, hashlib.sha256).hexdigest()

    gitea = push(B)
    answer = await forge.post(gitea, {"X-Gitea-Event": "push", "X-Gitea-Signature": mac(gitea)})
    assert (answer.status, answer.json["action"]) == (202, "redeploy")
    await settle(rig, B)
    gitlab = json.dumps({"object_kind": "push", "ref": "refs/heads/main", "after": C}).encode()
    answer = await forge.post(gitlab, {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": forge.secret})
    assert (answer.status, answer.json["action"]) == (202, "redeploy")
    await settle(rig, C)
    stamp = str(int(time.time()))
    key = base64.b64decode(forge.secret.removeprefix("whsec_"))
    signed = hmac.new(key, f"m1.{stamp}.".encode() + gitea, hashlib.sha256).digest()
    headers = {
        "X-Gitlab-Event": "Push Hook",
        "webhook-id": "m1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
    answer = await forge.post(gitea, headers)
    assert (answer.status, answer.json["action"]) == (202, "redeploy")
    await settle(rig, B)
    answer = await forge.post(gitea, headers)
    assert answer.json["reason"] == "this delivery came before"


async def test_a_delivery_counts_once(rig, forge):
    body = push(B)
    assert (await forge.send(body, delivery="1")).json["action"] == "redeploy"
    await settle(rig, A)  # as if its deployment had taken an older commit
    latest = (await service_of(rig)).latest
    for again, delivery in ((body, "1"), (body, "2"), (push(C), "1")):
        answer = await forge.send(again, delivery=delivery)
        assert (answer.status, answer.json["action"], answer.json["reason"]) == (
            200,
            "none",
            "this delivery came before",
        )
    assert (await service_of(rig)).latest == latest
    assert (await forge.send(push(C), delivery="3")).json["action"] == "redeploy"


async def test_of_many_at_once_one_counts(rig, forge):
    body = push(B)
    answers = await asyncio.gather(*(forge.send(body, delivery="1") for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 19 + [202]
    assert not (await service_of(rig)).queued


async def test_pushes_during_a_deployment_are_remembered_and_the_last_wins(rig, forge):
    assert (await forge.send(push(B))).json["action"] == "redeploy"
    for commit in (C, "d" * 40):
        answer = await forge.send(push(commit))
        assert (answer.status, answer.json["action"], answer.json["deployment"]) == (202, "queued", None)
    service = await service_of(rig)
    assert service.queued
    assert (await events(rig)).count("deployment.created") == 1


@pytest.mark.parametrize(
    ("sent", "event", "hooked", "said"),
    [
        (b'{"zen": "x"}', "ping", False, "pong"),
        (push(B), "create", False, "create is not a push"),
        (push(B, ref="refs/heads/dev"), "push", False, "dev is not main"),
        (push(B, ref="refs/tags/v1"), "push", False, "not a branch"),
        (push("0" * 40), "push", True, "main was deleted"),
        (push(A), "push", True, "deployed already"),
        (push(B, repository={"full_name": "acme/other"}), "push", False, "is not acme/app"),
    ],
)
async def test_what_is_well_signed_and_no_push_of_the_branch_does_nothing(rig, forge, sent, event, hooked, said):
    latest = (await service_of(rig)).latest
    answer = await forge.send(sent, event=event)
    assert (answer.status, answer.json["action"], answer.json["deployment"]) == (200, "none", None)
    assert said in answer.json["reason"]
    service = await service_of(rig)
    assert (service.latest, service.queued, service.hooked_at is not None) == (latest, False, hooked)


async def test_a_commit_whose_deployment_failed_may_be_pushed_again(rig, forge):
    await forge.send(push(B))
    await settle(rig, B, DeploymentState.FAILED)
    assert (await forge.send(push(B, forced=True))).json["action"] == "redeploy"


async def test_strangers_learn_nothing_and_change_nothing(rig, forge):
    await rig.create("old")
    old = await service_of(rig, "old")
    await put(rig, Change(Kind.SERVICE, old.id, encode(replace(old, webhook=""))))
    revision = await rig.store.revision()
    keys = set(await rig.store._client.keys("*"))
    body = push(B)
    bad = {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + "0" * 64}
    signed = hmac.new(b"", body, hashlib.sha256).hexdigest()
    answers = []
    for path in ("acme/web", "acme/old", "acme/none", "none/none", "metrics/x", "acme/%20"):
        for headers in (
            bad,
            {"X-GitHub-Event": "push"},
            {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={signed}"},
            {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": ""},
            {"X-GitHub-Event": "ping"},
            {},
        ):
            forge.path = f"/hooks/git/{path}"
            answers.append(await forge.post(body, headers))
    documents = {json.dumps({**answer.json, "request_id": ""}) for answer in answers}
    assert {answer.status for answer in answers} == {403}
    assert len(documents) == 1
    assert len({frozenset(answer.headers) for answer in answers}) == 1
    assert await rig.store.revision() == revision
    assert set(await rig.store._client.keys("*")) == keys


async def test_a_form_is_taken_as_well(rig, forge):
    form = urlencode({"payload": push(B).decode()}).encode()
    answer = await forge.send(form, Content_Type="application/x-www-form-urlencoded")
    assert (answer.status, answer.json["action"]) == (202, "redeploy")


async def test_bodies_are_bounded(rig, forge):
    assert (await forge.send(push(B, commits=["x" * (3 << 20)]))).json["action"] == "redeploy"
    answer = await forge.post(b"x" * (BODY_LIMIT + 1), {})
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (413, "application/problem+json")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"payload=", push("main"), b"\xff" * 1000])
async def test_a_push_that_is_malformed_is_400(rig, forge, body):
    answer = await forge.send(body)
    assert (answer.status, answer.fields) == (400, {"body"})


async def test_who_is_wrong_too_often_waits_but_nobody_who_was_right(rig, forge):
    other = Forge(rig, (await rig.create("other")).json["webhook"]["secret"], "/hooks/git/acme/other")
    assert (await forge.send(b"{}", event="ping")).status == 200
    bad = {"X-Hub-Signature-256": "sha256=0"}
    statuses = [(await forge.post(b"", bad)).status for _ in range(70)]
    assert statuses[:60] == [403] * 60
    assert 429 in statuses
    refused = await other.send(b"{}", event="ping")
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await forge.send(push(B))).json["action"] == "redeploy"


async def test_without_the_store_nothing_happens_and_the_delivery_may_come_again(rig, forge, valkey):
    body = push(B)
    valkey.kill()
    assert (await forge.send(body, delivery="1")).status == 503
    valkey.start()
    async with asyncio.timeout(30):
        while (answer := await forge.send(body, delivery="1")).status == 503:
            await asyncio.sleep(0.05)
    assert answer.json["action"] == "redeploy"


async def test_wrong_methods_and_parameters(rig, forge):
    answer = await rig.api("GET", forge.path, token="")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    forge.path += "?x=1"
    assert (await forge.send(b"{}", event="ping")).status == 400


class TestRotation:
    PATH = "/auth/v1/seed/acme/services/web/webhook"

    async def test_the_secret_of_before_counts_no_more(self, rig, forge):
        await forge.send(push(A))
        assert (await service_of(rig)).hooked_at is not None
        answer = await rig.api("POST", self.PATH)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        assert answer.json["url"] == "https://api.example.com/hooks/git/acme/web"
        assert (await forge.send(push(B))).status == 403
        assert (await service_of(rig)).hooked_at is None
        forge.secret = answer.json["secret"]
        assert (await forge.send(push(B))).status == 202
        assert "webhook.rotated" in await events(rig)

    async def test_who_may(self, rig, forge):
        reader = await rig.key("reader", "acme", "read")
        assert (await rig.api("POST", self.PATH, token="")).status == 401
        assert (await rig.api("POST", self.PATH, token=reader)).status == 403
        assert (await rig.api("POST", self.PATH.replace("web", "none"))).status == 404
        assert (await rig.api("POST", self.PATH, headers={"If-Match": '"x"'})).status == 412
        assert (await rig.api("POST", self.PATH, {"secret": "mine"})).fields == {"secret"}

    async def test_an_image_has_none(self, rig, forge):
        service = await service_of(rig)
        run = replace(service.run, repo=None, branch=None, image="nginx")
        await put(rig, Change(Kind.SERVICE, service.id, encode(replace(service, run=run))))
        answer = await rig.api("POST", self.PATH)
        assert (answer.status, answer.fields) == (422, {"repo"})


class TestDeliveries:
    async def test_each_mark_counts_once_for_its_service(self, store):
        deliveries = Deliveries(store)
        assert await deliveries.take("s1", ["body 1", "id 1"])
        assert not await deliveries.take("s1", ["body 2", "id 1"])
        assert not await deliveries.take("s1", ["body 1"])
        assert await deliveries.take("s1", ["body 2"])
        assert await deliveries.take("s2", ["body 1", "id 1"])
        await deliveries.drop("s1", ["body 1", "id 1"])
        assert await deliveries.take("s1", ["id 1", "body 1"])

    async def test_they_are_bounded_and_end(self, store):
        deliveries = Deliveries(store)
        for number in range(MOST + 50):
            assert await deliveries.take("s1", [f"id {number}"])
        assert await store._client.zcard("{s1}:deliveries") == MOST
        assert 0 < await store._client.ttl("{s1}:deliveries") <= 86_400
