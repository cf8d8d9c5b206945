"""What owners may give us as the certificate of a domain, and what is said of what they may not."""

from __future__ import annotations

import base64
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.uploads import CERTIFICATE, KEY, Refused, covers, read
from gateway.tls.contexts import Material, build
from state.ids import now_us
from tests import chains
from tests.chains import DAYS, NOW, authority, issue, key_pem

DOMAIN = "www.acme.com"
ROOT = authority()
MIDDLE = authority("middle", ROOT)
LEAF = issue([DOMAIN], MIDDLE)
CHAIN = LEAF.pem + MIDDLE.pem


def client_of(root: chains.Issued) -> ssl.SSLContext:
    """One that knows this root and no other."""
    return ssl.create_default_context(cadata=root.pem)


CLIENT, STRANGER = client_of(ROOT), client_of(authority("of others"))


def refusal(chain: str, key: str, domain: str = DOMAIN) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        read(domain, chain, key, now_us(), CLIENT)
    assert "BEGIN" not in str(refused.value).replace("-----BEGIN CERTIFICATE-----", "").replace(
        "-----BEGIN PRIVATE KEY-----", ""
    )
    return dict(refused.value.reasons)


def serve(chain: str, key: str) -> None:
    """As a worker does."""
    build(Material(DOMAIN, 1, chain.encode(), key.encode))


@pytest.mark.parametrize("kind", [chains.p256, chains.p384, chains.rsa_of(2048), chains.rsa_of(4096)])
def test_a_chain_and_its_key_are_read_and_can_be_served(kind):
    leaf = issue(["acme.com", "WWW.acme.com", "*.shop.acme.com"], MIDDLE, key=kind())
    given = read(DOMAIN, leaf.pem + MIDDLE.pem, leaf.key_pem, now_us(), CLIENT)
    assert given.names == (DOMAIN, "acme.com", "*.shop.acme.com")
    assert given.trusted
    assert given.chain == leaf.pem + MIDDLE.pem
    assert 0 < given.not_after - now_us() < 91 * 86_400_000_000
    serve(given.chain, given.key)
    assert "PRIVATE" not in repr(given)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_keys_come_in_both_forms_and_texts_with_words_around(form):
    chain = f"subject=CN = leaf\n{LEAF.pem}\r\n\nissuer: middle\n{MIDDLE.pem}".replace("\n", "\r\n")
    given = read(DOMAIN, chain, "Bag Attributes\n" + key_pem(LEAF.key, form), now_us(), STRANGER)
    assert given.chain == CHAIN
    assert given.key == LEAF.key_pem
    assert not given.trusted


@pytest.mark.parametrize(
    ("chain", "root", "trusted"),
    [
        (CHAIN, ROOT, True),
        (CHAIN + ROOT.pem, ROOT, True),
        (LEAF.pem, ROOT, False),  # a client has no way to its root
        (CHAIN, authority("other"), False),
    ],
)
def test_trusted_is_what_a_client_would_say(chain, root, trusted):
    given = read(DOMAIN, chain, LEAF.key_pem, now_us(), client_of(root))
    assert given.trusted is trusted


def test_one_that_signed_itself_is_taken_and_not_trusted():
    for leaf in (issue([DOMAIN]), issue([DOMAIN], ca=True, usage=None), issue([DOMAIN], digest=hashes.SHA384())):
        given = read(DOMAIN, leaf.pem, leaf.key_pem, now_us(), CLIENT)
        assert not given.trusted
        serve(given.chain, given.key)


def test_what_is_wrong_with_both_is_told_at_once():
    reasons = refusal("nothing", "nothing")
    assert set(reasons) == {CERTIFICATE, KEY}
    assert "in PEM" in reasons[CERTIFICATE]
    assert "private key in PEM" in reasons[KEY]


damaged = CHAIN.replace("MI", "IM", 1)
long_ended = authority("old", ROOT, end=NOW - DAYS, start=NOW - 9 * DAYS)
CHAINS = {
    "empty": ("", "in PEM"),
    "damaged": (damaged, "damaged"),
    "no base64": ("-----BEGIN CERTIFICATE-----\nä\n-----END CERTIFICATE-----", "damaged"),
    "with its key": (CHAIN + LEAF.key_pem, "private key in it"),
    "eleven": (LEAF.pem + MIDDLE.pem * 10, "10 is the most"),
    "other order": (MIDDLE.pem + LEAF.pem, "was not issued by the next"),
    "a gap": (LEAF.pem + ROOT.pem, "certificate 1 was not issued by the next"),
    "twice": (LEAF.pem + LEAF.pem + MIDDLE.pem, "certificate 2 is certificate 1 again"),
    "its issuer twice": (CHAIN + MIDDLE.pem, "certificate 3 is certificate 2 again"),
}


@pytest.mark.parametrize("what", CHAINS)
def test_chains_that_can_t_be_served(what):
    chain, told = CHAINS[what]
    assert told in refusal(chain, LEAF.key_pem)[CERTIFICATE] or told in str(refusals(chain))


def refusals(chain: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        read(DOMAIN, chain, LEAF.key_pem, now_us(), STRANGER)
    return [why for _, why in refused.value.reasons]


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
LEAVES = {
    "another name": (issue(["acme.com"], MIDDLE), "the names in it: acme.com"),
    "no name": (issue([], MIDDLE, name=DOMAIN), "the names in it: none"),
    "a wildcard of two labels": (issue(["*.com"], MIDDLE), "is not for www.acme.com"),
    "ended": (issue([DOMAIN], MIDDLE, start=NOW - 9 * DAYS, end=NOW - DAYS), "certificate 1 ended at"),
    "not begun": (issue([DOMAIN], MIDDLE, start=NOW + DAYS), "begins at"),
    "for clients": (issue([DOMAIN], MIDDLE, usage=ExtendedKeyUsageOID.CLIENT_AUTH), "not for TLS servers"),
    "must-staple": (
        issue([DOMAIN], MIDDLE, more=[x509.TLSFeature([x509.TLSFeatureType.status_request])]),
        "must-staple",
    ),
    "no signatures": (issue([DOMAIN], MIDDLE, allowed=chains.SIGNS_CERTIFICATES), "key usage without digitalSignature"),
    "an authority": (issue([DOMAIN], MIDDLE, ca=True), "one of an authority (CA:TRUE)"),
    "critical and unknown": (issue([DOMAIN], MIDDLE, critical=[UNKNOWN]), "certificate 1 has a critical extension"),
    "a precertificate": (issue([DOMAIN], MIDDLE, critical=[x509.PrecertPoison()]), "(1.3.6.1.4.1.11129.2.4.3)"),
    "a short key": (issue([DOMAIN], MIDDLE, key=chains.rsa_of(1024)()), "RSA of 1024 bits"),
    "another curve": (issue([DOMAIN], MIDDLE, key=chains.p521()), "of a kind that is not served"),
    "no ECDSA": (issue([DOMAIN], MIDDLE, key=ed25519.Ed25519PrivateKey.generate()), "of a kind that is not served"),
}


@pytest.mark.parametrize("what", LEAVES)
def test_certificates_that_clients_would_refuse(what):
    leaf, told = LEAVES[what]
    with pytest.raises(Refused) as refused:
        read(DOMAIN, leaf.pem + MIDDLE.pem, leaf.key_pem, now_us(), STRANGER)
    assert any(field == CERTIFICATE and told in why for field, why in refused.value.reasons), refused.value.reasons


def test_one_that_signed_itself_is_refused_for_the_same_faults():
    authority_only = issue([DOMAIN], ca=True, allowed=chains.SIGNS_CERTIFICATES)
    assert "digitalSignature" in refusal(authority_only.pem, authority_only.key_pem)[CERTIFICATE]
    twice = issue([DOMAIN])
    assert "certificate 2 is certificate 1 again" in refusal(twice.pem * 2, twice.key_pem)[CERTIFICATE]


def test_an_issuer_with_an_unknown_critical_extension_is_told_by_its_place():
    odd = authority("odd", ROOT, critical=[UNKNOWN])
    leaf = issue([DOMAIN], odd)
    assert "certificate 2 has a critical extension" in refusal(leaf.pem + odd.pem, leaf.key_pem)[CERTIFICATE]


def test_what_clients_know_and_what_is_not_critical_is_no_fault():
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)])
    leaf = issue([DOMAIN], MIDDLE, allowed=chains.SIGNS_HANDSHAKES, critical=[policies], more=[UNKNOWN])
    assert read(DOMAIN, leaf.pem + MIDDLE.pem, leaf.key_pem, now_us(), CLIENT).trusted


def test_a_chain_that_is_signed_with_a_digest_of_old_is_told_so():
    """No library signs with it any more: the names of the digests are changed in a certificate with a newer one."""
    signer = authority("rsa", key=chains.rsa_of(2048)())
    itself = issue([DOMAIN], key=chains.rsa_of(2048)())
    for leaf, rest in ((issue([DOMAIN], signer), signer.pem), (itself, "")):
        for digest, name in (("05", "sha1"), ("04", "md5")):
            reason = refusal(signed_with(leaf, digest) + rest, leaf.key_pem)[CERTIFICATE]
            assert reason == f"certificate 1 is signed with {name}, which clients refuse"
    fine = issue([DOMAIN], signer)
    assert read(DOMAIN, fine.pem + signed_with(signer, "05"), fine.key_pem, now_us(), CLIENT).names == (DOMAIN,)


def signed_with(issued: chains.Issued, digest: str) -> str:
    sha256, old = (bytes.fromhex(f"2a864886f70d0101{number}") for number in ("0b", digest))
    der = issued.certificate.public_bytes(Encoding.DER).replace(sha256, old)
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def test_an_issuer_that_has_ended_is_told_by_its_place():
    leaf = issue([DOMAIN], long_ended)
    assert "certificate 2 ended" in refusal(leaf.pem + long_ended.pem, leaf.key_pem)[CERTIFICATE]


def test_every_fault_is_named():
    leaf = issue(["acme.com"], MIDDLE, start=NOW - 9 * DAYS, end=NOW - DAYS, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    with pytest.raises(Refused) as refused:
        read(DOMAIN, leaf.pem + ROOT.pem, key_pem(LEAF.key, password=b"x"), now_us(), STRANGER)
    assert len(refused.value.reasons) == 5
    assert [field for field, _ in refused.value.reasons].count(KEY) == 1


KEYS = {
    "another": (chains.p256(), None, "is not the key of the certificate"),
    "another kind": (chains.rsa_of(2048)(), None, "is not the key of the certificate"),
    "encrypted": (LEAF.key, b"secret", "is encrypted: send it without a password"),
    "short": (chains.rsa_of(1024)(), None, "of a kind that is not served"),
    "curve": (chains.p521(), None, "of a kind that is not served"),
    "ed25519": (ed25519.Ed25519PrivateKey.generate(), None, "of a kind that is not served"),
}


@pytest.mark.parametrize("what", KEYS)
def test_keys_that_can_t_be_served(what):
    key, password, told = KEYS[what]
    assert told in refusal(CHAIN, key_pem(key, password=password))[KEY]


def test_a_serial_number_that_is_negative_is_not_served():
    der = LEAF.certificate.public_bytes(Encoding.DER)
    serial = der.index(b"\xa0\x03\x02\x01\x02\x02") + 7  # behind the version: tag, length, number (RFC 5280 4.1)
    damaged = der[:serial] + bytes([der[serial] | 0x80]) + der[serial + 1 :]
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(damaged).decode()}-----END CERTIFICATE-----\n"
    assert "can't be read" in refusal(pem + MIDDLE.pem, LEAF.key_pem)[CERTIFICATE]


def test_keys_that_are_damaged_say_no_more_than_that():
    rsa = chains.rsa_of(2048)()
    traditional = key_pem(rsa, PrivateFormat.TraditionalOpenSSL, b"secret")
    assert "is encrypted" in refusal(CHAIN, traditional)[KEY]
    for text in (LEAF.key_pem.replace("M", "N", 3), "-----BEGIN PRIVATE KEY-----\nä\n-----END PRIVATE KEY-----"):
        assert refusal(CHAIN, text)[KEY] == "can't be read: it is damaged, or of a kind that is not served"
    assert "more than one" in refusal(CHAIN, LEAF.key_pem * 2)[KEY]
    numbers = rsa.private_numbers()
    assert numbers.d.to_bytes(256, "big").hex() not in refusal(CHAIN, key_pem(rsa))[KEY]


@pytest.mark.parametrize(
    ("name", "domain", "whether"),
    [
        ("www.acme.com", "www.acme.com", True),
        ("*.acme.com", "www.acme.com", True),
        ("*.acme.com", "acme.com", False),
        ("*.acme.com", "a.www.acme.com", False),
        ("*acme.com", "wwwacme.com", False),
        ("w*.acme.com", "www.acme.com", False),
        ("acme.com", "www.acme.com", False),
    ],
)
def test_a_wildcard_stands_for_one_label(name, domain, whether):
    assert covers(name, domain) is whether
