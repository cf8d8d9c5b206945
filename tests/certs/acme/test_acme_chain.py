"""Chains: how they are taken apart, and what is refused."""

from __future__ import annotations

import base64
import functools

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import example, given
from hypothesis import strategies as st

from certs.acme.chain import CERTIFICATES, BadChain, check, describe, joined, split
from certs.acme.csr import csr
from certs.acme.errors import AcmeError
from certs.authority import DAY, Pair, make_leaf, make_root

NOW = 1_750_000_000_000_000
NAMES = ("a.test", "*.a.test")


@functools.cache
def root() -> Pair:
    return make_root(NOW)


@functools.cache
def leaf() -> Pair:
    return make_leaf(root(), NAMES, NOW, 10 * DAY)


def public(pair: Pair) -> ec.EllipticCurvePublicKey:
    key = load_pem_private_key(pair.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.public_key()


def chain() -> str:
    return leaf().certificate + root().certificate


def test_a_chain_that_is_as_it_should_be():
    found = check(chain(), public(leaf()), ["A.test"], NOW)
    assert found.names == NAMES
    assert found.issuer.startswith("Wakegate development CA")
    assert found.not_after == NOW // 1_000_000 * 1_000_000 + 10 * DAY
    assert found.identifier is not None
    assert check(leaf().certificate, public(leaf()), NAMES, NOW) == found


@pytest.mark.parametrize(
    ("pem", "key", "names", "now", "why"),
    [
        (chain, lambda: public(root()), NAMES, NOW, "another key"),
        (chain, lambda: public(leaf()), ("b.test",), NOW, "not for b.test"),
        (chain, lambda: public(leaf()), ("x.a.test",), NOW, "not for x.a.test"),
        (chain, lambda: public(leaf()), NAMES, NOW + 11 * DAY, "ended"),
        (lambda: root().certificate + leaf().certificate, lambda: public(leaf()), NAMES, NOW, "another key"),
        (lambda: leaf().certificate * 2, lambda: public(leaf()), NAMES, NOW, "can't be read"),
        (lambda: leaf().certificate + make_root(NOW).certificate, lambda: public(leaf()), NAMES, NOW, "can't be read"),
        (lambda: leaf().certificate * (CERTIFICATES + 1), lambda: public(leaf()), NAMES, NOW, "more than"),
        (lambda: leaf().key, lambda: public(leaf()), NAMES, NOW, "can't be read"),
        (lambda: "", lambda: public(leaf()), NAMES, NOW, "can't be read"),
    ],
    ids=["key", "name", "wildcard", "ended", "order", "twice", "other root", "many", "no certificate", "empty"],
)
def test_what_is_refused(pem, key, names, now, why):
    with pytest.raises(BadChain, match=why):
        check(pem(), key(), names, now)


def test_only_certificates_are_kept_of_what_came():
    mixed = "Subject: x\n" + leaf().certificate + "\n# and\n" + root().certificate
    assert joined(split(mixed.encode())) == chain()
    assert "PRIVATE" not in joined(split((leaf().key + leaf().certificate).encode()))


def test_a_root_has_no_names():
    with pytest.raises(BadChain):
        describe(x509.load_pem_x509_certificate(root().certificate.encode()))


@given(st.integers(0, 2000), st.integers(1, 255))
@example(927, 128)
def test_a_byte_that_is_another_is_a_bad_chain_or_changes_nothing(position, change):
    der = bytearray(x509.load_pem_x509_certificate(leaf().certificate.encode()).public_bytes(Encoding.DER))
    der[position % len(der)] ^= change
    body = base64.encodebytes(bytes(der)).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n" + root().certificate
    with pytest.raises(BadChain):
        check(pem, public(leaf()), NAMES, NOW)


@given(st.binary())
def test_bytes_are_a_chain_or_an_acme_error(data):
    with pytest.raises(AcmeError):
        split(data)


def test_a_request_for_a_certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.load_der_x509_csr(csr(NAMES, key))
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert list(request.subject) == []
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names.get_values_for_type(x509.DNSName)) == NAMES


@pytest.mark.parametrize("names", [[], ["bücher.test"]])
def test_a_request_without_names_or_with_unfit_ones(names):
    with pytest.raises(ValueError):
        csr(names, ec.generate_private_key(ec.SECP256R1()))
