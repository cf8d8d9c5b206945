"""Custom domains of a service over HTTP and a real store: added, looked at again, sent on, removed."""

from __future__ import annotations

import asyncio
import collections

import pytest
from domain_parts import (
    LATER,
    TOKEN_KEY,
    WRITE,
    add,
    certificate,
    change,
    events,
    get,
    kept,
    names,
    prove,
    put,
    remove,
    serve,
    stored,
)

from certs.proof import token
from control.claims.changes import MOST
from state.certificates import Issuance, Proof
from state.ids import now_us
from state.kinds import Kind
from state.models import Route

SERVICE = "/auth/v1/seed/acme/services/api"
ALL = {"domain", "route", "certificate", "issuance", "challenge"}


@pytest.fixture
async def service(rig) -> str:
    """The id of the service `api` of acme."""
    created = await rig.create("api")
    assert created.status == 201
    return str(created.json["id"])


async def custom_domain(rig):
    return (await rig.api("GET", "/acme/service/api")).json["custom_domain"]


async def workers_asked(rig, call):
    """How often the workers were asked for their acknowledgement by a call, and its answer."""
    before = len(rig.workers.asked)
    answer = await call
    return len(rig.workers.asked) - before, answer


# adding


async def test_a_domain_is_added_with_what_dns_should_say(rig, service):
    made = await add(rig, "WWW.Acme.com.")
    assert made.status == 201
    place = "/acme/service/api/domains/www.acme.com"
    assert made.headers["Location"] == f"https://api.example.com{place}"
    read = await rig.api("GET", place)
    assert (read.json, read.headers["ETag"]) == (made.json, made.headers["ETag"])
    assert made.json["records"] == [
        {"type": "CNAME", "name": "www.acme.com", "value": "api-acme.apps.localhost", "observed": None},
        {
            "type": "TXT",
            "name": "_wakegate.www.acme.com",
            "value": token(TOKEN_KEY, "acme", "www.acme.com"),
            "observed": None,
        },
    ]
    assert (made.json["status"], made.json["certificate"], made.json["redirect_to"]) == ("pending_dns", None, None)
    claim = await stored(rig, Kind.DOMAIN, "acme/www.acme.com")
    assert (claim.service, claim.proof, claim.held) == (service, Proof.PENDING_DNS, False)
    assert claim.check_at == claim.created_at
    assert await kept(rig, "www.acme.com") == {"domain"}  # it reserves and routes nothing
    assert (await events(rig))[-1] == ("domain.added", "www.acme.com")


async def test_the_first_is_the_custom_domain_and_the_others_are_beside_it(rig, service):
    for name in ("www.acme.com", "acme.com", "shop.acme.com"):
        assert (await add(rig, name)).status == 201
    shown = (await rig.api("GET", "/acme/service/api")).json
    assert (shown["custom_domain"], shown["domain"]["name"]) == ("www.acme.com", "www.acme.com")
    assert (
        [one["name"] for one in shown["domains"]] == await names(rig) == ["www.acme.com", "acme.com", "shop.acme.com"]
    )
    listed = (await rig.api("GET", "/acme/services")).json["items"][0]
    assert listed["domains"] == shown["domains"]


async def test_the_same_again_is_looked_at_again_and_changes_nothing_else(rig, service):
    await add(rig, "www.acme.com")
    await add(rig, "acme.com", redirect_to="www.acme.com")
    told, before = await events(rig), await rig.store.get(Kind.SERVICE, service)
    for name, again in (
        ("acme.com", lambda: add(rig, "acme.com")),
        ("acme.com", lambda: add(rig, "acme.com", redirect_to="www.acme.com")),
        ("www.acme.com", lambda: rig.api("PUT", SERVICE, {"custom_domain": "www.acme.com"})),
    ):
        await change(rig, name, check_at=now_us() + LATER)
        assert (await again()).status == 200
        assert (await stored(rig, Kind.DOMAIN, f"acme/{name}")).check_at <= now_us()
        revision = await rig.store.revision()
        assert (await again()).status == 200
        assert await rig.store.revision() == revision  # it is to be looked at anyway
    assert (await rig.store.get(Kind.SERVICE, service)).version == before.version
    assert await events(rig) == told
    assert (await get(rig, "acme.com"))["redirect_to"] == "www.acme.com"


async def test_a_post_that_is_sent_again_under_its_key_is_answered_as_before(rig, service):
    sent = [await add(rig, "www.acme.com", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [one.status for one in sent] == [201, 201]
    assert sent[1].headers["Idempotent-Replayed"] == "true"


async def test_a_sister_s_domain_is_a_conflict_and_another_namespace_s_is_none(rig, service):
    for name in ("sister", "cousin"):
        await rig.create(name)
    assert (await add(rig, "www.acme.com")).status == 201
    refused = await add(rig, "www.acme.com", service="sister")
    assert (refused.status, refused.fields) == (409, {"domain"})
    for made in (
        await rig.create("third", custom_domain="www.acme.com"),
        await rig.api("PUT", "/auth/v1/seed/acme/services/sister", {"custom_domain": "www.acme.com"}),
    ):
        assert (made.status, made.fields) == (409, {"custom_domain"})
    await rig.create("api", namespace="other")
    assert (await add(rig, "www.acme.com", namespace="other")).status == 201


async def test_of_many_sisters_one_gets_it(rig, neighbour):
    for n in range(8):
        await rig.create(f"s{n}")
    answers = await asyncio.gather(*(add((rig, neighbour)[n % 2], "www.acme.com", service=f"s{n}") for n in range(8)))
    assert collections.Counter(answer.status for answer in answers) == {201: 1, 409: 7}


async def test_a_service_has_20_at_most_however_many_are_added_at_once(rig, neighbour, service):
    answers = await asyncio.gather(
        *(add((rig, neighbour)[n % 2], f"d{n}.acme.com") for n in range(6)), return_exceptions=True
    )
    assert {answer.status for answer in answers} <= {201, 503}
    for n in range(100, 100 + MOST):
        last = await add(rig, f"d{n}.acme.com")
    assert (last.status, last.fields) == (422, {"domain"})
    assert len(await names(rig)) == MOST
    taken = await rig.api("PUT", SERVICE, {"custom_domain": "new.acme.com"})
    assert taken.status == 200  # in the place of the one before
    assert len(await names(rig)) == MOST


@pytest.mark.parametrize(
    "domain", ["localhost", "*.acme.com", "1.2.3.4", "x.apps.localhost", "api.example.com", "co.uk"]
)
async def test_what_is_nobody_s_own_is_refused_by_its_field(rig, service, domain):
    refused = await add(rig, domain, redirect_to=domain)
    assert (refused.status, refused.fields) == (400, {"domain", "redirect_to"})
    assert await names(rig) == []


# sent on


async def test_a_domain_is_sent_on_and_its_route_with_it(rig, service):
    await add(rig, "www.acme.com")
    made = await add(rig, "acme.com", redirect_to="WWW.acme.com")
    assert made.json["redirect_to"] == "www.acme.com"
    await prove(rig, "acme.com")
    count, answer = await workers_asked(rig, add(rig, "acme.com", redirect_to=None))
    assert (answer.status, answer.json["redirect_to"], count) == (200, None, 1)
    assert await stored(rig, Kind.ROUTE, "acme.com") == Route(service, "acme", "api")
    await add(rig, "acme.com", redirect_to="www.acme.com")
    assert (await stored(rig, Kind.ROUTE, "acme.com")).redirect == "www.acme.com"
    assert (await stored(rig, Kind.DOMAIN, "acme/acme.com")).held
    assert [event for event in await events(rig) if event[0].startswith("domain")] == [
        ("domain.added", "www.acme.com"),
        ("domain.added", "acme.com is sent on to www.acme.com"),
        ("domain.changed", "acme.com is served itself"),
        ("domain.changed", "acme.com is sent on to www.acme.com"),
    ]


async def test_a_domain_is_sent_on_to_one_that_is_served(rig, service):
    for name in ("www.acme.com", "acme.com"):
        await add(rig, name)
    for name, target, told in (
        ("acme.com", "acme.com", "is the domain itself"),
        ("acme.com", "shop.acme.com", "is no domain of this service"),
        ("new.acme.com", "new.acme.com", "is the domain itself"),
    ):
        refused = await add(rig, name, redirect_to=target)
        assert (refused.status, refused.fields) == (422, {"redirect_to"})
        assert told in refused.text
    await add(rig, "acme.com", redirect_to="www.acme.com")
    chained = await add(rig, "shop.acme.com", redirect_to="acme.com")
    assert (chained.status, chained.fields) == (422, {"redirect_to"})
    for refused in (
        await add(rig, "www.acme.com", redirect_to="acme.com"),
        await add(rig, "other.acme.com") and await add(rig, "www.acme.com", redirect_to="other.acme.com"),
        await remove(rig, "www.acme.com"),
        await rig.api("PUT", SERVICE, {"custom_domain": None}),
        await rig.api("PUT", SERVICE, {"custom_domain": "acme.com"}),
    ):
        assert refused.status in (409, 422), refused.text
    assert await names(rig) == ["www.acme.com", "acme.com", "other.acme.com"]


# removing


async def test_what_is_removed_goes_in_one_commit_and_is_waited_for(rig, service):
    await add(rig, "www.acme.com")
    await serve(rig, "www.acme.com")
    assert await kept(rig, "www.acme.com") == ALL
    before = await rig.store.revision()
    rig.workers.acknowledge.clear()
    removing, asked = asyncio.create_task(remove(rig, "www.acme.com")), len(rig.workers.asked)
    async with asyncio.timeout(30):
        while len(rig.workers.asked) == asked:
            await asyncio.sleep(0.005)
    assert await rig.store.revision() == before + 1
    assert await kept(rig, "www.acme.com") == set()
    assert not removing.done()
    assert rig.workers.asked[-1] == (before + 1, 5.0)
    rig.workers.acknowledge.set()
    assert (await removing).status == 204
    assert (await events(rig))[-1] == ("domain.removed", "www.acme.com")
    assert (await remove(rig, "www.acme.com")).status == 404
    assert (await add(rig, "www.acme.com")).status == 201


async def test_the_oldest_of_the_others_takes_the_place_of_a_removed_custom_domain(rig, service):
    for name in ("c.acme.com", "b.acme.com", "a.acme.com"):
        await add(rig, name)
    for name, left in (("c.acme.com", "b.acme.com"), ("a.acme.com", "b.acme.com"), ("b.acme.com", None)):
        assert (await remove(rig, name)).status == 204
        assert await custom_domain(rig) == left


async def test_null_removes_the_custom_domain_alone_however_often(rig, service):
    for name in ("www.acme.com", "acme.com"):
        await add(rig, name)
        await serve(rig, name)
    count, answer = await workers_asked(rig, rig.api("PUT", SERVICE, {"custom_domain": None}))
    assert (count, answer.json["custom_domain"], answer.json["domain"]) == (1, None, None)
    assert (await kept(rig, "www.acme.com"), await kept(rig, "acme.com")) == (set(), ALL)
    count, answer = await workers_asked(rig, rig.api("PUT", SERVICE, {"custom_domain": None}))
    assert (count, answer.status) == (0, 200)
    assert await names(rig) == ["acme.com"]


async def test_another_custom_domain_takes_the_place_of_the_one_before(rig, service):
    for name in ("www.acme.com", "acme.com"):
        await add(rig, name)
        await serve(rig, name)
    answer = await rig.api("PUT", SERVICE, {"custom_domain": "acme.com"})
    assert (answer.json["custom_domain"], answer.json["domain"]["status"]) == ("acme.com", "active")
    assert answer.json["rollout"] is None
    assert (await kept(rig, "www.acme.com"), await kept(rig, "acme.com")) == (set(), ALL)
    answer = await rig.api("PUT", SERVICE, {"custom_domain": "new.acme.com", "min_replicas": 0})
    assert (answer.json["domain"]["name"], answer.json["min_replicas"]) == ("new.acme.com", 0)
    assert await names(rig) == ["new.acme.com"]
    assert [kind for kind, _ in await events(rig)][-5:] == [
        "service.updated", "domain.removed", "service.updated", "domain.removed", "domain.added",
    ]  # fmt: skip


async def test_what_is_another_namespace_s_stays_when_a_claim_goes(rig, service):
    await rig.create("api", namespace="other")
    for namespace in ("acme", "other"):
        await add(rig, "www.acme.com", namespace=namespace)
    await serve(rig, "www.acme.com", "other")
    lost = {"proof": Proof.MOVED, "reason": "moved_elsewhere", "check_at": now_us() + 10 * 365 * 24 * LATER}
    await change(rig, "www.acme.com", **lost)
    shown = await get(rig, "www.acme.com")
    assert (shown["status"], shown["certificate"], shown["next_check_at"]) == ("moved", None, None)
    assert (await remove(rig, "www.acme.com")).status == 204
    assert await kept(rig, "www.acme.com") == ALL - {"domain"}
    assert await kept(rig, "www.acme.com", "other") == ALL
    assert (await rig.delete("api")).status == 204
    assert await kept(rig, "www.acme.com", "other") == ALL


async def test_a_removal_looks_again_where_the_leader_was_quicker(rig, service, monkeypatch):
    """It is proved and served between the look and the commit: then all of that goes, too."""
    await add(rig, "www.acme.com")
    commit, quicker = rig.store.commit, [serve(rig, "www.acme.com")]

    async def late(changes, **options):
        while quicker:
            await quicker.pop()
        return await commit(changes, **options)

    monkeypatch.setattr(rig.store, "commit", late)
    assert (await remove(rig, "www.acme.com")).status == 204
    assert await kept(rig, "www.acme.com") == set()


# a service that goes


async def test_a_deleted_service_leaves_tombstones_and_certificates_and_no_claims(rig, service):
    for name in ("www.acme.com", "acme.com", "unproved.acme.com"):
        await add(rig, name)
    await serve(rig, "www.acme.com")
    await serve(rig, "acme.com")
    assert (await rig.delete("api")).status == 204
    for name in ("www.acme.com", "acme.com"):
        assert await kept(rig, name) == {"route", "certificate"}
        route = await stored(rig, Kind.ROUTE, name)
        assert (route.service, route.namespace) == (service, "acme")
        assert route.deleted_at is not None
    assert await kept(rig, "unproved.acme.com") == set()
    created = await rig.create("sister", custom_domain="www.acme.com")
    assert created.status == 201  # free for its namespace at once
    assert (await add(rig, "acme.com", service="sister")).status == 201
    assert (await remove(rig, "acme.com", service="sister")).status == 204
    assert await kept(rig, "acme.com") == set()  # the tombstone, too


async def test_a_domain_that_is_added_while_its_service_goes_does_not_stay_behind(rig, neighbour):
    for turn in range(5):
        await rig.create("api")
        added, deleted = await asyncio.gather(
            add(neighbour, f"d{turn}.acme.com"), rig.delete("api"), return_exceptions=True
        )
        assert added.status in (201, 404, 503)
        assert deleted.status in (204, 503)
        if deleted.status == 204:
            assert await kept(rig, f"d{turn}.acme.com") == set()
        else:
            assert (await rig.delete("api")).status == 204
        await neighbour.mirror.reached(await rig.store.revision())


# what is shown, and to whom


async def test_states_reasons_and_the_certificate_are_shown(rig, service):
    await add(rig, "www.acme.com")
    await change(rig, "www.acme.com", reason="nxdomain", detail="There is no such name.", checked_at=1_000_000)
    shown = await get(rig, "www.acme.com")
    assert (shown["status"], shown["reason"], shown["detail"]) == ("pending_dns", "nxdomain", "There is no such name.")
    assert shown["checked_at"] == "1970-01-01T00:00:01.000000Z"
    await prove(rig, "www.acme.com", reason=None, detail=None, verified_at=2_000_000)
    assert (await get(rig, "www.acme.com"))["status"] == "verified"
    await put(rig, (Kind.ISSUANCE, "www.acme.com", Issuance(("www.acme.com",), "acme", began_at=1)))
    assert (await get(rig, "www.acme.com"))["status"] == "issuing"
    await put(rig, (Kind.CERTIFICATE, "www.acme.com", certificate("www.acme.com", issuer="internal", trusted=False)))
    shown = await get(rig, "www.acme.com")
    assert (shown["status"], shown["verified_at"]) == ("active", "1970-01-01T00:00:02.000000Z")
    assert set(shown["certificate"]) == {"issuer", "not_before", "not_after", "renew_at", "trusted"}
    assert (shown["certificate"]["issuer"], shown["certificate"]["trusted"]) == ("internal", False)
    whole = await rig.api("GET", "/acme/service/api")
    assert whole.json["domain"] == shown
    assert "sealed" not in whole.text


async def test_a_namespace_sees_nothing_of_another_s(rig, service):
    """Neither that it claims or holds a domain, nor its certificate, order or failure."""
    await rig.create("api", namespace="other")
    await add(rig, "www.acme.com")
    alone = (await add(rig, "free.acme.com", namespace="other")).json
    claimed = (await add(rig, "www.acme.com", namespace="other")).json
    assert _told(claimed) == _told(alone)
    await remove(rig, "www.acme.com", namespace="other")
    await serve(rig, "www.acme.com")
    held = (await add(rig, "www.acme.com", namespace="other")).json
    assert _told(held) == _told(alone)
    await change(rig, "www.acme.com", "other", proof=Proof.PENDING_OWNERSHIP, reason="held_elsewhere")
    shown = await get(rig, "www.acme.com", namespace="other")
    assert (shown["status"], shown["reason"], shown["certificate"]) == ("pending_ownership", "held_elsewhere", None)
    token_of_other = await rig.key("o", "other", "admin")
    for method, path in (
        ("GET", "/acme/service/api/domains"),
        ("GET", "/acme/service/api/domains/www.acme.com"),
        ("GET", "/acme/service/none/domains/none.acme.com"),
        ("DELETE", f"{WRITE.format('acme', 'api')}/www.acme.com"),
        ("DELETE", f"{WRITE.format('acme', 'none')}/none.acme.com"),
        ("DELETE", f"{WRITE.format('acme', 'api')}/www.acme.com/certificate"),
    ):
        assert (await rig.api(method, path, token=token_of_other)).status == 403
    assert await kept(rig, "www.acme.com") == ALL


def _told(shown):
    """What an answer says, but for what is of its own name and moment."""
    volatile = {"name", "records", "created_at", "next_check_at"}
    return {field: value for field, value in shown.items() if field not in volatile}


async def test_scopes_and_paths(rig, service):
    await add(rig, "www.acme.com")
    reader = await rig.key("r", "acme", "read")
    place, read = WRITE.format("acme", "api"), "/acme/service/api/domains"
    for method, path, body in (
        ("POST", place, {"domain": "a.acme.com"}),
        ("DELETE", f"{place}/www.acme.com", None),
        ("PUT", f"{place}/www.acme.com/certificate", {"certificate": "x", "key": "x"}),
        ("DELETE", f"{place}/www.acme.com/certificate", None),
    ):
        assert (await rig.api(method, path, body, token=reader)).status == 403
        assert (await rig.api(method, path, body, token="")).status == 401
    assert (await rig.api("GET", read, token=reader)).status == 200
    assert (await rig.api("GET", read, token="")).status == 401
    for path in (f"{read}/other.acme.com", f"{read}/a%20b", f"{read}/www.acme.com/", "/acme/service/none/domains"):
        assert (await rig.api("GET", path)).status == 404, path
    assert (await rig.api("GET", f"{read}/WWW.acme.com.")).status == 200
    for path in (f"{place}/other.acme.com", f"{WRITE.format('acme', 'none')}/www.acme.com", f"{place}/*.acme.com"):
        assert (await rig.api("DELETE", path)).status == 404
    assert (await rig.api("GET", f"{read}?x=1")).status == 400
    assert (await rig.api("DELETE", f"{place}/www.acme.com?x=1")).status == 400
    assert (await rig.api("PUT", f"{place}/www.acme.com", {})).status == 405
    assert (await add(rig, "a.acme.com", service="none")).status == 404


async def test_a_write_can_depend_on_what_was_read(rig, service):
    made = await add(rig, "www.acme.com")
    tag = made.headers["ETag"]
    await prove(rig, "www.acme.com")  # what was found out is no conflict
    path = "/acme/service/api/domains/www.acme.com"
    read = await rig.api("GET", path)
    assert read.headers["ETag"] != tag
    assert (await rig.api("GET", path, headers={"If-None-Match": read.headers["ETag"]})).status == 304
    assert (await rig.api("GET", path, headers={"If-None-Match": tag})).status == 200
    await add(rig, "acme.com")
    await add(rig, "www.acme.com", redirect_to="acme.com")
    assert (await remove(rig, "www.acme.com", headers={"If-Match": tag})).status == 412
    assert (await add(rig, "b.acme.com", headers={"If-Match": '"no"'})).status == 412
    fresh = (await rig.api("GET", path)).headers["ETag"]
    assert (await remove(rig, "www.acme.com", headers={"If-Match": fresh})).status == 204


async def test_what_the_mirror_can_t_tell_is_not_guessed(rig, service, monkeypatch):
    """A node that is far behind the store can't know all domains of a service."""
    monkeypatch.setattr("control.services.records._SEEN_WAIT", 0.01)

    async def behind(revision):
        await asyncio.sleep(5)

    monkeypatch.setattr(rig.mirror, "reached", behind)
    refused = await rig.delete("api")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert (await rig.api("GET", "/acme/service/api")).status == 200


async def test_names_of_services_and_domains_don_t_meet(rig, service):
    await add(rig, "www.acme.com")
    assert (await rig.api("GET", "/acme/service/www.acme.com")).status == 404
    assert await rig.store.get(Kind.NAME, "acme/www.acme.com") is None
