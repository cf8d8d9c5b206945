"""What all answers of the API keep to: request ids, conditional reads, methods, no CORS, and the document of it all."""

from __future__ import annotations

import json
import socket

import aiohttp
import pytest
from aiohttp import web

from control.contract import conditions
from control.contract.operations import declared
from control.door import finish
from control.server import ApiServer

CREATE = "/auth/v1/seed/acme/services"


async def test_every_route_is_declared_and_every_declared_one_is_in_the_document(rig):
    document = (await rig.api("GET", "/openapi.json", token="")).json
    assert document["openapi"] == "3.1.0"
    routes = [route for route in rig.server._app.router.routes() if route.method != "HEAD"]
    assert [str(route) for route in routes if declared(route.handler) is None] == []
    told = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert told == {(route.resource.canonical, route.method) for route in routes}
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


async def test_the_document_refers_to_nothing_that_it_has_not(rig):
    document = (await rig.api("GET", "/openapi.json", token="")).json
    for reference in _references(document):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    needed = {name for path, item in document["paths"].items() for name in item}
    assert needed <= {"get", "put", "post", "patch", "delete"}


def _references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


async def test_the_document_is_had_once(rig):
    first = await rig.api("GET", "/openapi.json", token="")
    assert first.headers["Content-Type"].startswith("application/json")
    again = await rig.api("GET", "/openapi.json", token="", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.text, again.headers["ETag"]) == (304, "", first.headers["ETag"])
    assert (await rig.api("HEAD", "/openapi.json", token="")).headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*", '"x",{}'])
async def test_what_the_client_has_is_not_sent_again(rig, form):
    made = await rig.create("api")
    read = await rig.api("GET", "/acme/service/api")
    assert read.headers["ETag"] == made.headers["ETag"]
    for method in ("GET", "HEAD"):
        given = {"If-None-Match": form.format(read.headers["ETag"])}
        answer = await rig.api(method, "/acme/service/api", headers=given)
        assert (answer.status, answer.text) == (304, "")
        assert answer.headers["ETag"] == read.headers["ETag"]
        assert answer.headers["X-Request-Id"] != read.headers["X-Request-Id"]
        assert "Content-Type" not in answer.headers
    other = await rig.api("GET", "/acme/service/api", headers={"If-None-Match": '"other"'})
    assert (other.status, other.text) == (200, read.text)


async def test_a_tag_changes_with_the_answer_and_still_admits_a_write():
    was, now = conditions.exact('"conf"', {"status": "running"}), conditions.exact('"conf"', {"status": "stopped"})
    assert was != now
    assert was.split("-")[0] == now.split("-")[0] == '"conf'


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200), ("GET", "/nothing", 404), ("PUT", "/healthz", 405), ("GET", "/acme/services", 200),
        ("GET", "/acme/service/x", 404), ("POST", CREATE, 415), ("GET", "/acme/services?x=1", 400),
        ("GET", "/metrics", 200), ("GET", "/openapi.json", 200), ("DELETE", CREATE + "/x", 404),
    ],
)  # fmt: skip
async def test_every_answer_has_a_request_id_of_its_own(rig, method, path, status):
    first, second = await rig.api(method, path), await rig.api(method, path)
    assert first.status == second.status == status
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    if status >= 400:
        assert first.json["request_id"] == first.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/healthz", "/acme/services", CREATE, "/openapi.json", "/nothing"])
async def test_other_origins_are_told_nothing(rig, path):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET", "POST"):
        answer = await rig.api(method, path, headers=asked)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        if method == "OPTIONS":
            assert answer.status == (404 if path == "/nothing" else 405)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/acme/services", "/acme/service/api", "/auth/v1/key"]
)
async def test_head_is_get_without_a_body(rig, path):
    await rig.create("api")
    got, head = await rig.api("GET", path), await rig.api("HEAD", path)
    assert (head.status, head.text) == (got.status, "")
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_a_stream_has_its_request_id():
    """Headers of a response that is on its way can't be changed any more: they are there before."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        return response

    app = web.Application()
    app.on_response_prepare.append(finish)
    app.router.add_get("/stream", stream)
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(app, [listener])
    await server.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/stream"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (await answer.text(), len(answer.headers["X-Request-Id"])) == ("data: 1\n\n", 32)
        assert "Server" not in answer.headers
    await server.stop()


async def test_the_document_is_plain_json_of_a_fair_size(rig):
    text = (await rig.api("GET", "/openapi.json", token="")).text
    assert len(text) < 300_000
    assert json.loads(text)["components"]["securitySchemes"]
