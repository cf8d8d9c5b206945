"""The matrix of every field: missing, wrong type, below, at and above each bound, unknown (SPEC section 2, Create).

A refusal names every bad field at once and leaves nothing in the store.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.contract.problem import Problem
from control.contract.schemas import read_create
from control.domains import Platform

GOOD: dict[str, Any] = {"name": "api", "repo": "acme/api", "gpu": "none"}
WITH_GPU: dict[str, Any] = {**GOOD, "gpu": "T4"}
WITH_IMAGE: dict[str, Any] = {"name": "api", "image": "nginx", "gpu": "none"}
PLATFORM = Platform("apps.localhost")

INTEGERS: dict[str, tuple[int, int]] = {
    "memory": (1, 1024),
    "min_replicas": (0, 100),
    "max_replicas": (1, 100),
    "target_gpu_utilization": (10, 95),
    "port": (1, 65_535),
    "scaling.concurrency": (0, 10_000),
    "scaling.target_concurrency": (1, 10_000),
    "scaling.target_requests_per_second": (1, 100_000),
    "scaling.target_queue_delay_ms": (1, 60_000),
    "scaling.idle_timeout": (1, 86_400),
    "scaling.scale_down_delay": (0, 3600),
    "scaling.hold_timeout": (1, 3600),
    "scaling.startup_timeout": (1, 3600),
}
CHOICES: dict[str, tuple[list[Any], list[Any]]] = {
    "gpu": (["A100-40GB", "A100-80GB", "H100-80GB", "L4", "T4", "none"], ["", "t4", "A100", "None"]),
    "gpu_count": ([1, 2, 4, 8], [0, 3, 16, -1]),
    "cpu": ([2, 4, 8, 16, 32, 64], [0, 1, 3, 128, -2]),
    "region": (
        ["us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1"],
        ["", "us-east-2", "US-EAST-1"],
    ),
    "scaling.affinity": (["none", "cookie", "prefix"], ["", "Cookie", "ip"]),
    "scaling.hold_keepalive": ([True, False], [0, 1, "true", ""]),
    "scaling.waiting_page": ([True, False], [0, 1, "false", ""]),
    "scaling.warm_reserve": ([True, False], [0, 1, "true", ""]),
}
TEXTS: dict[str, tuple[list[str], list[str]]] = {
    "name": (["a", "A" * 63, "-_-"], ["", "a" * 64, "a.b", "ä"]),
    "repo": (["a/b"], ["", "a", "a/..", "a/b/c"]),
    "image": (["nginx:1"], ["", "Nginx", "a b"]),
    "branch": (["main", "a/b"], ["", "a..b", "-x", "a b"]),
    "health_check_path": (["/", "/" + "a" * 1023, "/x?y=1"], ["", "x", "/" + "a" * 1024, "/a b", "/\r\nX: y", "/#"]),
    "custom_domain": (["www.acme.com"], ["", "com", "1.2.3.4", "*.acme.com", "x.apps.localhost"]),
}
NOT_INTEGERS = (True, False, 1.0, 1.5, "1", [], {}, [1])
NOT_TEXTS = (True, 1, 1.0, [], {}, ["a"])


def base_for(field: str) -> dict[str, Any]:
    return WITH_GPU if field == "gpu_count" else WITH_IMAGE if field == "image" else GOOD


def put(base: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    outer, dot, inner = field.partition(".")
    body = {**base, outer: {inner: value} if dot else value}
    if field in ("min_replicas", "max_replicas"):
        body = {**base, "min_replicas": 0, "max_replicas": 100, field: value}
    return body


def refused(body: Any) -> tuple[int, set[str]]:
    with pytest.raises(Problem) as info:
        read_create(body, PLATFORM)
    return info.value.status, {error.field for error in info.value.errors}


@pytest.mark.parametrize(("field", "bounds"), INTEGERS.items())
def test_integers_at_and_beyond_their_bounds(field, bounds):
    low, high = bounds
    for value in (low, high):
        read_create(put(GOOD, field, value), PLATFORM)
    for value in (low - 1, high + 1, -(10**30), 10**30):
        assert refused(put(GOOD, field, value)) == (400, {field})


@pytest.mark.parametrize("field", [*INTEGERS, "gpu_count", "cpu"])
def test_integers_are_nothing_else(field):
    for value in NOT_INTEGERS:
        assert refused(put(base_for(field), field, value)) == (400, {field}), value


@pytest.mark.parametrize("field", [*TEXTS, "gpu", "region"])
def test_texts_are_nothing_else(field):
    for value in NOT_TEXTS:
        assert refused(put(base_for(field), field, value)) == (400, {field}), value


@pytest.mark.parametrize(("field", "values"), {**CHOICES, **TEXTS}.items())
def test_values_that_are_taken_and_not(field, values):
    good, bad = values
    for value in good:
        read_create(put(base_for(field), field, value), PLATFORM)
    for value in bad:
        assert refused(put(base_for(field), field, value)) == (400, {field}), value


@pytest.mark.parametrize("field", ["name", "gpu"])
def test_required_fields(field):
    assert refused({k: v for k, v in GOOD.items() if k != field}) == (400, {field})
    assert refused({**GOOD, field: None}) == (400, {field})


@pytest.mark.parametrize("field", sorted({*INTEGERS, *CHOICES, *TEXTS, "env", "scaling"} - {"name", "gpu", "repo"}))
def test_null_is_absent(field):
    assert read_create(put(GOOD, field, None), PLATFORM) == read_create(put(GOOD, field, None) | {"zz": None}, PLATFORM)


@pytest.mark.parametrize(
    ("env", "bad"),
    [
        ({}, set()),
        ({"A": "", "_b9": "x" * 32_768}, set()),
        ({f"N{i}": "v" for i in range(256)}, set()),
        ({f"N{i}": "v" for i in range(257)}, {"env"}),
        ({"A": "x" * 32_769}, {"env.A"}),
        ({"A": "é" * 16_385}, {"env.A"}),
        ({"A": "a\0b"}, {"env.A"}),
        ({"A": "***"}, {"env.A"}),
        ({"PORT": "1"}, {"env.PORT"}),
        ({"1A": "x", "A-B": "y", "": "z"}, {"env.1A", "env.A-B", "env."}),
        ({"A": 1, "B": None, "C": True, "D": "fine"}, {"env.A", "env.B", "env.C"}),
        ({"A" * 256: "v"}, set()),
        ({"A" * 257: "v"}, {"env." + "A" * 257}),
        ({f"N{i:02}": "x" * (32_768 - 5) for i in range(32)}, set()),
        ({f"N{i:02}": "x" * (32_768 - 5) for i in range(32)} | {"N00": "x" * (32_768 - 4)}, {"env"}),
        ({f"N{i:02}": "é" * 16_382 for i in range(32)} | {"A": ""}, {"env"}),
        ([], {"env"}),
        ("A=B", {"env"}),
    ],
)
def test_environments(env, bad):
    body = {**GOOD, "env": env}
    if bad:
        assert refused(body) == (400, bad)
    else:
        assert read_create(body, PLATFORM).env == env


def test_every_bad_field_is_named_at_once():
    body = {
        "name": 5, "gpu": "X", "cpu": 3, "memory": 0, "port": True, "env": {"PORT": "1"}, "scaling": {"zz": 1},
        "custom_domain": "com", "unknown": 1, "repo": "x", "image": "X", "branch": "..",
    }  # fmt: skip
    status, fields = refused(body)
    assert status == 400
    assert fields == {
        "name", "gpu", "cpu", "memory", "port", "env.PORT", "scaling.zz", "custom_domain", "unknown", "repo", "image",
        "branch",
    }  # fmt: skip


@pytest.mark.parametrize("body", [[], "x", 1, True, None, 1.5])
def test_a_body_is_an_object(body):
    assert refused(body) == (400, {"body"})


def objects(values):
    names = [*CHOICES, *TEXTS, *(field.rpartition(".")[2] for field in INTEGERS), "env", "scaling"]
    return st.dictionaries(st.sampled_from(names) | st.text(), values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | objects(inner)
)


@given(JSON | objects(JSON))
def test_whatever_comes_is_taken_or_refused_by_name(body):
    try:
        read_create(body, PLATFORM)
    except Problem as refusal:
        problem = refusal
    else:
        return
    assert problem.status == 400
    assert problem.errors
    json.dumps(problem.document("id")).encode()


async def test_what_is_refused_leaves_nothing_behind(rig):
    bodies = [put(base_for(field), field, low - 1) for field, (low, _) in INTEGERS.items()]
    bodies += [put(base_for(field), field, bad) for field, (_, bads) in {**CHOICES, **TEXTS}.items() for bad in bads]
    bodies += [{}, [], GOOD | {"zz": 1}]
    revision = await rig.store.revision()
    for body in bodies:
        answer = await rig.api("POST", "/auth/v1/seed/acme/services", body)
        assert answer.status == 400, body
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert answer.fields
    assert await rig.contents() == {}
    assert await rig.store.revision() == revision


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"image": "nginx"}, {"repo", "image"}),
        ({"repo": None}, {"repo", "image"}),
        ({"repo": None, "branch": "main"}, {"repo", "image", "branch"}),
        ({"repo": None, "image": "nginx", "branch": "main"}, {"branch", "image"}),
        ({"gpu_count": 1}, {"gpu_count"}),
        ({"min_replicas": 3, "max_replicas": 2}, {"min_replicas"}),
        (
            {"min_replicas": 3, "max_replicas": 2, "gpu_count": 1, "image": "a"},
            {"min_replicas", "gpu_count", "repo", "image"},
        ),
        ({"repo": None, "image": "nginx"}, {"image"}),
        ({"gpu": "L4"}, {"gpu"}),
        ({"gpu": "T4", "gpu_count": 4}, {"gpu"}),
        ({"region": "us-west-2"}, {"region"}),
    ],
)
async def test_valid_fields_that_do_not_go_together_or_not_here(rig, change, fields):
    answer = await rig.api("POST", "/auth/v1/seed/acme/services", {**GOOD, **change})
    assert (answer.status, answer.fields) == (422, fields)
    assert await rig.contents() == {}


async def test_422_waits_until_each_field_is_valid(rig):
    body = {**GOOD, "image": "nginx", "min_replicas": 5, "max_replicas": 2, "port": 0}
    answer = await rig.api("POST", "/auth/v1/seed/acme/services", body)
    assert (answer.status, answer.fields) == (400, {"port"})


async def test_a_422_names_what_there_is(rig):
    answer = await rig.api("POST", "/auth/v1/seed/acme/services", {**GOOD, "gpu": "L4", "region": "us-west-2"})
    messages = {e["field"]: e["message"] for e in answer.json["errors"]}
    assert "2 x T4" in messages["gpu"]
    assert "eu-west-1, us-east-1" in messages["region"]


async def test_what_this_site_has_is_taken(rig):
    answer = await rig.create("api", gpu="T4", gpu_count=2, region="eu-west-1")
    assert (answer.status, answer.json["gpu_count"], answer.json["region"]) == (201, 2, "eu-west-1")
    assert (await rig.create("other", gpu="T4")).json["gpu_count"] == 1


async def test_max_replicas_defaults_to_min(rig):
    assert (await rig.create("api", min_replicas=7)).json["max_replicas"] == 7
