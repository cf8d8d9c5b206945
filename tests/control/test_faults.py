"""A fault of the store at every step of every write of the API.

For n = 1, 2, … the n-th command of a call fails, before the store saw it or after it took effect, until the call runs
through untouched. Each time the caller hears 500 or 503 with a request id, or that it was done; what is stored is
whole, as it was before or as it should be afterwards; and the same call once more ends well.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from conftest import Answer, Rig, listed, opened
from domain_parts import add, kept, serve
from domain_parts import stored as stored_part
from faulty import BROKEN, LOST, FaultyStore

from certs.claims import claim_id
from control.limits import rate_limit
from control.services import names
from state.certificates import Domain
from state.codec import decode, encode
from state.kinds import Kind
from state.models import Backend, Deployment, DeploymentState, Route, Scale, Service
from state.secret_key import ENVIRONMENT, derive
from state.secrets import Vault
from state.store import Change, kind_key
from tests.chains import issue

LEAF = issue(["more.acme.com"])
CERTIFICATE = {"certificate": LEAF.pem, "key": LEAF.key_pem}
SERVICES = "/auth/v1/seed/acme/services"
MOST = 60  # commands of one call
FAULTS = {
    "lost before": {"error": LOST},
    "lost after": {"error": LOST, "after": True},
    "broken": {"error": BROKEN},
    "gone for good": {"error": LOST, "for_good": True},
}


@pytest.fixture(autouse=True)
async def fast() -> None:
    """There are thousands of calls, and asyncio's debug mode doubles what each costs."""
    asyncio.get_running_loop().set_debug(False)


@dataclass(frozen=True)
class Call:
    """A write. `again`: what the same call may answer once more, if the first one did its work and could not say so."""

    method: str
    path: str
    body: Any = None
    done: int = 200
    again: tuple[int, ...] = (200,)
    state: DeploymentState | None = DeploymentState.ACTIVE

    async def __call__(self, rig: Rig, name: str) -> Answer:
        body = self.body
        if not self.path:
            body = {**self.body, "name": name, "custom_domain": f"{name}.acme.com"}
        return await rig.api(self.method, SERVICES + self.path.format(name=name), body)


CALLS = {
    "create": Call(
        "POST",
        "",
        {"repo": "acme/api", "gpu": "none", "env": {"A": "a"}},
        201,
        (409,),
        None,
    ),
    "scale": Call("PUT", "/{name}", {"min_replicas": 2, "max_replicas": 3, "scaling": {"concurrency": 5}}),
    "change the domain": Call("PUT", "/{name}", {"custom_domain": "other.acme.com"}),
    "change everything": Call("PUT", "/{name}", {"env": {"B": "b"}, "branch": "next", "custom_domain": None}),
    "patch the environment": Call("PATCH", "/{name}/env", {"A": None, "C": "c"}),
    "redeploy": Call("POST", "/{name}/redeploy", again=(200, 409)),
    "roll back": Call("POST", "/{name}/rollback", {}, again=(200, 409)),
    "cancel": Call("POST", "/{name}/cancel", again=(200, 409), state=DeploymentState.BUILDING),
    "sleep": Call("POST", "/{name}/sleep"),
    "wake": Call("POST", "/{name}/wake"),
    "add a domain": Call("POST", "/{name}/domains", {"domain": "new.acme.com"}, 201, (200,)),
    "send a domain on": Call("POST", "/{name}/domains", {"domain": "more.acme.com", "redirect_to": None}),
    "remove a domain": Call("DELETE", "/{name}/domains/more.acme.com", None, 204, (404,)),
    "upload a certificate": Call("PUT", "/{name}/domains/more.acme.com/certificate", CERTIFICATE),
    "remove a certificate": Call("DELETE", "/{name}/domains/more.acme.com/certificate", None, 204, (404,)),
    "delete": Call("DELETE", "/{name}", None, 204, (404,)),
    "delete by force": Call("DELETE", "/{name}?force=true", None, 204, (404,)),
}  # fmt: skip

FURTHER = ("add a domain", "send a domain on", "remove a domain", "upload a certificate", "remove a certificate")

# the five that every other one is made like meet every fault
THOROUGH = ("create", "change everything", "redeploy", "remove a domain", "delete")
CASES = [(what, fault) for what in THOROUGH for fault in FAULTS]
CASES += [(what, fault) for what in CALLS for fault in ("lost after", "broken") if (what, fault) not in CASES]


@pytest.fixture
async def faulty(store_url) -> AsyncIterator[FaultyStore]:
    made = FaultyStore(store_url)
    yield made
    await made.close()


@pytest.fixture
async def rig(store, site, offers, tmp_path, faulty, monkeypatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(rate_limit, "_PAUSE", 0.0)  # or the next calls would ask for less
    await listed(store, offers)
    vault = Vault(derive(secrets.token_bytes(32), ENVIRONMENT))
    async with opened(store, site, tmp_path, vault, asked=faulty) as made:
        yield made


@pytest.mark.parametrize(("what", "fault"), CASES)
async def test_a_fault_at_every_command(rig, faulty, what, fault):
    nth = 0
    while faulty.hit or nth == 0:
        nth += 1
        assert nth < MOST
        await prepare(rig, f"s{nth}", what)
        faulty.arm(nth, **FAULTS[fault])
        told = f"{what}, {fault}, command {nth}"
        try:
            await one_fault(rig, faulty, f"s{nth}", what)
        except AssertionError as error:
            raise AssertionError(f"{told}: {error}") from error
    assert nth > 3, "it asks the store for more than that"


async def one_fault(rig: Rig, faulty: FaultyStore, name: str, what: str) -> None:
    call, before = CALLS[what], await stored(rig)
    first = await call(rig, name)
    faulty.disarm()
    await check_whole(rig)
    if first.status != call.done:
        assert faulty.hit, first.text
        assert first.status in (500, 503), first.text
        assert first.json["request_id"] == first.headers["X-Request-Id"]
        assert "inner workings" not in first.text
        landed = await stored(rig) != before
        second = await call(rig, name)
        assert second.status in (call.again if landed else (call.done,)), (first.text, second.text)
    await check_done(rig, name, what)


async def prepare(rig: Rig, name: str, what: str) -> None:
    """The service that the call is about, with a deployment that serves and an earlier one to go back to."""
    call = CALLS[what]
    if call.state is None:
        return
    created = await CALLS["create"](rig, name)
    assert created.status == 201, created.text
    service = await read(rig, Service, created.json["id"])
    latest = await read(rig, Deployment, service.latest)
    earlier = replace(latest, id=f"{latest.id}-0", state=DeploymentState.SUPERSEDED, proven=True, commit="0" * 40)
    serving = replace(latest, state=call.state, proven=True, commit="1" * 40)
    active = None if call.state is DeploymentState.BUILDING else latest.id
    changes = [Change(Kind.DEPLOYMENT, d.id, encode(d)) for d in (earlier, serving)]
    changes += [
        Change(Kind.SERVICE, service.id, encode(replace(service, min_replicas=0, active=active))),
        Change(Kind.SCALE, service.id, encode(Scale(desired=0 if call.path.endswith("wake") else 1))),
    ]
    await rig.mirror.reached(await rig.store.commit(changes))
    if what in FURTHER:
        await prepare_domain(rig, name, what)


async def prepare_domain(rig: Rig, name: str, what: str) -> None:
    """A further domain that is served, by a certificate of its owner if that is what the call is about."""
    added = await add(rig, "more.acme.com", service=name, redirect_to=f"{name}.acme.com")
    assert added.status == 201, added.text
    await serve(rig, "more.acme.com")
    if what == "remove a certificate":
        uploaded = await CALLS["upload a certificate"](rig, name)
        assert uploaded.status == 200, uploaded.text


async def check_done(rig: Rig, name: str, what: str) -> None:
    """The call's work is done, once."""
    await rig.mirror.reached(await rig.store.revision())
    answer = await rig.api("GET", f"/acme/service/{name}")
    await check_whole(rig)
    if what.startswith("delete"):
        assert answer.status == 404
        assert (await CALLS["create"](rig, name)).status == 201
        return
    assert answer.status == 200
    shown, deployments = answer.json, (await rig.api("GET", f"/acme/service/{name}/deployments")).json["items"]
    causes = [d["cause"] for d in deployments if d["state"] == "pending"]
    match what:
        case "create":
            assert (shown["env"], causes) == ({"A": "***"}, ["create"])
            assert (await CALLS["delete"](rig, name)).status == 204
            assert (await CALLS["create"](rig, name)).status == 201
        case "scale":
            assert (shown["min_replicas"], shown["scaling"]["concurrency"], causes) == (2, 5, [])
        case "change the domain":
            assert (shown["custom_domain"], causes) == ("other.acme.com", [])
            assert (await CALLS["delete"](rig, name)).status == 204
        case "change everything":
            assert (shown["env"], shown["branch"], shown["custom_domain"]) == ({"B": "***"}, "next", None)
            assert causes == ["update"]
        case _ if what in FURTHER:
            await check_domain_done(rig, name, what, shown)
        case "patch the environment":
            assert (shown["env"], causes) == ({"C": "***"}, ["update"])
        case "redeploy" | "roll back":
            assert causes == [what.replace(" ", "")]
        case "cancel":
            assert (shown["deployment"]["state"], causes) == ("cancelled", [])
        case "sleep" | "wake":
            assert shown["replicas"]["desired"] == (what == "wake")


async def check_domain_done(rig: Rig, name: str, what: str, shown: Any) -> None:
    """And the service goes, to make room for the next one with these domains."""
    domains = {one["name"]: one for one in shown["domains"]}
    first, more = f"{name}.acme.com", "more.acme.com"
    assert (first in domains, "new.acme.com" in domains) == (True, what == "add a domain")
    assert shown["custom_domain"] == first
    assert (more in domains) == (what != "remove a domain")
    parts = {"domain", "route", "certificate"}
    match what:
        case "send a domain on":
            assert domains[more]["redirect_to"] is (await stored_part(rig, Kind.ROUTE, more)).redirect is None
        case "remove a domain":
            assert await kept(rig, more) == set()
        case "upload a certificate":
            assert domains[more]["certificate"]["issuer"] == "uploaded"
            assert await kept(rig, more) == parts
        case "remove a certificate":
            assert await kept(rig, more) == parts - {"certificate"}
    assert (await CALLS["delete"](rig, name)).status == 204


async def read(rig: Rig, model: Callable[..., Any], object_id: str) -> Any:
    kind = {Service: Kind.SERVICE, Deployment: Kind.DEPLOYMENT}[model]
    record = await rig.store.get(kind, object_id)
    assert record is not None
    return decode(model, record.value)


async def stored(rig: Rig) -> dict[tuple[Kind, str], bytes]:
    """What is stored of services, without the last uses of keys."""
    kinds = [kind for kind in Kind if kind is not Kind.KEY]
    async with rig.store.client.pipeline(transaction=False) as pipe:
        for kind in kinds:
            pipe.hgetall(kind_key(kind))
        found = await pipe.execute()
    pairs = zip(kinds, found, strict=True)
    return {(kind, i.decode()): value.partition(b":")[2] for kind, records in pairs for i, value in records.items()}


async def check_whole(rig: Rig) -> None:
    """Each service has all of its parts, and there is no part without its service."""
    found = await stored(rig)
    services = {i: decode(Service, v) for (kind, i), v in found.items() if kind is Kind.SERVICE}
    alive = {i: service for i, service in services.items() if service.deleted_at is None}
    claims, domains = {}, set()
    for service in alive.values():
        owner = names.name_id(service.namespace, service.name)
        claims[owner] = service.id.encode()
        if service.custom_domain:
            domains.add((claim_id(service.namespace, service.custom_domain), service.id))
        assert found[Kind.LABEL, service.label] == owner.encode()
        assert decode(Backend, found[Kind.BACKEND, service.id]).service == service.id
        assert (Kind.SCALE, service.id) in found
        for deployment_id in filter(None, (service.latest, service.active)):
            assert decode(Deployment, found[Kind.DEPLOYMENT, deployment_id]).service == service.id
        assert decode(Deployment, found[Kind.DEPLOYMENT, service.latest]).run == service.run
    assert {i: value for (kind, i), value in found.items() if kind is Kind.NAME} == claims
    claimed = {(i, decode(Domain, value).service) for (kind, i), value in found.items() if kind is Kind.DOMAIN}
    assert domains <= claimed
    assert {service for _, service in claimed} <= set(alive)
    for (kind, _), value in found.items():
        if kind is Kind.ROUTE:
            route = decode(Route, value)
            assert (route.deleted_at is None) == (route.service in alive)
        if kind is Kind.DEPLOYMENT:
            assert decode(Deployment, value).service in services
