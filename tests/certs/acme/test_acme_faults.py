"""What is broken before a real CA, and what comes of it: each fault of `tests.acme_proxy`, as `certs.acme` says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from acme_parties import Http, http_answers, issue, new_key, session

from certs.acme.chain import check, describe, split
from certs.acme.client import AcmeClient
from certs.acme.errors import AcmeError, BadAnswer, Unreachable
from certs.acme.problem import BLANK, Problem
from certs.acme.transport import ATTEMPTS
from state.ids import now_us
from tests.acme_faults import Fault, account_gone, bad_nonces, down, dropped, garbage, rate_limited, refused, slow
from tests.acme_process import ProxyProcess
from tests.acme_proxy import AcmeProxy, Window
from tests.pebble import Pebble

pytestmark = pytest.mark.xdist_group("acme-faults")

STEPS = (
    "directory",
    "newNonce",
    "newAccount",
    "newOrder",
    "authorization",
    "challenge",
    "order",
    "finalize",
    "certificate",
)


@pytest.fixture
async def proxy(calm: Pebble) -> AsyncIterator[AcmeProxy]:
    async with AcmeProxy(calm) as started:
        yield started


@pytest.fixture
async def http(calm: Pebble) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(calm.ca) as opened:
        yield opened


@pytest.fixture
async def answers(calm: Pebble) -> AsyncIterator[Http]:
    async with http_answers(calm.http_port) as answering:
        yield answering


@pytest.fixture
async def client(proxy: AcmeProxy, http: aiohttp.ClientSession) -> AcmeClient:
    made = AcmeClient(http, proxy.directory, KEY)
    await made.register(None, None)
    return made


KEY = new_key()


class Walk:
    """An issuance from the account to the certificate, that can be begun again."""

    def __init__(self, http: aiohttp.ClientSession, directory: str, answers: Http) -> None:
        self.client = AcmeClient(http, directory, KEY)
        self.key, self.name, self.answers = new_key(), f"walk{now_us()}.test", answers

    async def go(self) -> None:
        if self.client.account_url is None:
            await self.client.register(None, None)
        chain = (await issue(self.client, KEY, [self.name], self.answers, self.key))[0]
        check(chain, self.key.public_key(), [self.name], now_us())


def times(kind: str) -> int:
    """GET and HEAD are asked again by aiohttp if the connection is cut."""
    return 2 if kind in ("directory", "newNonce") else 1


SMALL = (
    ("429", lambda kind: rate_limited(kind, "120"), Problem),
    ("503", lambda kind: down(kind, Retry_After="7"), Problem),
    ("dropped before", lambda kind: dropped(kind, times(kind), after=False), Unreachable),
    ("dropped after", lambda kind: dropped(kind, times(kind), after=True), Unreachable),
)
GROSS = (
    ("garbage", garbage, AcmeError),
    (
        "redirect",
        lambda kind: Fault(kind, "answer", status=302, headers={"Location": "https://localhost:1/"}),
        BadAnswer,
    ),
    ("nested", lambda kind: Fault(kind, "answer", status=200, body="[" * 100_000), AcmeError),
    ("endless", lambda kind: Fault(kind, "answer", status=200, body="x" * 1_000_000), AcmeError),
)
CASES = [(kind, *case) for kind in STEPS for case in SMALL]
CASES += [(kind, *case) for kind in ("directory", "newOrder", "certificate") for case in GROSS]


@pytest.mark.parametrize(("kind", "name", "fault", "error"), CASES, ids=[f"{kind}-{name}" for kind, name, *_ in CASES])
async def test_every_step_fails_with_an_acme_error_and_works_again_afterwards(
    kind, name, fault, error, proxy, http, answers
):
    proxy.break_(fault(kind))
    walk = Walk(http, proxy.directory, answers)
    with pytest.raises(error) as caught:
        await walk.go()
    assert isinstance(caught.value, AcmeError)
    assert any(seen.kind == kind and seen.broken for seen in proxy.requests)
    await walk.go()


async def test_seconds_and_dates_of_retry_after(proxy, client):
    proxy.break_(rate_limited("newOrder", "120"))
    with pytest.raises(Problem) as seconds:
        await client.new_order(["a.test"])
    proxy.break_(rate_limited("newOrder", 3600.0))
    with pytest.raises(Problem) as date:
        await client.new_order(["a.test"])
    assert (seconds.value.type, seconds.value.status, seconds.value.retry_after) == ("rateLimited", 429, 120.0)
    assert date.value.retry_after == pytest.approx(3600, abs=60)
    assert proxy.counts["newOrder"] == 2


async def test_a_balancer_that_speaks_html(proxy, client):
    proxy.break_(down("newOrder", status=502))
    with pytest.raises(Problem) as caught:
        await client.new_order(["a.test"])
    assert (caught.value.type, caught.value.status, caught.value.retry_after) == (BLANK, 502, None)


async def test_a_storm_of_refused_nonces_passes(proxy, client):
    proxy.break_(bad_nonces("newOrder", ATTEMPTS - 1))
    assert (await client.new_order(["a.test"])).status == "pending"
    assert proxy.counts["newOrder"] == ATTEMPTS
    assert proxy.counts["newNonce"] == 1  # the fresh ones came with the refusals


async def test_a_storm_without_end_is_given_up(proxy, client):
    proxy.break_(bad_nonces("newOrder", 1000))
    with pytest.raises(Problem) as caught:
        await client.new_order(["a.test"])
    assert caught.value.type == "badNonce"
    assert proxy.counts["newOrder"] == ATTEMPTS
    proxy.mend()
    assert (await client.new_order(["a.test"])).status == "pending"


async def test_a_refusal_without_a_fresh_nonce(proxy, client):
    """RFC 8555 6.5 forbids it; one is fetched."""
    proxy.break_(refused("newOrder", "badNonce", 400, 2))
    assert (await client.new_order(["a.test"])).status == "pending"


async def test_a_server_without_nonces(proxy, http):
    proxy.break_(Fault("newNonce", "answer", status=200))
    with pytest.raises(BadAnswer, match="no nonce"):
        await AcmeClient(http, proxy.directory, KEY).register(None, None)


async def test_an_account_that_is_gone(proxy, client):
    proxy.break_(account_gone("newOrder"))
    with pytest.raises(Problem) as caught:
        await client.new_order(["a.test"])
    assert (caught.value.type, caught.value.status) == ("accountDoesNotExist", 400)
    gone = client.account_url
    assert (await client.register(None, None)).url == gone


async def test_an_order_that_was_lost_on_the_way_back_is_not_made_twice(proxy, client):
    proxy.break_(dropped("newOrder", after=True))
    with pytest.raises(Unreachable):
        await client.new_order(["a.test"])
    assert proxy.counts["newOrder"] == 1


async def test_a_slow_server(proxy, http):
    proxy.break_(slow("directory", 30.0))
    hasty = AcmeClient(http, proxy.directory, KEY, timeout=0.2)
    with pytest.raises(Unreachable, match="in time"):
        await hasty.directory()
    await hasty.directory()


async def test_nobody_listens(http):
    with pytest.raises(Unreachable):
        await AcmeClient(http, "https://localhost:1/dir", KEY).directory()


async def test_the_directory_is_read_once(proxy, client):
    await asyncio.gather(*(client.directory() for _ in range(5)))
    await client.new_order(["a.test"])
    assert proxy.counts["directory"] == 1


async def test_the_directory_is_read_again_after_a_day(proxy, http):
    now = now_us()
    client = AcmeClient(http, proxy.directory, KEY, now=lambda: now)
    await client.directory()
    now += 23 * 3600 * 1_000_000
    await client.directory()
    assert proxy.counts["directory"] == 1
    now += 2 * 3600 * 1_000_000
    await client.directory()
    assert proxy.counts["directory"] == 2
    now -= 10 * 86_400 * 1_000_000  # the clock was set back
    await client.directory()
    assert proxy.counts["directory"] == 3


async def test_who_it_says_it_is(proxy, client):
    await client.new_order(["a.test"])
    assert {seen.agent.partition("/")[0] for seen in proxy.requests} == {"wakegate"}


async def test_retry_after_of_an_order_that_is_being_made(proxy, client):
    proxy.break_(Fault("newOrder", "change", headers={"Retry-After": "3"}, changes={"status": "processing"}))
    order = await client.new_order(["a.test"])
    assert (order.status, order.retry_after) == ("processing", 3.0)


async def test_the_error_of_an_order(proxy, client):
    problem = {
        "type": "urn:ietf:params:acme:error:compound",
        "detail": "no\x1b[31m way\n",
        "subproblems": [
            {
                "type": "urn:ietf:params:acme:error:caa",
                "detail": "forbidden",
                "identifier": {"type": "dns", "value": "a.test"},
            }
        ],
    }
    proxy.break_(Fault("newOrder", "change", changes={"status": "invalid", "error": problem}))
    error = (await client.new_order(["a.test"])).error
    assert error is not None
    assert (error.type, error.detail) == ("compound", "no [31m way ")
    assert [(sub.type, sub.detail, sub.identifier) for sub in error.subproblems] == [("caa", "forbidden", "a.test")]


@pytest.mark.parametrize(
    "changes",
    [
        {"identifiers": [{"type": "dns", "value": "other.test"}]},
        {"identifiers": [{"type": "ip", "value": "192.0.2.1"}]},
        {"identifiers": []},
        {"finalize": "http://localhost/finalize"},
        {"finalize": "file:///etc/passwd"},
        {"authorizations": ["https://user:secret@localhost/"]},
        {"authorizations": ["https://localhost/"] * 101},
        {"authorizations": {}},
        {"status": "excellent"},
        {"status": "valid"},
        {"expires": "tomorrow"},
        {"expires": 5},
        {"error": "yes"},
        {"error": [1]},
    ],
)
async def test_what_is_not_the_order_that_was_asked_for(changes, proxy, client):
    proxy.break_(Fault("newOrder", "change", changes=changes))
    with pytest.raises(BadAnswer):
        await client.new_order(["a.test"])


@pytest.mark.parametrize("location", ["", "/relative", "http://localhost/order", "https://localhost/ä", "x" * 3000])
@pytest.mark.parametrize("kind", ["newOrder", "newAccount"])
async def test_a_location_that_is_no_place(kind, location, proxy, client):
    proxy.break_(Fault(kind, "change", headers={"Location": location}))
    with pytest.raises(BadAnswer, match="does not say where"):
        await (client.new_order(["a.test"]) if kind == "newOrder" else client.register(None, None))


@pytest.mark.parametrize("what", ["newNonce", "newAccount", "newOrder"])
@pytest.mark.parametrize("value", [None, 5, "", "/x", "http://localhost/", "https://localhost:99999/", "https://[::1/"])
async def test_a_directory_that_leads_nowhere(what, value, proxy, http):
    proxy.break_(Fault("directory", "change", changes={what: value}))
    client = AcmeClient(http, proxy.directory, KEY)
    with pytest.raises(BadAnswer):
        await client.directory()
    await client.directory()


async def test_renewal_information_and_replaces(proxy, client, answers):
    key = new_key()
    chain = (await issue(client, KEY, ["r.test"], answers, key))[0]
    leaf = describe(split(chain.encode())[0])
    assert leaf.identifier is not None
    found = await client.renewal_info(leaf.identifier)
    assert leaf.not_before < found.start < found.end < leaf.not_after
    assert found.retry_after == 21600.0
    proxy.renewal.windows[leaf.identifier] = Window("2020-01-01T00:00:00Z", "2020-01-02T00:00:00+01:00")
    proxy.renewal.retry_after = None
    past = await client.renewal_info(leaf.identifier)
    assert (past.start, past.end, past.retry_after) == (1577836800_000000, 1577919600_000000, None)
    await issue(client, KEY, ["r.test"], answers, key, replaces=leaf.identifier)
    assert proxy.payloads("newOrder")[-1]["replaces"] == leaf.identifier
    with pytest.raises(Problem) as caught:
        await client.new_order(["r.test"], replaces=leaf.identifier)
    assert (caught.value.type, caught.value.status) == ("alreadyReplaced", 409)


async def test_renewal_information_that_fails(proxy, client):
    with pytest.raises(Problem) as unknown:
        await client.renewal_info("AAAA.AAAA")
    assert unknown.value.status == 404
    proxy.break_(down("renewalInfo", Retry_After="60"), Fault("renewalInfo", "answer", status=200, body="{}"))
    with pytest.raises(Problem) as caught:
        await client.renewal_info("AAAA.AAAA")
    assert (caught.value.status, caught.value.retry_after) == (503, 60.0)
    with pytest.raises(BadAnswer):
        await client.renewal_info("AAAA.AAAA")


async def test_replaces_and_profile_are_told_where_they_are_understood(proxy, http):
    proxy.meta = {"profiles": {"shortlived": "6 days"}, "caaIdentities": ["CA.test"]}
    client = AcmeClient(http, proxy.directory, KEY)
    await client.register(None, None)
    assert (await client.directory()).meta.profiles == {"shortlived": "6 days"}
    assert (await client.directory()).meta.caa_identities == ("ca.test",)
    await client.new_order(["p.test"], profile="shortlived", replaces="AAAA.AAAA")
    proxy.renewal.offered = False
    plain = AcmeClient(http, proxy.directory, KEY, client.account_url)
    await plain.new_order(["p.test"], replaces="AAAA.AAAA")
    first, second = proxy.payloads("newOrder")
    assert (first["profile"], first["replaces"]) == ("shortlived", "AAAA.AAAA")
    assert second.keys() == {"identifiers"}


@pytest.mark.parametrize(
    "body", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_what_is_no_certificate(body, proxy, http, answers):
    walk = Walk(http, proxy.directory, answers)
    proxy.break_(Fault("certificate", "answer", status=200, body=body))
    with pytest.raises(AcmeError):
        await walk.go()


async def test_an_alternate_that_cannot_be_had_is_left_out(pebbles):
    server = pebbles(nonce_reject=0, alternates=2)
    async with AcmeProxy(server) as proxy, session(server.ca) as http, http_answers(server.http_port) as answers:
        client = AcmeClient(http, proxy.directory, KEY)
        await client.register(None, None)
        fault = down("certificate")
        proxy.break_(Fault(fault.kind, fault.action, skip=1, status=fault.status, body=fault.body))
        chains = await issue(client, KEY, ["alternate.test"], answers, new_key())
        assert proxy.counts["certificate"] == 3
    assert len(chains) == 2


async def test_many_at_once(proxy, client):
    orders = await asyncio.gather(*(client.new_order([f"many{i}.test"]) for i in range(20)))
    assert len({order.url for order in orders}) == 20
    assert proxy.counts["newOrder"] == 20


async def test_a_call_that_is_cancelled_leaves_nothing_behind(proxy, client):
    proxy.break_(slow("newOrder", 30.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.new_order(["a.test"])
    assert (await client.new_order(["a.test"])).status == "pending"


async def test_as_a_process_of_its_own(calm, http):
    proxy = await asyncio.to_thread(ProxyProcess, calm)
    try:
        client = AcmeClient(http, proxy.directory, KEY)
        await client.register(None, None)
        window = ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"]

        def arrange() -> None:
            proxy.break_(down("newOrder", count=5))
            proxy.mend()
            proxy.break_(down("newOrder"))
            proxy.renewal(windows={"AAAA.AAAA": window}, share=[0, 1])
            proxy.meta(website="https://ca.test")

        await asyncio.to_thread(arrange)
        with pytest.raises(Problem):
            await client.new_order(["a.test"])
        await client.new_order(["a.test"])
        assert (await client.renewal_info("AAAA.AAAA")).end == 1577923200_000000
        assert (await AcmeClient(http, proxy.directory, KEY).directory()).meta.website == "https://ca.test"
        assert (await asyncio.to_thread(proxy.counts))["newOrder"] == 2
        seen = await asyncio.to_thread(proxy.requests)
        assert [request["broken"] for request in seen if request["kind"] == "newOrder"] == ["answer", None]
    finally:
        await asyncio.to_thread(proxy.close)
