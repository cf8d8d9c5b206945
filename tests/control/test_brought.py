"""Requests that the node's own gateway brings: they are their client's, and nobody else can say so."""

from __future__ import annotations

import re

import pytest
from aiohttp.test_utils import make_mocked_request
from conftest import GATEWAY_TOKEN, PROXIES

from control.credentials.gateway import Gateway


def brought(address: str, token: str = GATEWAY_TOKEN, **more: str) -> dict[str, str]:
    fields = {name.replace("_", "-"): value for name, value in more.items()}
    return {"Wakegate-Gateway": token, "X-Forwarded-For": address, **fields}


async def test_nobody_is_local_who_comes_through_the_gateway(rig):
    """Whatever his address: a proxy of this machine may stand before it."""
    assert (await rig.api("GET", "/metrics", token="")).status == 200
    for address in ("203.0.113.7", "127.0.0.1", "::1", ""):
        answer = await rig.api("GET", "/metrics", token="", headers=brought(address))
        assert answer.status == 401, address
        assert (await rig.api("GET", "/metrics", headers=brought(address))).status == 200


@pytest.mark.parametrize("token", ["", "wrong", GATEWAY_TOKEN + "x", GATEWAY_TOKEN[:-1], "caf\xe9"])
async def test_without_the_token_nothing_that_is_said_of_others_is_believed(rig, token):
    headers = brought("203.0.113.7", token, X_Request_Id="theirs")
    answer = await rig.api("GET", "/metrics", token="", headers=headers)
    assert answer.status == 200  # from loopback, as ever
    assert answer.headers["X-Request-Id"] != "theirs"
    twice = [*brought("203.0.113.7").items(), ("Wakegate-Gateway", GATEWAY_TOKEN)]
    async with rig.api.session.get(f"{rig.url}/metrics", headers=twice) as response:
        assert response.status == 200


async def until_429(ask):
    """Failures are forgotten with time: as many as it takes, and not many more."""
    statuses = [(await ask()).status]
    while statuses[-1] != 429:
        assert len(statuses) < 1000
        statuses.append((await ask()).status)
    return set(statuses[:-1])


async def test_failures_count_for_the_client_and_not_for_the_gateway(limited_to):
    async with limited_to(20) as rig:

        async def wrong(headers):
            return await rig.api("GET", "/acme/services", token="admin$wrong", headers=headers)

        assert await until_429(lambda: wrong(brought("203.0.113.7"))) == {401}
        assert (await wrong(brought("203.0.113.8"))).status == 401
        assert (await wrong({})).status == 401
        assert (await rig.api("GET", "/acme/services", headers=brought("203.0.113.7"))).status == 200


async def test_deliveries_that_fail_count_for_their_client_too(rig):
    signed = {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + "0" * 64, "X-GitHub-Delivery": "1"}

    async def deliver(address):
        headers = signed | brought(address)
        return await rig.api("POST", "/hooks/git/acme/api", token="", data=b"{}", headers=headers)

    assert await until_429(lambda: deliver("203.0.113.7")) == {403}
    assert (await deliver("203.0.113.8")).status == 403


async def test_the_gateways_request_id_is_the_answers(rig):
    headers = brought("203.0.113.7", X_Request_Id="ab" * 16)
    for answer in (
        await rig.api("GET", "/nothing/here/at/all", headers=headers),
        await rig.api("GET", "/acme/services", token="", headers=headers),
    ):
        assert answer.json["request_id"] == answer.headers["X-Request-Id"] == "ab" * 16
    answer = await rig.api("GET", "/healthz", headers=brought("203.0.113.7"))
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


async def test_what_needs_a_body_works_as_ever(rig):
    headers = brought("203.0.113.7")
    body = {"name": "api", "repo": "acme/app", "gpu": "none"}
    answer = await rig.api("POST", "/auth/v1/seed/acme/services", body, headers=headers)
    assert answer.status == 201
    assert answer.headers["Location"] == "https://api.example.com/acme/service/api"
    assert answer.json["webhook"]["url"] == "https://api.example.com/hooks/git/acme/api"
    assert (await rig.api("PUT", "/auth/v1/seed/acme/services", body, headers=headers)).status == 405


@pytest.mark.parametrize(
    ("told", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # what stands before it the client may have made up
        (["198.51.100.1, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
        (["203.0.113.7", "10.0.0.1, 10.0.0.2"], "203.0.113.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["2001:db8::1,10.0.0.1"], "2001:db8::1"),
        (["nonsense, 10.0.0.1"], "nonsense"),  # counts together with all that is none
        ([], ""),
        ([""], ""),
    ],
)
def test_the_client_behind_trusted_proxies(told, client):
    assert Gateway("token", PROXIES).client(told) == client


@pytest.mark.parametrize("headers", [{}, {"Wakegate-Gateway": ""}])
def test_who_has_no_token_can_t_be_played_by_showing_none(headers):
    request = make_mocked_request("GET", "/", headers=headers)
    assert Gateway("").recognizing(lambda: request)() is request
