"""Domains that lead to another one, and hosts that lead nowhere any more, from the next request or handshake on."""

from __future__ import annotations

import ssl

import pytest
from tls_parties import TlsConversation, TlsPeer, TlsStarter, pair, trusting
from wire import Peer, fields, get, ok, statuses, until

from state.certificates import Challenge, ChallengeAnswer
from state.models import Route

WWW, APEX = "www.acme.test", "acme.test"


def lead(talk: TlsConversation, host: str = WWW, target: str = APEX) -> None:
    talk.serve(host=target)
    talk.routes[host] = Route(f"service-{target}", "acme", "app", redirect=target)
    talk.edge.reroute(host)


async def moved(client: Peer | TlsPeer, data: bytes) -> bytes:
    """Location of the 308; the connection goes on."""
    await client.send(data)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n"), head
    found = fields(head)
    assert found[b"proxy-status"] == [b'wakegate; details="the host leads to acme.test"']
    assert b"connection" not in found
    if not data.startswith(b"HEAD"):
        await client.exactly(int(found[b"content-length"][0]))
    return found[b"location"][0]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PURGE"])
async def test_every_method_is_sent_on_and_nothing_wakes(talk: TlsConversation, method: str) -> None:
    lead(talk)
    location = await moved(await talk.client(), get("/a/b?c=d&e", host=WWW, method=method))
    assert location == b"http://acme.test/a/b?c=d&e"
    assert talk.woken == []
    assert talk.count(APEX) == {}


async def test_the_way_it_came_and_the_ports_that_clients_see(secured: TlsStarter) -> None:
    talk = await secured(public_http_port=8080, public_https_port=8443)
    lead(talk)
    talk.shelf.put(WWW, pair(WWW))
    talk.shelf.put(APEX, pair(APEX))  # which nobody trusts
    plain, secure = await talk.client(), await talk.secure(WWW, trusting(pair(WWW)))
    assert await moved(plain, get("/x", host=WWW + ":80")) == b"http://acme.test:8080/x"
    assert await moved(secure, get("/x", host=WWW)) == b"https://acme.test:8443/x"
    talk.shelf.put(APEX, pair(APEX), version=2, trusted=True)
    assert await moved(plain, get("/x", host="WWW.acme.test.")) == b"https://acme.test:8443/x"
    assert await moved(plain, get("*", host=WWW, method="OPTIONS")) == b"https://acme.test:8443"


async def test_one_hop_though_its_own_name_is_served_over_https(talk: TlsConversation) -> None:
    lead(talk)
    for name in (WWW, APEX):
        talk.shelf.put(name, pair(name), trusted=True)
    assert await moved(await talk.client(), get(host=WWW)) == b"https://acme.test/"


async def test_https_redirect_on_and_off(secured: TlsStarter) -> None:
    for option, scheme in (("on", b"https"), ("off", b"http")):
        talk = await secured(https_redirect=option)
        lead(talk)
        talk.shelf.put(APEX, pair(APEX), trusted=option == "off")
        assert await moved(await talk.client(), get(host=WWW)) == scheme + b"://acme.test/"


async def test_challenges_come_first(talk: TlsConversation) -> None:
    lead(talk)
    talk.edge.challenge(WWW, Challenge((ChallengeAnswer("http-01", "token", "token.key"),), 0))
    client = await talk.client()
    await client.send(get("/.well-known/acme-challenge/token", "Connection: close", host=WWW))
    assert (await client.rest()).endswith(b"\r\n\r\ntoken.key")


async def test_a_body_is_not_taken_for_a_request(talk: TlsConversation) -> None:
    lead(talk)
    client = await talk.client()
    body = get("/smuggled")
    await client.send(get("/", f"Content-Length: {len(body)}", host=WWW, method="POST") + body)
    assert list(statuses(await client.rest())) == [308]


async def test_a_circle_keeps_nobody_busy(talk: TlsConversation) -> None:
    lead(talk, WWW, APEX)
    lead(talk, APEX, APEX)
    client = await talk.client()
    for host in (WWW, APEX):
        assert await moved(client, get("/x", host=host)) == b"http://acme.test/x"


async def test_it_begins_and_ends_on_open_connections(talk: TlsConversation) -> None:
    origin = await talk.origin()
    talk.serve(origin.endpoint(), host=WWW)
    client = await talk.client()
    await client.send(get(host=WWW))
    replica = await origin.peer()
    await replica.head()
    await replica.send(ok(b"ok"))
    await client.head()
    await client.expect(b"ok")
    lead(talk)
    assert await moved(client, get(host=WWW)) == b"http://acme.test/"
    talk.routes[WWW] = Route("gone", "acme", "app", deleted_at=1, redirect=APEX)
    talk.edge.reroute(WWW)
    await client.send(get("/", "Connection: close", host=WWW))
    assert list(statuses(await client.rest())) == [503]


async def test_a_removed_domain_is_served_nowhere_at_once(talk: TlsConversation) -> None:
    """404 at the next request of a connection that is open, alert 112 to those who come."""
    talk.shelf.put(WWW, pair(WWW))
    origin = await talk.origin()
    talk.serve(origin.endpoint(), host=WWW)
    context = trusting(pair(WWW))
    client, plain = await talk.secure(WWW, context), await talk.client()
    await client.send(get(host=WWW))
    replica = await origin.peer()
    for one in (client, plain):
        if one is plain:
            await one.send(get(host=WWW))
        await replica.head()
        await replica.send(ok(b"ok"))
        assert (await one.head()).startswith(b"HTTP/1.1 200 ")
        await one.exactly(2)
    del talk.routes[WWW]
    talk.edge.reroute(WWW)
    del talk.shelf.materials[WWW]
    talk.edge.recertify(WWW)
    for one in (client, plain):
        await one.send(get(host=WWW))
        head = await one.head()
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"error=destination_not_found" in head
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        await talk.secure(WWW, context)
    assert talk.failed("unknown_name") == 1


@pytest.mark.parametrize(
    ("route", "status"),
    [
        (None, 404),
        (Route("service-www.acme.test", "acme", "app", deleted_at=1), 503),
        (Route("another", "beta", "web"), 503),
        (Route("service-www.acme.test", "acme", "app", redirect=APEX), 503),
    ],
)
async def test_who_is_held_for_a_host_that_leads_there_no_more(
    talk: TlsConversation, route: Route | None, status: int
) -> None:
    """His request isn't for whoever has the host now. Others of the same service are held on."""
    talk.serve(host=WWW)
    talk.routes["other.test"] = talk.routes[WWW]
    leaving, staying = await talk.client(), await talk.client()
    await leaving.send(get("/", "Connection: close", host=WWW))
    await staying.send(get("/", "Connection: close", host="other.test"))
    await until(lambda: talk.held == 2)
    if route is None:
        del talk.routes[WWW]
    else:
        talk.routes[WWW] = route
    talk.edge.reroute("other.test")
    talk.edge.reroute(WWW)
    assert list(statuses(await leaving.rest())) == [status]
    assert talk.held == 1


async def test_a_resync_tells_them_as_well(talk: TlsConversation) -> None:
    talk.serve(host=WWW)
    client = await talk.client()
    await client.send(get("/", "Connection: close", host=WWW))
    await until(lambda: talk.held == 1)
    del talk.routes[WWW]
    talk.edge.resync()
    assert list(statuses(await client.rest())) == [404]
