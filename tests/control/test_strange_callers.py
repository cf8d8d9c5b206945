"""Callers that leave in the middle, count beyond all bounds, or call this machine by a name that is none."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from control.contract.authorities import is_authority

CREATE = "/auth/v1/seed/acme/services"
WEBHOOK = f"{CREATE}/api/webhook"
HUGE = ("9" * 19, "9" * 4301, "0" * 20 + "1" + "0" * 20)


@pytest.fixture
def site(site):
    """Whose API has no host of its own, so that it is called as its callers call it."""
    return replace(site, api=None)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [CREATE, "/hooks/git/acme/api"])
async def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(rig, caplog, reset, framing, path):
    caplog.set_level(logging.INFO)
    await rig.create("api")
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.token}\r\nX-GitHub-Event: push\r\n"
    head += f"X-GitHub-Delivery: 1\r\nX-Hub-Signature-256: sha256={'0' * 64}\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Expect: 100-continue\r\n{framing}\r\n\r\n9\r\n{{"name":'.encode())
    async with asyncio.timeout(30):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        ours = next(c for c in rig.server._runner.server.connections if _peer(c) == writer.get_extra_info("sockname"))
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        while ours in rig.server._runner.server.connections or ours._request_in_progress:
            await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []


def _peer(connection):
    return connection.transport and connection.transport.get_extra_info("peername")


@pytest.mark.parametrize("number", HUGE)
async def test_a_page_past_the_end_is_empty_however_far(rig, number):
    await rig.create("api")
    for path in ("/acme/services", "/acme/service/api/deployments"):
        answer = await rig.api("GET", f"{path}?page={number}")
        assert (answer.status, answer.json["items"], answer.json["total"]) == (200, [], 1)
        assert answer.json["page"] == 10**18 - 1
        assert 'page=1&limit=20>; rel="prev"' in answer.headers["Link"]
    assert (await rig.api("GET", f"/acme/services?page={'0' * 5000}1")).json["page"] == 1


@pytest.mark.parametrize("number", HUGE)
async def test_after_a_cursor_beyond_everything_comes_nothing(rig, number):
    await rig.create("api")
    for what in ("events", "logs"):
        answer = await rig.api("GET", f"/acme/service/api/{what}?cursor={number}")
        assert (answer.status, answer.json["items"]) == (200, [])


@pytest.mark.parametrize("number", HUGE)
async def test_what_has_a_bound_says_it_of_any_integer(rig, number):
    await rig.create("api")
    answer = await rig.api("GET", f"/acme/service/api/logs?limit={number}")
    assert answer.json["errors"] == [{"field": "limit", "message": "must be an integer from 1 to 10000"}]


@pytest.mark.parametrize(
    "host",
    ["example.com", "example.com:8081", "127.0.0.1:1", "[::1]:65535", "[::1]", "a_b.internal.", "x" * 63, "A-1.b:80"],
)
async def test_forges_deliver_to_where_the_caller_reached_the_api(rig, host):
    assert is_authority(host)
    created = await rig.api("POST", CREATE, {"name": "api", "repo": "a/b", "gpu": "none"}, headers={"Host": host})
    assert created.json["webhook"]["url"] == f"http://{host}/hooks/git/acme/api"
    rotated = await rig.api("POST", WEBHOOK, headers={"Host": host})
    assert rotated.json["url"] == f"http://{host}/hooks/git/acme/api"


@pytest.mark.parametrize(
    "host",
    [
        'evil.com"x', "", " ", "a b", "a/b", "a?b", "a#b", "user@host", "a:b", "a:", "a:0", "a:65536", "a:000080",
        ":80", "[::1", "[1:2]", "[::1]x", "::1", "a..b", ".a", "-a.com", "a-.com", "x" * 64, "a." * 127 + "ab", "<b>",
        "a,b", "é",
    ],
)  # fmt: skip
async def test_a_host_that_is_none_is_not_told(rig, host):
    assert not is_authority(host)
    own = f"{rig.url}/hooks/git/acme/api"
    given = {"Host": host}
    created = await rig.api("POST", CREATE, {"name": "api", "repo": "a/b", "gpu": "none"}, headers=given)
    assert (created.status, created.json["webhook"]["url"]) == (201, own)
    assert (await rig.api("POST", WEBHOOK, headers=given)).json["url"] == own
