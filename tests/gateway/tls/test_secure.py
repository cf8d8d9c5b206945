"""HTTPS manners: redirects, HSTS, and requests for another host than the handshake's."""

from __future__ import annotations

import os
from ipaddress import ip_network

import pytest
from tls_parties import TlsConversation, TlsPeer, TlsStarter, pair, trusting
from wire import Peer, fields, get, log_pipe, ok, until


async def served(talk: TlsConversation, client: Peer | TlsPeer, data: bytes, answer: bytes) -> dict[bytes, list[bytes]]:
    """Send a request through to a replica; the fields of the answer."""
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    await client.send(data)
    peer = await origin.peer()
    await peer.head()
    await peer.send(answer)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    await client.exactly(2)
    return fields(head)


async def redirected(talk: TlsConversation, data: bytes) -> bytes:
    """Location of the 308."""
    client = await talk.client()
    await client.send(data)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n"), head
    found = fields(head)
    assert found[b"proxy-status"] == [b'wakegate; details="served over https"']
    assert b"error" not in found[b"proxy-status"][0]
    assert len(await client.exactly(int(found[b"content-length"][0]))) > 0
    return found[b"location"][0]


@pytest.mark.parametrize("host", ["app.test", "APP.test", "app.test:8443", "app.test."])
async def test_the_hosts_own_spellings_are_served(talk: TlsConversation, host: str) -> None:
    client = await talk.secure()
    await served(talk, client, get(host=host), ok(b"ok"))


async def test_another_host_is_misdirected_and_the_connection_stays(talk: TlsConversation) -> None:
    client = await talk.secure()
    await client.send(get(host="other.test"))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    found = fields(head)
    assert found[b"proxy-status"][0].startswith(b"wakegate; error=http_request_error;")
    assert b"connection" not in found
    await client.exactly(int(found[b"content-length"][0]))
    await served(talk, client, get(), ok(b"ok"))
    await client.send(get(host="app.test.evil"))
    assert (await client.head()).startswith(b"HTTP/1.1 421 ")


async def test_a_misdirected_body_is_not_taken_for_a_request(talk: TlsConversation) -> None:
    client = await talk.secure()
    body = get("/smuggled")
    await client.send(get("/", f"Content-Length: {len(body)}", host="other.test", method="POST") + body)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 421 ")
    assert fields(head)[b"connection"] == [b"close"]
    assert b"HTTP/1.1" not in await client.rest()


async def test_absolute_form_counts(talk: TlsConversation) -> None:
    client = await talk.secure()
    await client.send(get("https://other.test/"))
    assert (await client.head()).startswith(b"HTTP/1.1 421 ")


async def test_names_under_a_wildcard_are_not_one_another(talk: TlsConversation) -> None:
    talk.shelf.put("*.apps.test", pair("*.apps.test"))
    client = await talk.secure("one.apps.test", trusting(pair("*.apps.test")))
    await client.send(get(host="two.apps.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 421 ")


async def test_hsts_is_off_by_itself(talk: TlsConversation) -> None:
    assert b"strict-transport-security" not in await served(talk, await talk.secure(), get(), ok(b"ok"))


async def test_hsts(secured: TlsStarter) -> None:
    talk = await secured(hsts=31536000, https_redirect="off")
    client = await talk.secure()
    found = await served(talk, client, get(), ok(b"ok"))
    assert found[b"strict-transport-security"] == [b"max-age=31536000"]
    await client.send(get(host="other.test"))
    assert fields(await client.head())[b"strict-transport-security"] == [b"max-age=31536000"]
    plain = await talk.client()
    assert b"strict-transport-security" not in await served(talk, plain, get(), ok(b"ok"))


async def test_hsts_of_the_replica_stays_alone(secured: TlsStarter) -> None:
    talk = await secured(hsts=31536000)
    answer = ok(b"ok", "strict-Transport-Security: max-age=0; includeSubDomains")
    found = await served(talk, await talk.secure(), get(), answer)
    assert found[b"strict-transport-security"] == [b"max-age=0; includeSubDomains"]


async def test_auto_redirects_trusted_certificates_of_custom_domains_only(secured: TlsStarter) -> None:
    talk = await secured(domain="apps.test")
    talk.serve()
    for host, trusted in (("www.acme.test", True), ("own.test", False), ("x.apps.test", True), ("apps.test", True)):
        talk.shelf.put(host, pair(), trusted=trusted)
    assert await redirected(talk, get("/a?b=c", host="www.acme.test")) == b"https://www.acme.test/a?b=c"
    assert await redirected(talk, get("/", host="WWW.acme.test:8080")) == b"https://www.acme.test/"
    for host in ("own.test", "x.apps.test", "apps.test", "unknown.test"):
        client = await talk.client()
        await client.send(get(host=host))
        assert (await client.head()).startswith(b"HTTP/1.1 404 ")


async def test_on_redirects_whatever_has_a_certificate(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on", domain="apps.test", public_https_port=8443)
    talk.shelf.put("*.apps.test", pair())
    assert await redirected(talk, get(host="app.test")) == b"https://app.test:8443/"
    assert await redirected(talk, get(host="x.apps.test:80")) == b"https://x.apps.test:8443/"
    client = await talk.client()
    await client.send(get(host="unknown.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 404 ")


async def test_off_redirects_nothing(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="off")
    talk.shelf.put("app.test", pair(), trusted=True)
    await served(talk, await talk.client(), get(), ok(b"ok"))


async def test_over_https_nothing_is_redirected(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on")
    await served(talk, await talk.secure(), get(), ok(b"ok"))


async def test_challenges_are_never_redirected(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on")
    await served(talk, await talk.client(), get("/.well-known/acme-challenge/token"), ok(b"ok"))


async def test_what_a_trusted_proxy_took_tls_off_is_not_redirected(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on", trusted_proxies=(ip_network("127.0.0.0/8"),))
    await served(talk, await talk.client(), get("/", "X-Forwarded-Proto: https"), ok(b"ok"))
    assert await redirected(talk, get("/", "X-Forwarded-Proto: http")) == b"https://app.test/"


async def test_who_is_not_trusted_says_nothing_about_the_scheme(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on")
    assert await redirected(talk, get("/", "X-Forwarded-Proto: https")) == b"https://app.test/"


async def test_a_body_that_is_redirected_is_not_read(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on")
    assert (
        await redirected(talk, get("/", "Content-Length: 100000", method="POST") + bytes(5000)) == b"https://app.test/"
    )


async def test_a_certificate_that_comes_or_goes_counts_at_once(secured: TlsStarter) -> None:
    talk = await secured(https_redirect="on")
    talk.serve()
    client = await talk.client()
    await client.send(get(host="new.test"))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 404 ")
    talk.shelf.put("new.test", pair())
    talk.edge.recertify("new.test")
    assert await redirected(talk, get(host="new.test")) == b"https://new.test/"
    del talk.shelf.materials["new.test"]
    talk.edge.recertify("new.test")
    client = await talk.client()
    await client.send(get(host="new.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 404 ")


async def test_the_access_log_knows_redirects(secured: TlsStarter) -> None:
    reading, writing = log_pipe()
    talk = await secured(log_fd=writing, https_redirect="on")
    await redirected(talk, get("/x"))
    await until(lambda: talk.edge.counters()["services"][""]["requests"] == {"308": 1})
    talk.log.flush()
    line = os.read(reading, 65536).decode()
    assert '"status":308' in line
    assert '"path":"/x"' in line
