"""Sessions resume at the name that they were begun at, also under one wildcard; names without a route cost the others
nothing. What OpenSSL does with tickets and session ids is seen from the client's end.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import ssl
import weakref

import pytest
from tls_parties import TlsConversation, TlsPeer, pair, trusting
from wire import get, ok, until

from gateway.tls.contexts import Material, build
from gateway.tls.sessions import SESSIONS, Sessions

WILDCARD = "*.apps.test"
ONE, TWO = "one-acme.apps.test", "one-beta.apps.test"
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [
        pytest.param(TLS12, True, id="tls1.2-tickets"),
        pytest.param(TLS12, False, id="tls1.2-ids"),
        pytest.param(TLS13, True, id="tls1.3"),
        pytest.param(TLS13, False, id="tls1.3-without-ticket-extension"),
    ],
)


def client_of(version: ssl.TLSVersion, tickets: bool = True) -> ssl.SSLContext:
    context = trusting(pair(WILDCARD), pair(WILDCARD, number=1), pair("own.apps.test"))
    context.minimum_version = context.maximum_version = version
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    return context


@pytest.fixture
def under(talk: TlsConversation) -> TlsConversation:
    """Two tenants' services under one wildcard, and one that has its own certificate."""
    talk.shelf.put(WILDCARD, pair(WILDCARD))
    talk.shelf.put("own.apps.test", pair("own.apps.test"))
    for name in (ONE, TWO, "own.apps.test"):
        talk.serve(host=name)
    return talk


async def begun(talk: TlsConversation, name: str, context: ssl.SSLContext) -> TlsPeer:
    """A connection after its first answer: by then TLS 1.3 has sent its tickets."""
    client = await talk.secure(name, context)
    await client.send(get("/", host="elsewhere.test"))
    assert (await client.head()).startswith(b"HTTP/1.1 421 ")
    return client


async def resumed(talk: TlsConversation, name: str, context: ssl.SSLContext, of: TlsPeer) -> bool:
    before = talk.handshakes["resumed"]
    assert isinstance(before, int)
    client = await talk.secure(name, context, of.tls.session)
    assert client.shown() == pair("own.apps.test" if name.lower() == "own.apps.test" else WILDCARD).serial
    reused = client.tls.session_reused
    assert reused is not None
    await until(lambda: talk.handshakes["resumed"] == before + reused)
    return reused


@KINDS
@pytest.mark.parametrize(("name", "other"), [(ONE, TWO), (TWO, ONE), (ONE, "own.apps.test"), ("own.apps.test", ONE)])
async def test_at_the_same_name_only(
    under: TlsConversation, version: ssl.TLSVersion, tickets: bool, name: str, other: str
) -> None:
    context = client_of(version, tickets)
    await begun(under, other, context)
    first = await begun(under, name, context)
    assert not await resumed(under, other, context, first)
    assert await resumed(under, name, context, first)
    assert await resumed(under, name.upper(), context, first)


@KINDS
async def test_names_without_a_route_are_served_and_resume_nothing(
    under: TlsConversation, version: ssl.TLSVersion, tickets: bool
) -> None:
    context = client_of(version, tickets)
    routed = await begun(under, ONE, context)
    for at in range(3):
        stranger = await begun(under, f"stranger-{at}.apps.test", context)
        if stranger.tls.session is not None:
            for name in (ONE, f"stranger-{at}.apps.test", "stranger-9.apps.test"):
                assert not await resumed(under, name, context, stranger)
        assert not await resumed(under, f"stranger-{at}.apps.test", context, routed)
    assert await resumed(under, ONE, context, routed)
    # A name that gets its route resumes from its next handshake on.
    under.serve(host="stranger-0.apps.test")
    first = await begun(under, "stranger-0.apps.test", context)
    assert await resumed(under, "stranger-0.apps.test", context, first)


@KINDS
async def test_a_new_certificate_resumes_nothing_of_the_old(
    under: TlsConversation, version: ssl.TLSVersion, tickets: bool
) -> None:
    context = client_of(version, tickets)
    first = await begun(under, ONE, context)
    under.shelf.put(WILDCARD, pair(WILDCARD, number=1), version=2)
    under.edge.recertify(WILDCARD)
    again = await under.secure(ONE, context, first.tls.session)
    assert not again.tls.session_reused
    assert again.shown() == pair(WILDCARD, number=1).serial


async def test_a_request_under_a_wildcard_from_hello_to_answer(under: TlsConversation) -> None:
    origin = await under.origin()
    under.serve(origin.endpoint(), host=ONE)
    context = trusting(pair(WILDCARD), protocols=["h2", "http/1.1"])
    client = await under.secure(ONE, context)
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    await client.send(get("/", host=ONE))
    await (peer := await origin.peer()).head()
    await peer.send(ok(b"hello"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert await client.exactly(5) == b"hello"


# The keeper alone


def certificate(number: int = 0) -> ssl.SSLContext:
    of = pair(WILDCARD, number=number) if number else pair(WILDCARD)
    return build(Material(WILDCARD, 1, of.chain, lambda: of.key))


def routed(name: str) -> bool:
    return not name.startswith("stranger")


class Between:
    """Both ends of a handshake in memory."""

    def __init__(self, context: ssl.SSLContext, name: str, client: ssl.SSLContext) -> None:
        self.to_client = ssl.MemoryBIO()
        to_server = ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, to_server, server_hostname=name)
        self.server = context.wrap_bio(to_server, self.to_client, server_side=True)

    def step(self, side: ssl.SSLObject) -> bool:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def run(self) -> Between:
        while not (self.step(self.client) & self.step(self.server)):
            pass
        with contextlib.suppress(ssl.SSLWantReadError):
            self.server.unwrap()  # else OpenSSL takes the session for a broken one
        return self


def test_strangers_take_one_place_and_push_nobody_out() -> None:
    sessions, of = Sessions(routed, limit=3), certificate()
    one, two = (sessions.begin(name, WILDCARD, of) for name in (ONE, TWO))
    for version in (TLS13, TLS12):
        client = client_of(version, tickets=False)
        for at in range(20):
            name = f"stranger-{at}.apps.test"
            Between(sessions.begin(name, WILDCARD, of), name, client).run()
            assert len(sessions) == 3
    assert sessions.begin(ONE, WILDCARD, of) is one
    assert sessions.begin(TWO, WILDCARD, of) is two


def test_strangers_without_sessions_share_a_context_and_the_rest_is_used_once() -> None:
    sessions, of = Sessions(routed), certificate()
    first = sessions.begin("stranger-1.apps.test", WILDCARD, of)
    Between(first, "stranger-1.apps.test", client_of(TLS13)).run()
    assert sessions.begin("stranger-2.apps.test", WILDCARD, of) is first
    Between(first, "stranger-2.apps.test", client_of(TLS12)).run()
    assert sessions.begin("stranger-2.apps.test", WILDCARD, of) is not first


def test_the_longest_unused_goes_first() -> None:
    sessions, of = Sessions(routed, limit=2), certificate()
    a, b = (sessions.begin(name, WILDCARD, of) for name in ("a.apps.test", "b.apps.test"))
    assert sessions.begin("a.apps.test", WILDCARD, of) is a
    sessions.begin("c.apps.test", WILDCARD, of)
    assert len(sessions) == 2
    assert sessions.begin("a.apps.test", WILDCARD, of) is a
    assert sessions.begin("b.apps.test", WILDCARD, of) is not b


def test_another_certificate_is_begun_anew_and_forgotten_ones_are_let_go() -> None:
    sessions = Sessions(routed)
    old, new = certificate(), certificate(1)
    first = sessions.begin(ONE, WILDCARD, old)
    assert sessions.begin(ONE, WILDCARD, new) is not first
    assert len(sessions) == 1
    sessions.begin("other.test", "*.test", old)
    sessions.forget(WILDCARD)
    assert len(sessions) == 1


def test_sessions_of_clients_without_tickets_are_bounded() -> None:
    sessions, of, client = Sessions(routed), certificate(), client_of(TLS12, tickets=False)
    first = sessions.begin(ONE, WILDCARD, of)
    for _ in range(SESSIONS):
        Between(first, ONE, client).run()
        sessions.relieve(ONE)
    assert sessions.begin(ONE, WILDCARD, of) is first
    Between(first, ONE, client).run()
    sessions.relieve(ONE)
    assert sessions.begin(ONE, WILDCARD, of) is not first


def test_a_second_hello_finds_its_context_although_it_was_let_go() -> None:
    """RFC 8446 4.1.4: the client guessed a group that we don't take, and says everything again."""
    sessions = Sessions(routed)
    context = sessions.begin(ONE, WILDCARD, certificate())
    context.set_ecdh_curve("secp384r1")
    between = Between(context, ONE, client_of(TLS13))
    assert not between.step(between.client)
    assert not between.step(between.server)
    retry = between.to_client.read()
    assert hashlib.sha256(b"HelloRetryRequest").digest() in retry
    between.to_client.write(retry)
    alive = weakref.ref(context)
    del context
    sessions.forget(WILDCARD)
    gc.collect()
    assert alive() is not None  # OpenSSL calls back into it, and wouldn't know that it is gone
    between.run()
    assert between.server.version() == "TLSv1.3"
