"""Credentials: both header forms, scopes, namespaces, expiry, and that nothing tells what exists."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from control.credentials import keys
from control.services import names
from state.codec import decode, encode
from state.kinds import Kind
from state.models import ApiKey
from state.store import Change

CALLS = [
    ("GET", "/{ns}/services", "read", 200),
    ("GET", "/{ns}/service/api", "read", 200),
    ("GET", "/{ns}/service/api/logs", "read", 200),
    ("GET", "/{ns}/service/api/events", "read", 200),
    ("POST", "/auth/v1/seed/{ns}/services", "write", 409),
    ("DELETE", "/auth/v1/seed/{ns}/services/api", "write", 204),
]
BODY = {"name": "api", "repo": "acme/api", "gpu": "none"}


async def call(rig, method, path, token, namespace="acme"):
    return await rig.api(method, path.format(ns=namespace), BODY if method == "POST" else None, token=token)


async def test_scopes_and_namespaces(rig):
    await rig.create("api")
    tokens = {
        (namespace, scope): await rig.key(f"{scope}-key", namespace, scope)
        for namespace in ("acme", "other", "*")
        for scope in ("read", "write", "admin")
    }
    for method, path, needed, allowed in CALLS:
        for (namespace, scope), token in tokens.items():
            reaches = ("read", "write", "admin").index(scope) >= ("read", "write", "admin").index(needed)
            answer = await call(rig, method, path, token)
            if namespace in ("acme", "*") and reaches:
                assert answer.status == allowed, (path, namespace, scope, answer.text)
                if method == "DELETE":
                    await rig.create("api")
            else:
                assert answer.status == 403, (path, namespace, scope)


async def test_403_says_the_same_whether_or_not_the_service_exists(rig):
    await rig.create("api")
    outsider = await rig.key("outsider", "other", "admin")
    reader = await rig.key("reader", "acme", "read")
    for token, paths in (
        (outsider, ["/acme/service/{}", "/acme/service/{}/logs"]),
        (outsider, ["/auth/v1/seed/acme/services/{}"]),
        (reader, ["/auth/v1/seed/acme/services/{}"]),
    ):
        for path in paths:
            method = "DELETE" if "seed" in path else "GET"
            known, unknown = [await rig.api(method, path.format(n), token=token) for n in ("api", "nothing")]
            assert known.status == unknown.status == 403
            assert known.json | {"request_id": ""} == unknown.json | {"request_id": ""}


@pytest.mark.parametrize("path", ["/acme/services", "/acme/service/x", "/auth/v1/keys"])
async def test_missing_and_bad_credentials_are_401(rig, path):
    name, _, secret = rig.token.partition("$")
    bad = [
        None, "", "Bearer", "Bearer ", f"Bearer {name}", f"Bearer {name}$", f"Bearer {name}${secret}x",
        f"Bearer x${secret}", f"Bearer ${secret}", f"Basic {rig.token}", rig.token, f"Bearer {secret}${name}",
        "Bearer \u00e9$\u00e9", "API-Key a$b",
    ]  # fmt: skip
    for header in bad:
        headers = {} if header is None else {"Authorization": header}
        answer = await rig.api("GET", path, token="", headers=headers)
        assert answer.status == 401, header
        assert "Bearer" in answer.headers["WWW-Authenticate"]
        assert "API-Key" in answer.headers["WWW-Authenticate"]
        assert answer.json["request_id"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "API-Key", "api-key", "BEARER"])
async def test_both_header_forms(rig, scheme):
    answer = await rig.api("GET", "/acme/services", token="", headers={"Authorization": f"{scheme} {rig.token}"})
    assert answer.status == 200


async def test_unknown_paths_and_wrong_methods_need_no_key(rig):
    assert (await rig.api("GET", "/nothing/here/at/all", token="")).status == 404
    assert (await rig.api("PUT", "/acme/services", token="")).status == 405


async def test_keys_expire(rig):
    token = await rig.key("short", "acme", "read", expires="1s")
    assert (await rig.api("GET", "/acme/services", token=token)).status == 200
    record = await rig.store.get(Kind.KEY, "acme/short")
    key = decode(ApiKey, record.value)
    assert key.expires_at == key.created_at + 1_000_000 or abs(key.expires_at - key.created_at - 1_000_000) < 100_000
    past = replace(key, expires_at=key.created_at - 1)
    await rig.mirror.reached(await rig.store.commit([Change(Kind.KEY, "acme/short", encode(past))]))
    assert (await rig.api("GET", "/acme/services", token=token)).status == 401


async def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(rig):
    answer = await rig.api(
        "POST", "/auth/v1/keys", {"name": "ci", "namespace": "acme", "scope": "write", "expires": "90d"}
    )
    assert answer.status == 201
    token = answer.json["key"]
    assert token.startswith("ci$")
    place = "/auth/v1/keys/ci?namespace=acme"
    assert answer.headers["Location"] == f"https://api.example.com{place}"
    assert (await rig.api("GET", place)).json == {n: v for n, v in answer.json.items() if n != "key"}
    raw = (await rig.store.get(Kind.KEY, "acme/ci")).value.decode()
    listed = await rig.api("GET", "/auth/v1/keys")
    assert token.partition("$")[2] not in raw + listed.text
    assert {(k["namespace"], k["name"], k["scope"]) for k in listed.json["items"]} == {
        ("*", "admin", "admin"), ("acme", "ci", "write"),
    }  # fmt: skip
    again = await rig.api("POST", "/auth/v1/keys", {"name": "ci", "namespace": "acme", "scope": "read"})
    assert (again.status, again.fields) == (409, {"name"})
    assert (await rig.api("DELETE", "/auth/v1/keys/ci")).status == 204
    assert (await rig.api("GET", "/acme/services", token=token)).status == 401
    assert (await rig.api("DELETE", "/auth/v1/keys/ci")).status == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"name", "scope"}),
        (
            {"name": "a$b", "scope": "root", "namespace": "Admin", "expires": "soon", "x": 1},
            {"name", "scope", "namespace", "expires", "x"},
        ),
        ({"name": "a", "scope": "read", "namespace": "admin"}, {"namespace"}),
        ({"name": "a", "scope": "read", "expires": "2020-01-01T00:00:00Z"}, {"expires"}),
        ({"name": "a", "scope": "read", "expires": "999999999w"}, {"expires"}),
        ({"name": 1, "scope": 1, "namespace": 1, "expires": 1}, {"name", "scope", "namespace", "expires"}),
    ],
)  # fmt: skip
async def test_bad_keys_name_every_field(rig, body, fields):
    answer = await rig.api("POST", "/auth/v1/keys", body)
    assert (answer.status, answer.fields) == (400, fields)


async def test_a_key_knows_itself(rig):
    await rig.create("api")
    await rig.create("api", namespace="other")
    for token, namespace, inhabited in (
        (rig.token, "*", ["acme", "other"]),
        (await rig.key("reader", "acme", "read"), "acme", ["acme"]),
        (await rig.key("nobody", "fresh", "read"), "fresh", []),
    ):
        own = (await rig.api("GET", "/auth/v1/key", token=token)).json
        assert (own["namespace"], own["namespaces"]) == (namespace, inhabited)
        assert token.partition("$")[2] not in json.dumps(own)
    assert (await rig.api("GET", "/auth/v1/key", token="")).status == 401
    assert (await rig.api("GET", "/auth/v1/key?x=1")).fields == {"x"}


async def test_an_admin_of_one_namespace_rules_there_only(rig):
    token = await rig.key("boss", "acme", "admin")
    await rig.key("theirs", "other", "read")
    made = await rig.api("POST", "/auth/v1/keys", {"name": "mine", "scope": "read"}, token=token)
    assert made.json["namespace"] == "acme"
    for namespace in ("other", "*"):
        body = {"name": "x", "scope": "read", "namespace": namespace}
        assert (await rig.api("POST", "/auth/v1/keys", body, token=token)).status == 403
    listed = await rig.api("GET", "/auth/v1/keys", token=token)
    assert {k["name"] for k in listed.json["items"]} == {"boss", "mine"}
    assert (await rig.api("DELETE", "/auth/v1/keys/theirs", token=token)).status == 404
    assert (await rig.api("DELETE", "/auth/v1/keys/theirs?namespace=other", token=token)).status == 403
    writer = await rig.key("writer", "acme", "write")
    for method in ("GET", "POST"):
        assert (await rig.api(method, "/auth/v1/keys", token=writer)).status == 403


async def test_a_name_of_several_namespaces_asks_which(rig):
    await rig.key("ci", "acme", "read")
    await rig.key("ci", "other", "read")
    assert (await rig.api("DELETE", "/auth/v1/keys/ci")).status == 409
    assert (await rig.api("DELETE", "/auth/v1/keys/ci?namespace=other")).status == 204
    assert (await rig.api("DELETE", "/auth/v1/keys/ci")).status == 204


async def test_the_last_key_over_everything_stays(rig):
    assert (await rig.api("DELETE", "/auth/v1/keys/admin")).status == 409
    second = await rig.key("second", "*", "admin")
    assert (await rig.api("DELETE", "/auth/v1/keys/admin")).status == 204
    assert (await rig.api("DELETE", "/auth/v1/keys/second", token=second)).status == 409


async def test_one_that_expires_does_not_replace_one_that_does_not(rig):
    await rig.key("second", "*", "admin", expires="90d")
    refused = await rig.api("DELETE", "/auth/v1/keys/admin")
    assert (refused.status, "expire by" in refused.json["detail"]) == (409, True)
    assert (await rig.api("DELETE", "/auth/v1/keys/second")).status == 204


async def test_two_nodes_that_revoke_the_last_two_at_once_leave_one(rig, neighbour):
    for _ in range(5):
        await rig.key("second", "*", "admin")
        await neighbour.mirror.reached(await rig.store.revision())
        places = ["/auth/v1/keys/admin", "/auth/v1/keys/second"]
        first, last = await asyncio.gather(rig.api("DELETE", places[0]), neighbour.api("DELETE", places[1]))
        assert first.status != 204 or last.status != 204
        if first.status == 204:
            return  # and the token of these rigs is gone
        if last.status != 204:
            await rig.api("DELETE", places[1])


async def test_get_one_key(rig):
    token = await rig.key("ci", "acme", "read")
    shown = (await rig.api("GET", "/auth/v1/keys/ci")).json
    assert (shown["name"], shown["namespace"], shown["scope"]) == ("ci", "acme", "read")
    assert token.partition("$")[2] not in json.dumps(shown)
    assert (await rig.api("GET", "/auth/v1/keys/none")).status == 404
    await rig.key("ci", "other", "read")
    assert (await rig.api("GET", "/auth/v1/keys/ci")).status == 409
    assert (await rig.api("GET", "/auth/v1/keys/ci?namespace=other")).json["namespace"] == "other"
    boss = await rig.key("boss", "acme", "admin")
    assert (await rig.api("GET", "/auth/v1/keys/ci", token=boss)).json["namespace"] == "acme"
    assert (await rig.api("GET", "/auth/v1/keys/admin", token=boss)).status == 404
    assert (await rig.api("GET", "/auth/v1/keys/ci?namespace=other", token=boss)).status == 403
    assert (await rig.api("GET", "/auth/v1/keys/ci", token=token)).status == 403


async def test_no_key_makes_one_that_outlives_it(rig):
    boss = await rig.key("boss", "acme", "admin", expires="10d")
    made = await rig.api("POST", "/auth/v1/keys", {"name": "same", "scope": "admin"}, token=boss)
    own = (await rig.api("GET", "/auth/v1/key", token=boss)).json
    assert (made.status, made.json["expires_at"]) == (201, own["expires_at"])
    body = {"name": "longer", "scope": "read", "expires": "11d"}
    longer = await rig.api("POST", "/auth/v1/keys", body, token=boss)
    assert (longer.status, longer.fields) == (403, {"expires"})
    shorter = await rig.api("POST", "/auth/v1/keys", body | {"expires": "9d"}, token=boss)
    assert shorter.status == 201


async def test_a_namespace_has_a_bounded_number_of_keys(rig, monkeypatch):
    monkeypatch.setattr(keys, "_MOST", 2)
    for name in ("a", "b"):
        await rig.key(name, "acme", "read")
    body = {"name": "c", "namespace": "acme", "scope": "read"}
    assert (await rig.api("POST", "/auth/v1/keys", body)).status == 409
    assert (await rig.api("POST", "/auth/v1/keys", body | {"namespace": "other"})).status == 201


async def test_a_key_is_good_at_another_node_and_revoked_there_at_once(rig, neighbour):
    token = await rig.key("ci", "acme", "read")
    await neighbour.mirror.reached(await rig.store.revision())
    assert (await neighbour.api("GET", "/acme/services", token=token)).status == 200
    assert (await rig.api("DELETE", "/auth/v1/keys/ci")).status == 204
    assert (await neighbour.api("GET", "/acme/services", token=token)).status == 401


async def test_namespaces_exist_from_their_first_key(rig):
    everywhere = await rig.key("robot", "*", "write")
    path = "/auth/v1/seed/fresh/services"
    assert (await rig.api("POST", path, BODY, token=everywhere)).status == 404
    await rig.key("first", "fresh", "read")
    assert (await rig.api("POST", path, BODY, token=everywhere)).status == 201
    assert (await rig.create("api", namespace="any")).status == 201


@pytest.mark.parametrize("namespace", [*sorted(names.RESERVED_NAMESPACES), "A_b", "a" * 40, "-a", "*"])
async def test_what_is_no_namespace_can_not_be_written(rig, namespace):
    answer = await rig.create("api", namespace=namespace)
    assert (answer.status, answer.fields) == (400, {"namespace"})
