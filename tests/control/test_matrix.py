"""Every field of every body by (missing, null, wrong type, below, at and above each bound, unknown), over HTTP.

A refusal has the status of SPEC section 2, names every bad field at once, and leaves the store as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import redis
from matrix import CERTIFICATE, CREATE, DOMAIN, KEY, NOT_OBJECTS, ROLLBACK, UPDATE, VALUES, Bad, Field

from state.kinds import Kind

UNKNOWN = (
    "zz",
    "",
    "Name",
    "name ",
    "id",
    "status",
    "endpoint",
    "label",
    "webhook",
    "__class__",
    "deleted_at",
    "ä",
    "\ud800",
)


@pytest.fixture(autouse=True)
async def fast() -> None:
    """There are thousands of calls, and asyncio's debug mode doubles what each costs."""
    asyncio.get_running_loop().set_debug(False)


@dataclass(frozen=True)
class Operation:
    """A call with a body of these fields; `base` is the least that it takes."""

    method: str
    path: str
    base: Mapping[str, Any]
    fields: Mapping[str, Field]
    taken: int

    async def prepare(self, rig) -> None:
        """What it is about exists."""
        if "/services/api" in self.path:
            assert (await CREATES(rig, CREATES.base)).status == 201

    async def __call__(self, rig, body):
        return await rig.api(self.method, self.path, body)

    def refusals(self) -> Iterator[tuple[str, Bad]]:
        for name, field in self.fields.items():
            for refusal in field.refusals(name):
                yield name, refusal


CREATES = Operation(
    "POST", "/auth/v1/seed/acme/services", {"name": "api", "repo": "acme/api", "gpu": "none"}, CREATE, 201
)
KEYS = Operation("POST", "/auth/v1/keys", {"name": "k", "scope": "read"}, KEY, 201)
SERVICE = "/auth/v1/seed/acme/services/api"
UPDATES = Operation("PUT", SERVICE, {}, UPDATE, 200)
MAKING = {"create": CREATES, "key": KEYS}
WITH_FIELDS = MAKING | {
    "update": UPDATES,
    "rollback": Operation("POST", f"{SERVICE}/rollback", {}, ROLLBACK, 200),
    "domain": Operation("POST", f"{SERVICE}/domains", {"domain": "www.acme.com"}, DOMAIN, 201),
    "certificate": Operation(
        "PUT", f"{SERVICE}/domains/www.acme.com/certificate", {"certificate": "x", "key": "x"}, CERTIFICATE, 200
    ),
}
OPERATIONS = {
    **WITH_FIELDS,
    **{what: Operation("POST", f"{SERVICE}/{what}", {}, {}, 200) for what in ("redeploy", "cancel", "sleep", "wake")},
}


def put(body: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The body with this field, which may be one of an object within it."""
    outer, dot, inner = name.partition(".")
    if not dot:
        return {**body, name: value}
    return {**body, outer: {**body.get(outer, {}), inner: value}}


def look(shown: Any, name: str) -> Any:
    for part in name.split("."):
        shown = shown[part]
    return shown


def spelled(names: frozenset[str]) -> set[str]:
    """As an answer can spell them: half of a surrogate pair is written out."""
    return {name.encode("utf-8", "backslashreplace").decode() for name in names}


async def dump(rig, valkey) -> tuple[Any, ...]:
    """All that is stored: the objects with their versions (keys only by id: their last use is kept in passing), and
    the names of everything else."""
    objects = {}
    for kind in Kind:
        async for object_id, record in rig.store.scan(kind):
            objects[kind, object_id] = None if kind is Kind.KEY else record
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        return objects, set(client.scan_iter(count=1000))


def verdict(answer, expected: set[str]) -> str | None:
    """What is wrong with a refusal, or None."""
    if answer.status != 400:
        return f"{answer.status}: {answer.text[:200]}"
    if not answer.headers["Content-Type"].startswith("application/problem+json"):
        return answer.headers["Content-Type"]
    if answer.fields != expected:
        return f"named {answer.fields}, not {expected}"
    if len(answer.json["errors"]) != len(expected):
        return f"said twice: {answer.json['errors']}"
    if not all(error["message"] for error in answer.json["errors"]) or not answer.json["request_id"]:
        return answer.text
    return None


async def refused(rig, operation: Operation, body: Any, expected: set[str]) -> str | None:
    reason = verdict(await operation(rig, body), expected)
    return reason and f"{str(body)[:200]}: {reason}"


@pytest.mark.parametrize("operation", WITH_FIELDS.values(), ids=WITH_FIELDS)
async def test_every_bad_value_is_400_by_the_name_of_its_field(rig, valkey, operation):
    await operation.prepare(rig)
    before = await dump(rig, valkey)
    wrong = [
        await refused(
            rig, operation, put({**operation.base, **field.beside}, name, refusal.value), spelled(refusal.named)
        )
        for name, field in operation.fields.items()
        for refusal in field.refusals(name)
    ]
    assert [reason for reason in wrong if reason] == []
    assert await dump(rig, valkey) == before


@pytest.mark.parametrize("operation", WITH_FIELDS.values(), ids=WITH_FIELDS)
async def test_every_bad_field_is_named_at_once(rig, valkey, operation):
    """Rounds of one bad value of each field, until each of them had its turn; an unknown field is beside them."""
    await operation.prepare(rig)
    before, wrong = await dump(rig, valkey), []
    table = {name: list(field.refusals(name)) for name, field in operation.fields.items() if name != "scaling"}
    for turn in range(max(map(len, table.values()))):
        unknown = UNKNOWN[turn % len(UNKNOWN)]
        body, expected = {unknown: 1}, {unknown}
        for name, refusals in table.items():
            refusal = refusals[turn % len(refusals)]
            body = put(body, name, refusal.value)
            expected |= refusal.named
        wrong.append(await refused(rig, operation, body, spelled(frozenset(expected))))
    assert [reason for reason in wrong if reason] == []
    assert await dump(rig, valkey) == before


@pytest.mark.parametrize("operation", WITH_FIELDS.values(), ids=WITH_FIELDS)
async def test_what_is_required_and_not_there_is_named_with_the_rest(rig, valkey, operation):
    await operation.prepare(rig)
    before = await dump(rig, valkey)
    required = {name for name, field in operation.fields.items() if field.required}
    for name in required:
        body = {other: value for other, value in operation.base.items() if other != name}
        assert await refused(rig, operation, body, {name}) is None
        assert await refused(rig, operation, {**body, "zz": 1}, {name, "zz"}) is None
    if required:
        assert await refused(rig, operation, {}, required) is None
    assert await dump(rig, valkey) == before


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_unknown_fields_are_named_all_at_once(rig, valkey, operation):
    await operation.prepare(rig)
    before = await dump(rig, valkey)
    unknown = [name for name in UNKNOWN if name not in operation.fields]
    wrong = [await refused(rig, operation, {**operation.base, name: 1}, spelled(frozenset({name}))) for name in unknown]
    everything = {**operation.base, **{name: {} for name in unknown}}
    wrong.append(await refused(rig, operation, everything, spelled(frozenset(unknown))))
    assert [reason for reason in wrong if reason] == []
    assert await dump(rig, valkey) == before


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_a_body_is_an_object(rig, operation):
    await operation.prepare(rig)
    for body in NOT_OBJECTS:
        assert await refused(rig, operation, body, {"body"}) is None


@pytest.mark.parametrize("operation", MAKING.values(), ids=MAKING)
async def test_every_good_value_is_taken_and_shown(rig, operation):
    numbers, wrong = count(), []
    for name, field in operation.fields.items():
        for value in field.good:
            body = put({**operation.base, **field.beside, "name": f"s{next(numbers)}"}, name, value)
            wrong.append(_taken(await operation(rig, body), operation, name, field, value))
    assert [reason for reason in wrong if reason] == []


def _taken(answer, operation, name, field, value) -> str | None:
    if value in field.elsewhere if isinstance(value, int | str) else False:
        fits = answer.status == 422 and answer.fields == field.elsewhere[value]
    elif name == "image":  # this site's driver runs none
        fits = answer.status == 422 and answer.fields == {"image"}
    else:
        fits = answer.status == operation.taken and _shows(answer.json, name, field, value)
    return None if fits else f"{name} = {str(value)[:100]}: {answer.status} {answer.text[:300]}"


def _shows(shown, name, field, value) -> bool:
    if name == "env":
        return bool(shown["env"] == dict.fromkeys(value, "***"))
    if name in ("scaling", "expires"):
        return True
    return bool(look(shown, name) == (field.shown.get(value, value) if isinstance(value, str) else value))


@pytest.mark.parametrize("operation", MAKING.values(), ids=MAKING)
async def test_null_is_absent(rig, operation):
    wrong = []
    for number, (name, field) in enumerate(operation.fields.items()):
        if field.required or name in ("repo", "image", "scaling"):
            continue
        body = put({**operation.base, "name": f"s{number}"}, name, None)
        answer = await operation(rig, body)
        if answer.status != operation.taken or (name != "expires" and look(answer.json, name) != field.default):
            wrong.append(f"{name}: {answer.status} {answer.text[:300]}")
    assert wrong == []


VALID_BUT_NOT_TOGETHER = [
    ({"image": "nginx"}, {"repo", "image"}),
    ({"repo": None}, {"repo", "image"}),
    ({"repo": None, "branch": "main"}, {"repo", "image", "branch"}),
    ({"repo": None, "image": "nginx", "branch": "main"}, {"branch", "image"}),
    ({"gpu_count": 1}, {"gpu_count"}),
    ({"min_replicas": 3, "max_replicas": 2}, {"min_replicas"}),
    ({"min_replicas": 3, "max_replicas": 2, "gpu_count": 1}, {"min_replicas", "gpu_count"}),
    ({"repo": None, "image": "nginx"}, {"image"}),
    ({"gpu": "L4"}, {"gpu"}),
    ({"gpu": "T4", "gpu_count": 4}, {"gpu"}),
    ({"region": "us-west-2", "gpu": "L4", "min_replicas": 2, "max_replicas": 1}, {"region", "gpu", "min_replicas"}),
]


async def test_valid_fields_that_do_not_go_together_are_422_and_only_if_each_is_valid(rig, valkey):
    before = await dump(rig, valkey)
    for change, fields in VALID_BUT_NOT_TOGETHER:
        answer = await CREATES(rig, {**CREATES.base, **change})
        assert (answer.status, answer.fields) == (422, fields), change
        assert await refused(rig, CREATES, {**CREATES.base, **change, "port": 0, "zz": 1}, {"port", "zz"}) is None
    assert await dump(rig, valkey) == before


async def test_what_is_wrong_with_the_body_comes_after_the_key_and_before_the_name(rig, valkey):
    assert (await CREATES(rig, CREATES.base)).status == 201
    reader, stranger = await rig.key("r", "acme", "read"), await rig.key("s", "other", "admin")
    before = await dump(rig, valkey)
    body, path = {**CREATES.base, "port": 0}, CREATES.path
    assert (await rig.api("POST", path, body, token="")).status == 401
    assert (await rig.api("POST", path, body, token=reader)).status == 403
    assert (await rig.api("POST", path, body, token=stranger)).status == 403
    assert await refused(rig, CREATES, body, {"port"}) is None
    assert (await CREATES(rig, {**CREATES.base, "gpu": "L4"})).status == 422
    assert (await CREATES(rig, CREATES.base)).status == 409
    assert await dump(rig, valkey) == before


# Update, and the environment alone


async def update(rig, body):
    """An update that may start a deployment, and the end of that."""
    answer = await UPDATES(rig, body)
    ended = await rig.api("POST", f"{SERVICE}/cancel")
    assert ended.status == (200 if answer.status == 200 and answer.json["deployment"]["state"] == "pending" else 409)
    return answer


@pytest.fixture
async def resting(rig):
    """A service without a deployment in progress."""
    await UPDATES.prepare(rig)
    assert (await rig.api("POST", f"{SERVICE}/cancel")).status == 200
    return rig


async def test_an_update_takes_and_shows_every_good_value(resting):
    wrong = [
        _taken(await update(resting, put(field.beside, name, value)), UPDATES, name, field, value)
        for name, field in UPDATE.items()
        for value in field.good
    ]
    assert [reason for reason in wrong if reason] == []


async def test_what_an_update_does_not_name_or_calls_null_stays(resting, valkey):
    body = {name: field.good[0] for name, field in UPDATE.items() if field.good and name != "image" and "." not in name}
    body |= {"custom_domain": "www.acme.com", "min_replicas": 2, "max_replicas": 3, "env": {"A": "a"}, "port": 81}
    assert (await update(resting, body | {"scaling": {"concurrency": 3}})).status == 200
    before = await dump(resting, valkey)
    shown = (await resting.api("GET", "/acme/service/api")).json
    for nothing in ({}, dict.fromkeys(set(body) - {"custom_domain"}), {"scaling": {}}):
        answer = await update(resting, nothing)
        assert (answer.status, answer.json) == (200, shown)
    assert await dump(resting, valkey) == before


async def test_null_takes_a_domain_away_and_puts_scaling_back_to_its_default(resting):
    members = {name.partition(".")[2]: field for name, field in UPDATE.items() if name.startswith("scaling.")}
    changed = {name: next(v for v in field.good if v != field.default) for name, field in members.items()}
    answer = await update(resting, {"custom_domain": "www.acme.com", "scaling": changed})
    assert (answer.json["custom_domain"], answer.json["scaling"]) == ("www.acme.com", changed)
    answer = await update(resting, {"custom_domain": None, "scaling": dict.fromkeys(changed)})
    assert answer.json["custom_domain"] is None
    assert answer.json["scaling"] == {name: field.default for name, field in members.items()}
    assert (await resting.create("sister", custom_domain="www.acme.com")).status == 201


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"min_replicas": 3}, {"min_replicas"}),
        ({"max_replicas": 1}, {"max_replicas"}),
        ({"min_replicas": 5, "max_replicas": 4}, {"min_replicas"}),
        ({"image": "nginx"}, {"image"}),
        ({"image": "nginx", "min_replicas": 9}, {"image", "min_replicas"}),
    ],
)
async def test_an_update_is_judged_by_what_would_come_of_it(resting, valkey, change, fields):
    assert (await update(resting, {"min_replicas": 2, "max_replicas": 2})).status == 200
    before = await dump(resting, valkey)
    answer = await UPDATES(resting, change)
    assert (answer.status, answer.fields) == (422, fields)
    assert await refused(resting, UPDATES, {**change, "port": 0}, {"port"}) is None
    assert await dump(resting, valkey) == before


async def test_the_environment_is_patched_by_name(resting, valkey):
    environment = Operation("PATCH", f"{SERVICE}/env", {}, {}, 200)
    assert (await update(resting, {"env": {"A": "1", "B": "2"}})).status == 200
    before, wrong = await dump(resting, valkey), []
    for refusal in VALUES:
        body = {name: value for name, value in refusal.value.items() if value is not None}
        if body:
            expected = spelled(frozenset(name.removeprefix("env.") for name in refusal.named))
            wrong.append(await refused(resting, environment, body, expected))
    wrong += [await refused(resting, environment, body, {"body"}) for body in NOT_OBJECTS]
    wrong.append(await refused(resting, environment, {"PORT": None, "1A": None, "C": "c"}, {"PORT", "1A"}))
    assert [reason for reason in wrong if reason] == []
    too_many = await environment(resting, {f"N{n}": "v" for n in range(255)})
    assert (too_many.status, too_many.fields) == (422, {"env"})
    for nothing in ({}, {"C": None}, {"A" * 256: None}):
        assert (await environment(resting, nothing)).json["env"] == {"A": "***", "B": "***"}
    assert await dump(resting, valkey) == before
    answer = await environment(resting, {"A": None, "C": "3", **{f"N{n}": "v" for n in range(254)}})
    assert (answer.status, len(answer.json["env"])) == (200, 256)
    assert {"B", "C"} <= set(answer.json["env"])
    assert "A" not in answer.json["env"]
