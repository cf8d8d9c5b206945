"""The API as HTTP: paths, methods, types, sizes, time-outs, problems, health, metrics, logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from activator.logs import Stream
from control import server
from control.contract import query
from control.contract.times import iso, parse
from control.handlers import health, services
from control.services import remains
from state.ids import now_us

CREATE = "/auth/v1/seed/acme/services"
BODY = {"name": "api", "repo": "acme/api", "gpu": "none"}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/nothing", "/acme", "/acme/services/", "/acme/service/", "/acme/service/x/", "/healthz/",
        "/auth/v1/keys/",
        "/acme/service/x/y", "//services", "/auth/v1/seed/acme/services/x/y", "/acme//services", "/metrics/",
    ],
)  # fmt: skip
async def test_unknown_paths_and_trailing_slashes_are_404(rig, path):
    answer = await rig.api("GET", path)
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json
    assert (problem["title"], problem["status"]) == ("Not Found", 404)
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/acme/services", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", CREATE, "POST"),
        ("PATCH", "/auth/v1/keys", "GET, HEAD, POST"),
        ("GET", CREATE + "/x", "DELETE, PUT"),
        ("DELETE", "/acme/service/x", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(rig, method, path, allow):
    answer = await rig.api(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/acme/services?x=1", {"x"}),
        ("/acme/services?status=asleep", {"status"}),
        ("/acme/services?page=0&limit=101&z=", {"page", "limit", "z"}),
        ("/acme/services?page=1.0&limit=-1", {"page", "limit"}),
        ("/acme/services?page=&limit=a", {"page", "limit"}),
        ("/acme/services?page=1&page=2", {"page"}),
        ("/acme/services?limit=5&per_page=5", {"per_page"}),
        ("/acme/services?page=٣", {"page"}),
        ("/acme/service/api?x=1", {"x"}),
        ("/acme/service/api/logs?limit=0", {"limit"}),
        ("/acme/service/api/logs?limit=10001", {"limit"}),
        ("/acme/service/api/logs?lines=5&tail=5", {"tail"}),
        ("/acme/service/api/logs?since=yesterday&until=2026-01-01", {"since", "until"}),
        ("/acme/service/api/logs?stream=x&cursor=x", {"stream", "cursor"}),
        ("/acme/service/api/logs?since=2026-03-18T12:00:00", {"since"}),
        ("/acme/service/api/events?limit=1001", {"limit"}),
        ("/healthz?x=1", {"x"}),
        ("/readyz?x=1", {"x"}),
        ("/metrics?x=1", {"x"}),
        ("/auth/v1/keys?x=1", {"x"}),
    ],
)  # fmt: skip
async def test_unknown_and_bad_parameters_are_400_and_named(rig, path, fields):
    await rig.create("api")
    answer = await rig.api("GET", path)
    assert (answer.status, answer.fields) == (400, fields)


@pytest.mark.parametrize("query", ["?force=yes", "?force", "?x=1"])
async def test_parameters_of_a_delete(rig, query):
    await rig.create("api")
    assert (await rig.api("DELETE", CREATE + "/api" + query)).status == 400
    assert (await rig.api("GET", "/acme/service/api")).status == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin1"]
)
async def test_what_is_not_json_is_415(rig, content_type):
    answer = await rig.api("POST", CREATE, data=json.dumps(BODY).encode(), headers={"Content-Type": content_type})
    assert answer.status == 415


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"{'name': 1}", b'{"name": NaN}', b'{"name": "a", "name": "b"}', b"\xff\xfe", b'{"port": 1e999999}',
        b"[" * 100_000, b'{"a": ' * 50_000, b'{"port": ' + b"1" * 5000 + b"}",
    ],
)  # fmt: skip
async def test_malformed_json_is_400(rig, data):
    answer = await rig.api("POST", CREATE, data=data, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert await rig.contents() == {}


@pytest.mark.parametrize(
    ("member", "field", "message"),
    [
        (b'"port": ' + b"1" * 5000, "port", "must be 65535 or less"),
        (b'"port": -' + b"1" * 5000, "port", "must be 1 or more"),
        (b'"cpu": ' + b"9" * 100_000, "cpu", "must be one of 2, 4, 8, 16, 32, 64"),
        (b'"memory": 1e400', "memory", "must be an integer"),
        (b'"memory": 0.' + b"1" * 5000, "memory", "must be an integer"),
        (b'"other": ' + b"1" * 5000, "other", "unknown field"),
        (b'"gpu": "\\ud800"', "gpu", "must be valid Unicode"),
        (b'"branch": "\\udfff"', "branch", "must be valid Unicode"),
        (b'"image": "\\ud800"', "image", "must be valid Unicode"),
        (b'"health_check_path": "/\\ud800"', "health_check_path", "must be valid Unicode"),
        (b'"custom_domain": "a\\ud800.example.com"', "custom_domain", "must be valid Unicode"),
        (b'"env": {"A": "\\ud800"}', "env.A", "must be valid Unicode"),
        (b'"env": {"\\ud800": "a"}', r"env.\ud800", "must be a name of A-Z, a-z, 0-9 and _, not starting with a digit"),
        (b'"scaling": {"\\ud800": 1}', r"scaling.\ud800", "unknown field"),
        (b'"\\ud800": 1', r"\ud800", "unknown field"),
    ],
)
async def test_json_that_is_valid_and_yet_nothing_names_its_field(rig, member, field, message):
    data = b'{"name": "api", "repo": "acme/api", "region": "x", ' + member + b', "gpu": "none"}'
    if field == "gpu":
        data = data.replace(b', "gpu": "none"', b"")
    answer = await rig.api("POST", CREATE, data=data, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert {"field": field, "message": message} in answer.json["errors"]
    assert "region" in answer.fields, "every bad field is named at once"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{"a": \xff}', "byte 6 is not UTF-8"),
        (b'{"a":\n ,}', "wrong at line 2, column 2"),
        (b"\xef\xbb\xbf{}", "wrong at line 1, column 1"),
        (b"[" * 5000, "it is nested too deeply"),
        (b'{"a": Infinity}', "Infinity is no JSON number"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
    ],
)
async def test_what_is_wrong_with_json_is_said_in_plain_words(rig, data, detail):
    answer = await rig.api("POST", CREATE, data=data, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"]) == (400, f"The body is not JSON: {detail}")


def names(count, *, last="k"):
    members = ",".join(f'"k{number}":""' for number in range(count - 1))
    return f'{{{members},"{last}":""}}'.encode()


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (names(query.MEMBERS + 1), f"one of its objects has more than {query.MEMBERS} names"),
        (names(80_000, last="k0"), f"one of its objects has more than {query.MEMBERS} names"),
        (b'{"env": ' + names(60_000) + b"}", f"one of its objects has more than {query.MEMBERS} names"),
        (b"[" + b"{}," * 300_000 + b"{}]", "it holds more than 10000 objects and integers"),
        (b"[" + b"1," * 500_000 + b"1]", "it holds more than 10000 objects and integers"),
    ],
    ids=["unknown", "twice", "environment", "objects", "integers"],
)
async def test_a_body_that_would_keep_everybody_waiting_is_400(rig, data, detail):
    assert len(data) <= query.BODY_LIMIT
    answer = await rig.api("POST", CREATE, data=data, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"]) == (400, f"The body is more than this API reads: {detail}")
    assert len(answer.text) < 1000


async def test_as_many_names_as_are_read_are_all_named(rig):
    data = names(query.MEMBERS)
    answer = await rig.api("POST", CREATE, data=data, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.fields == {*json.loads(data), "gpu", "name"}
    twice = names(query.MEMBERS, last="k0")
    answer = await rig.api("POST", CREATE, data=twice, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"]) == (400, "The body is not JSON: 'k0' is given twice")


@pytest.mark.parametrize("field", ["name", "namespace", "scope", "expires"])
async def test_half_a_surrogate_pair_in_a_key(rig, field):
    answer = await rig.api("POST", "/auth/v1/keys", {"name": "k", "scope": "read", field: "\ud800"})
    assert answer.json["errors"] == [{"field": field, "message": "must be valid Unicode"}]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_1_mib_is_413(rig, chunked):
    filler = json.dumps({**BODY, "zz": "x" * (1 << 20)}).encode()

    async def pieces():
        for start in range(0, len(filler), 65_536):
            yield filler[start : start + 65_536]

    headers = {"Content-Type": "application/json"}
    answer = await rig.api("POST", CREATE, data=pieces() if chunked else filler, headers=headers)
    assert answer.status == 413
    fits = json.dumps({**BODY, "zz": ""})[:-2] + "x" * ((1 << 20) - len(json.dumps({**BODY, "zz": ""}))) + '"}'
    assert len(fits) == 1 << 20
    assert (await rig.api("POST", CREATE, data=fits.encode(), headers=headers)).fields == {"zz"}


async def test_a_fault_of_ours_is_500_without_a_trace_and_nothing_half_made(rig, monkeypatch, caplog):
    def broken(*_args):
        raise RuntimeError("inner workings")

    monkeypatch.setattr(services, "service_view", broken)
    await rig.create("api")
    answer = await rig.api("GET", "/acme/service/api")
    assert answer.status == 500
    assert "inner workings" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json["request_id"] in caplog.text
    assert "inner workings" in caplog.text


async def test_health_needs_no_key_and_no_store(rig):
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await rig.api("GET", path, token="")).status == 200
    assert (await rig.api("GET", "/metrics", token="")).text == "wakegate_up 1\n"


async def test_metrics_beyond_loopback_need_a_key_of_every_namespace(rig, monkeypatch):
    monkeypatch.setattr(health, "_from_loopback", lambda _: False)
    assert (await rig.api("GET", "/metrics", token="")).status == 401
    assert (await rig.api("GET", "/metrics", token=await rig.key("one", "acme", "admin"))).status == 403
    assert (await rig.api("GET", "/metrics", token=await rig.key("all", "*", "read"))).status == 200


async def test_readiness_warns_of_a_second_namespace_where_nothing_keeps_them_apart(rig, site):
    api = rig.catalogue
    assert (await rig.api("GET", "/readyz")).json == {"status": "ready", "reasons": [], "warnings": []}
    await rig.create("a", namespace="one")
    await rig.create("a", namespace="two")
    assert (await rig.api("GET", "/readyz")).json["warnings"] == []  # this site keeps them apart
    assert api.inhabited() == {"one", "two"}


async def test_logs_are_the_newest_lines_oldest_first(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d1", [f"build {n}" for n in range(5)])
    rig.logs.append(service, "d1", [f"line {n}" for n in range(20)], Stream.STDOUT)
    page = (await rig.api("GET", "/acme/service/api/logs?limit=3")).json
    assert [item["line"] for item in page["items"]] == ["line 17", "line 18", "line 19"]
    assert page["truncated"] is True
    assert set(page["items"][0]) == {"time", "replica", "deployment", "stream", "line"}
    built = (await rig.api("GET", "/acme/service/api/logs?stream=build&deployment=d1")).json
    assert [item["line"] for item in built["items"]] == [f"build {n}" for n in range(5)]
    assert built["truncated"] is False
    assert (await rig.api("GET", "/acme/service/api/logs?replica=nobody")).json["items"] == []


async def test_logs_since_is_strictly_after_with_any_offset(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, None, [f"line {n}" for n in range(10)])
    lines = (await rig.api("GET", "/acme/service/api/logs")).json["items"]
    fifth = lines[5]["time"]
    rest = (await rig.api("GET", f"/acme/service/api/logs?since={fifth}")).json["items"]
    assert [item["line"] for item in rest] == [f"line {n}" for n in range(6, 10)]
    until = (await rig.api("GET", f"/acme/service/api/logs?until={fifth}")).json["items"]
    assert [item["line"] for item in until] == [f"line {n}" for n in range(6)]
    shifted = iso(parse(fifth) + 2 * 3600 * 1_000_000).replace("Z", "%2B02:00")
    assert (await rig.api("GET", f"/acme/service/api/logs?since={shifted}")).json["items"] == rest


async def test_the_cursor_resumes_without_a_gap(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, None, ["first"])
    page = (await rig.api("GET", "/acme/service/api/logs")).json
    rig.logs.append(service, None, [f"line {n}" for n in range(7)])
    seen = []
    for _ in range(4):
        page = (await rig.api("GET", f"/acme/service/api/logs?limit=3&cursor={page['next']}")).json
        seen += [item["line"] for item in page["items"]]
    assert seen == [f"line {n}" for n in range(7)]
    assert page["next"] is not None


async def test_logs_of_a_deleted_service_stay_readable_under_its_id(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, None, ["last words"])
    await rig.delete("api")
    assert (await rig.api("GET", "/acme/service/api/logs")).status == 404
    assert (await rig.api("GET", f"/acme/service/{service}/logs")).json["items"][0]["line"] == "last words"
    assert (await rig.api("GET", f"/other/service/{service}/logs")).status == 404
    await rig.create("api")
    assert (await rig.api("GET", "/acme/service/api/logs")).json["items"] == []
    assert (await rig.api("GET", f"/acme/service/{service}/logs")).json["items"][0]["line"] == "last words"


async def test_a_day_later_they_are_gone(rig):
    kept, gone = [(await rig.create(name)).json["id"] for name in ("kept", "gone")]
    for service in (kept, gone, "stray"):
        rig.logs.append(service, None, ["a line"])
    await rig.delete("gone")
    sweeper = remains.Sweeper(rig.store, rig.mirror, rig.log_directory, rig.logs.remove)
    await sweeper.sweep(now_us() + remains.KEPT - 60_000_000)
    assert {path.name for path in rig.log_directory.iterdir()} == {kept, gone, "stray"}
    await sweeper.sweep(now_us() + remains.KEPT + 60_000_000)
    assert {path.name for path in rig.log_directory.iterdir()} == {kept}
    await rig.mirror.reached(await rig.store.revision())
    assert (await rig.api("GET", f"/acme/service/{gone}/logs")).status == 404


async def exchange(rig, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Bytes to the API and its one answer; it closes the connection after a broken request."""
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(30):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields["content-length"]))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return int(head.split()[1]), fields, body


def request(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


BROKEN = {
    "an unknown method": (request("FOO /acme/services HTTP/1.1", "Host: x"), 405),
    "an unknown method with a query": (request("QUERYX /acme/service/x?marker=1 HTTP/1.1", "Host: x"), 405),
    "an unknown method nowhere": (request("FOO /marker HTTP/1.1", "Host: x"), 400),
    "an unknown method without a version": (request("FOO /acme/services"), 400),
    "a star": (request("GET * HTTP/1.1", "Host: x"), 400),
    "a relative target": (request("GET marker HTTP/1.1", "Host: x"), 400),
    "a port beyond all": (request("GET http://marker:99999999/ HTTP/1.1", "Host: x"), 400),
    "a long field": (request("GET /healthz HTTP/1.1", "Host: x", "X-Marker: " + "a" * 9000), 431),
    "a long name": (request("GET /healthz HTTP/1.1", "Host: x", "marker" * 1500 + ": x"), 431),
    "many fields": (request("GET /healthz HTTP/1.1", "Host: x", *["Marker: x"] * 300), 431),
    "a long target": (request("GET /" + "marker" * 1500 + " HTTP/1.1", "Host: x"), 414),
    "two types": (
        request("POST /auth/v1/keys HTTP/1.1", "Host: x", "Content-Type: a/marker", "Content-Type: a/b"),
        400,
    ),
    "no host": (request("GET /healthz HTTP/1.1"), 400),
    "two hosts": (request("GET /healthz HTTP/1.1", "Host: marker", "Host: b"), 400),
    "two lengths": (
        request("POST /auth/v1/keys HTTP/1.1", "Host: x", "Content-Length: 2", "Transfer-Encoding: chunked"),
        400,
    ),
    "a wrong length": (request("POST /auth/v1/keys HTTP/1.1", "Host: x", "Content-Length: marker"), 400),
    "a wrong version": (request("GET /marker HTTP/1.9", "Host: x"), 400),
    "garbage": (b"\x16\x03\x01 marker\r\n\r\n", 400),
    "an expectation": (request("GET /healthz HTTP/1.1", "Host: x", "Expect: <marker>"), 417),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_never_reaches_the_router_is_a_problem_that_repeats_nothing(rig, what, caplog):
    sent, expected = BROKEN[what]
    status, fields, body = await exchange(rig, sent)
    problem = json.loads(body)
    assert (status, problem["status"]) == (expected, expected)
    assert fields["content-type"].startswith("application/problem+json")
    assert problem["request_id"] == fields["x-request-id"]
    assert "server" not in fields
    assert b"marker" not in body
    assert fields.get("allow") == ("get, head" if expected == 405 else None)
    said = [record for record in caplog.records if record.name != "asyncio"]  # which tells of a slow machine
    assert said == []


@pytest.mark.parametrize("path", ["/healthz", "/acme/services", "/nothing", "/acme/services?x=1", "/metrics"])
async def test_no_answer_says_what_the_server_is_made_of(rig, path):
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        assert "Server" not in (await rig.api(method, path)).headers


async def test_a_fault_below_the_handlers_is_a_problem_too(rig, monkeypatch, caplog):
    async def broken(*_args):
        raise RuntimeError("inner workings")

    monkeypatch.setattr("aiohttp.web.UrlDispatcher.resolve", broken)
    status, fields, body = await exchange(rig, request("GET /healthz HTTP/1.1", "Host: x"))
    assert (status, "server" in fields) == (500, False)
    assert b"inner" not in body
    assert json.loads(body)["request_id"] in caplog.text


async def test_a_silent_connection_is_closed(rig, monkeypatch):
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.2)
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_body_that_does_not_come_is_408(rig, monkeypatch):
    monkeypatch.setattr(query, "_BODY_TIMEOUT", 0.2)
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.token}\r\n"
    writer.write((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_stop_lets_a_request_in_flight_finish(rig):
    rig.workers.acknowledge.clear()
    creating = asyncio.create_task(rig.create("api"))
    async with asyncio.timeout(30):
        while not rig.workers.asked:
            await asyncio.sleep(0.005)
    stopping = asyncio.create_task(rig.server.stop())
    host, port = rig.url.removeprefix("http://").split(":")
    async with asyncio.timeout(30):
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                await asyncio.sleep(0.01)
            except OSError:
                break
    rig.workers.acknowledge.set()
    assert (await creating).status == 201
    await stopping
