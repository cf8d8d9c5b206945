"""TLS-ALPN-01: the certificate that a certificate authority is shown, and that nothing else is to be had by it."""

from __future__ import annotations

import datetime
import hashlib
import ssl

import pytest
from cryptography import x509
from tls_parties import TlsConversation, TlsPeer, pair, trusting
from wire import get

from gateway.tls.contexts import Contexts
from gateway.tls.proofs import Proof, Proofs, certificate
from gateway.tls.sessions import SESSIONS
from state.certificates import Challenge, ChallengeAnswer

ACME = ["acme-tls/1"]
OID = "1.3.6.1.5.5.7.1.31"
NO_PROTOCOL = "alert no application protocol"  # 120


def alpn01(key_authorization: str = "token.thumbprint") -> Challenge:
    return Challenge((ChallengeAnswer("tls-alpn-01", "token", key_authorization),), 0)


def authority(*protocols: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The context of who looks: whatever certificate it is shown is looked at later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    context.set_alpn_protocols(list(protocols) or ACME)
    return context


def shown(peer: TlsPeer) -> x509.Certificate:
    der = peer.tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def check(found: x509.Certificate, name: str, key_authorization: str) -> None:
    """RFC 8737 3, as a certificate authority does."""
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [(type(one), one.value) for one in names] == [(x509.DNSName, name)]
    identifier = next(one for one in found.extensions if one.oid.dotted_string == OID)
    assert identifier.critical
    assert isinstance(identifier.value, x509.UnrecognizedExtension)
    assert identifier.value.value == b"\x04\x20" + hashlib.sha256(key_authorization.encode()).digest()
    found.verify_directly_issued_by(found)
    now = datetime.datetime.now(datetime.UTC)
    assert found.not_valid_before_utc < now < found.not_valid_after_utc


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["app.test", "new.test"])
async def test_the_certificate_of_a_challenge(talk: TlsConversation, name: str, newest: ssl.TLSVersion) -> None:
    """With a certificate of its own or without one; shown, and no more."""
    talk.edge.challenge(name, alpn01())
    for _ in range(2):
        peer = await talk.secure(name, authority(newest=newest))
        assert peer.tls.version() == newest.name.replace("_", ".")
        assert peer.tls.selected_alpn_protocol() == ACME[0]
        check(shown(peer), name, "token.thumbprint")
        assert await peer.rest() == b""
        assert peer.tls.session is None or not peer.tls.session.has_ticket
    assert talk.handshakes == {"handshakes": 0, "resumed": 0, "proved": 2, "failed": {}}
    assert talk.said == []


async def test_nothing_is_spoken(talk: TlsConversation) -> None:
    """Not even by a client that sends its request with the end of its handshake."""
    talk.edge.challenge("app.test", alpn01())
    origin = await talk.origin()
    talk.serve(origin.endpoint())
    peer = await talk.secure(context=authority())
    await peer.send(get())
    assert await peer.rest() == b""
    assert origin.connections == 0
    assert talk.count() == {}


async def test_without_a_challenge_it_is_refused(talk: TlsConversation) -> None:
    """Never with the certificate that serves."""
    talk.edge.challenge("new.test", Challenge((ChallengeAnswer("http-01", "token", "token.thumbprint"),), 0))
    for name in ("app.test", "new.test", "unknown.test"):
        with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
            await talk.secure(name, authority())
    assert talk.failed("no_challenge") == 3


async def test_others_get_the_certificate_that_serves(talk: TlsConversation) -> None:
    talk.edge.challenge("app.test", alpn01())
    for protocols in (["http/1.1"], ["http/1.1", "acme-tls/1"], ["acme-tls/1", "http/1.1"]):
        peer = await talk.secure(context=trusting(pair(), protocols=protocols))
        assert peer.shown() == pair().serial
        assert peer.tls.selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
        await talk.secure(context=authority("h2", "acme-tls/1"))
    peer = await talk.secure(context=trusting(pair()))
    assert peer.shown() == pair().serial


async def test_http01_over_tls(talk: TlsConversation) -> None:
    """Where a redirect, or a port that is passed on, has led the certificate authority."""
    talk.edge.challenge("app.test", Challenge((ChallengeAnswer("http-01", "token", "token.thumbprint"),), 0))
    peer = await talk.secure()
    await peer.send(get("/.well-known/acme-challenge/token", "Connection: close", host="app.test:443"))
    assert (await peer.rest()).endswith(b"\r\n\r\ntoken.thumbprint")


async def test_another_key_authorization_is_another_certificate(talk: TlsConversation) -> None:
    talk.edge.challenge("app.test", alpn01())
    check(shown(await talk.secure(context=authority())), "app.test", "token.thumbprint")
    talk.edge.challenge("app.test", alpn01("second.thumbprint"))
    check(shown(await talk.secure(context=authority())), "app.test", "second.thumbprint")
    talk.edge.challenge("app.test", None)
    with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
        await talk.secure(context=authority())


async def test_no_session_leads_anywhere(talk: TlsConversation) -> None:
    """TLS 1.2 gives one all the same: it resumes nothing where the name is served, and the other way round."""
    talk.edge.challenge("app.test", alpn01())
    context = authority(newest=ssl.TLSVersion.TLSv1_2)
    peer = await talk.secure(context=context)
    session = peer.tls.session
    assert session is not None
    context.set_alpn_protocols(["http/1.1"])
    served = await talk.secure(context=context, session=session)
    assert not served.tls.session_reused
    assert served.shown() == pair().serial
    session = served.tls.session
    context.set_alpn_protocols(ACME)
    proof = await talk.secure(context=context, session=session)
    assert not proof.tls.session_reused
    check(shown(proof), "app.test", "token.thumbprint")


async def test_what_is_remembered_is_bounded() -> None:
    names = {f"{number}.test": hashlib.sha256(b"%d" % number).digest() for number in range(6)}
    contexts: Contexts[Proof] = Contexts(Proofs(names.get), print, lambda _: True, limit=4)
    for name in names:
        assert await contexts.load(name) is not None
    assert len(contexts) == 4
    assert SESSIONS < 1000
    names.clear()
    assert contexts.ready("5.test") is None
    contexts.forget("5.test")
    assert len(contexts) == 3
    contexts.close()


def test_a_new_digest_is_a_new_version() -> None:
    one, two = Proof("app.test", b"\0" * 32), Proof("app.test", b"\1" * 32)
    assert one.version != two.version
    context = one.context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 0


def test_two_certificates_share_no_key() -> None:
    now = datetime.datetime.now(datetime.UTC)
    one, two = (x509.load_pem_x509_certificate(certificate("app.test", b"\0" * 32, now)) for _ in range(2))
    assert one.public_key() != two.public_key()
    assert one.serial_number != two.serial_number
