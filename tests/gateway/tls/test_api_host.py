"""The API's own host: TLS only, to this node's API, with the token that nobody else can show."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

import pytest
from tls_parties import TlsConversation, TlsPeer, TlsStarter, pair, trusting
from wire import Origin, Peer, fields, get, lines, ok, statuses, until

from gateway.settings import ApiSettings
from state.certificates import Challenge, ChallengeAnswer
from state.models import Route

API = "api.test"
TOKEN = "made by the supervisor"
Opener = Callable[..., Awaitable[TlsConversation]]


@pytest.fixture
async def api() -> AsyncIterator[Origin]:
    """What listens at the API's address."""
    origin = await Origin("api").start()
    yield origin
    await origin.close()


@pytest.fixture
def with_api(secured: TlsStarter, api: Origin) -> Opener:
    """`await with_api(max_body=1, …)`: an edge with the API's host and a certificate for it."""

    async def start(**settings: object) -> TlsConversation:
        talk = await secured(api=ApiSettings(API, ("127.0.0.1", api.port), TOKEN), **settings)
        talk.shelf.put(API, pair(API), trusted=True)
        return talk

    return start


async def secure(talk: TlsConversation) -> TlsPeer:
    return await talk.secure(API, trusting(pair(API)))


async def refused(client: Peer | TlsPeer, data: bytes) -> tuple[int, dict[str, object]]:
    """Status and problem of the gateway's own answer, which is a connection's last."""
    await client.send(data)
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert fields(head + b"\r\n\r\n")[b"content-type"] == [b"application/problem+json"]
    problem = json.loads(body)
    assert head.split()[1] == b"%d" % problem["status"]
    return problem["status"], problem


async def test_a_request_is_brought_with_the_token_and_the_clients_address(with_api: Opener, api: Origin) -> None:
    talk = await with_api()
    client = await secure(talk)
    forged = ("Wakegate-Gateway: forged", "wakegate_gateway: forged", "X-Forwarded-For: 192.0.2.1")
    more = ("Authorization: Bearer admin$secret", "Connection: keep-alive, Wakegate-Gateway")
    await client.send(get("/acme/services?limit=1", *forged, *more, host="API.test:8443"))
    peer = await api.peer()
    head = await peer.head()
    assert head.startswith(b"GET /acme/services?limit=1 HTTP/1.1\r\n")
    found = fields(head)
    assert found[b"wakegate-gateway"] == [TOKEN.encode()]
    assert found[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert found[b"x-forwarded-proto"] == [b"https"]
    assert found[b"authorization"] == [b"Bearer admin$secret"]
    assert found[b"host"] == [b"API.test:8443"]
    assert b"forged" not in head
    await peer.send(ok(b"[]", "Content-Type: application/json"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    await client.exactly(2)
    await client.send(get("/healthz", host=API))
    assert (await peer.head()).startswith(b"GET /healthz ")
    await peer.send(ok(b"ok"))
    await client.head()


async def test_services_get_no_token_and_none_that_is_forged(with_api: Opener) -> None:
    talk = await with_api()
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    client = await talk.client()
    await client.send(get("/", "Wakegate-Gateway: forged"))
    peer = await origin.peer()
    assert b"gateway" not in (await peer.head()).lower()
    await peer.send(ok())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_plain_reads_are_sent_to_https(with_api: Opener, api: Origin, method: str) -> None:
    talk = await with_api(public_https_port=8443)
    client = await talk.client()
    await client.send(get("/acme/services?limit=1", host=API + ":80", method=method))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 308 ")
    assert fields(head)[b"location"] == [b"https://api.test:8443/acme/services?limit=1"]
    assert api.connections == 0


@pytest.mark.parametrize("redirect", ["auto", "on", "off"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_what_came_in_clear_text_is_never_passed_on(
    with_api: Opener, api: Origin, redirect: str, method: str
) -> None:
    talk = await with_api(https_redirect=redirect)
    client = await talk.client()
    data = get("/auth/v1/keys", "Authorization: Bearer a$b", "Connection: close", host=API, method=method)
    status, problem = await refused(client, data)
    assert status == 403
    assert problem["error"] == "http_request_denied"
    assert "must be changed now" in str(problem["detail"])
    assert api.connections == 0


async def test_behind_a_balancer_that_ends_tls(with_api: Opener, api: Origin) -> None:
    """It says how the client came; the API finds the client before it."""
    talk = await with_api(trusted_proxies=(ip_network("127.0.0.0/8"),))
    client = await talk.client()
    await client.send(get("/", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.7", host=API))
    peer = await api.peer()
    found = fields(await peer.head())
    assert found[b"x-forwarded-for"] == [b"203.0.113.7, 127.0.0.1"]
    await peer.send(ok())
    await client.head()
    over_tls = await secure(talk)
    data = get("/", "X-Forwarded-Proto: http", "Connection: close", host=API, method="POST")
    assert (await refused(over_tls, data))[0] == 403


async def test_the_nodes_limits_of_services_are_not_the_apis(with_api: Opener, api: Origin) -> None:
    talk = await with_api(max_body=10, response_timeout=1.0)
    client = await secure(talk)
    await client.send(get("/", "Content-Length: 100", host=API, method="POST") + b"x" * 100)
    peer = await api.peer()
    await peer.head()
    await peer.expect(b"x" * 100)
    talk.edge._sweep.run(time.monotonic() + 1800)  # a service would have had its answer long ago
    await peer.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"2\r\na\n\r\n"))
    await client.through(b"a\n")
    talk.edge._sweep.run(time.monotonic() + 3600)
    await peer.send(b"2\r\nb\n\r\n0\r\n\r\n")
    await client.through(b"b\n\r\n0\r\n\r\n")
    await client.send(get("/next", host=API))
    assert (await peer.head()).startswith(b"GET /next ")
    await peer.send(ok())
    await client.head()


async def test_it_is_the_nodes_own_whatever_the_store_says(with_api: Opener, api: Origin) -> None:
    talk = await with_api()
    origin = await talk.origin()
    talk.serve(origin.endpoint(), host=API)
    talk.edge.reroute(API)
    talk.edge.mark(True)
    client = await secure(talk)
    await client.send(get(host=API))
    await (await api.peer()).send(ok())
    await client.head()
    talk.routes[API] = Route("gone", "acme", "app", deleted_at=1)
    talk.edge.resync()
    assert origin.connections == 0


async def test_counted_apart_and_no_load_of_any_service(with_api: Opener, api: Origin) -> None:
    talk = await with_api()
    client = await secure(talk)
    await client.send(get(host=API))
    peer = await api.peer()
    await peer.head()
    assert talk.edge.loads() == {}
    await peer.send(ok())
    await client.head()
    counted = talk.edge.counters()["services"]
    assert counted["api"]["requests"] == {"200": 1}
    assert (counted["api"]["namespace"], counted["api"]["name"]) == ("", "api")
    assert [books.id for books in talk.edge.books()] == [""]


async def test_an_api_that_is_not_there(with_api: Opener, api: Origin) -> None:
    """Is waited for a while; nothing is woken for it."""
    talk = await with_api()
    await api.stop()
    client = await secure(talk)
    await client.send(get(host=API))
    await until(lambda: len(talk.edge._own()[0].room) == 1)
    await api.start()
    await (await api.peer()).send(ok())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert talk.woken == []


async def test_a_node_without_api_says_so(secured: TlsStarter) -> None:
    talk = await secured(api=ApiSettings(API, None, TOKEN))
    talk.shelf.put(API, pair(API))
    status, problem = await refused(await secure(talk), get("/", "Connection: close", host=API))
    assert status == 503
    assert "--role gateway" in str(problem["detail"])
    plain = await talk.client()
    await plain.send(get(host=API))
    assert (await plain.head()).startswith(b"HTTP/1.1 308 ")


async def test_challenges_and_misdirected_requests(with_api: Opener, api: Origin) -> None:
    talk = await with_api()
    talk.edge.challenge(API, Challenge((ChallengeAnswer("http-01", "token", "token.key"),), 0))
    plain = await talk.client()
    await plain.send(get("/.well-known/acme-challenge/token", "Connection: close", host=API))
    assert (await plain.rest()).endswith(b"token.key")
    other = await talk.secure()
    await other.send(get("/", "Connection: close", host=API))
    assert list(statuses(await other.rest())) == [421]
    assert api.connections == 0


async def test_max_forwards(with_api: Opener, api: Origin) -> None:
    """What is shown of a request holds no secret of ours."""
    talk = await with_api()
    client = await secure(talk)
    await client.send(get("/", "Max-Forwards: 0", "Connection: close", host=API, method="TRACE"))
    answer = await client.rest()
    assert next(iter(statuses(answer))) == 200
    assert TOKEN.encode() not in answer
    assert api.connections == 0


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(ApiSettings(API, None, TOKEN))
