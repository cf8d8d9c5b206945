"""The development CA: what OpenSSL thinks of it, and what it must never sign."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import (
    DAY,
    LEAF_LIFETIME,
    ROOT_LIFETIME,
    BadCertificate,
    Pair,
    make_leaf,
    make_root,
    signed_by,
    term,
)
from state.ids import now_us

NAMES = ("apps.example.com", "*.apps.example.com")


def parsed(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.encode())


def verify(tmp_path: Path, root: Pair, leaf: Pair, *options: str) -> str:
    (tmp_path / "ca.pem").write_text(root.certificate)
    (tmp_path / "leaf.pem").write_text(leaf.certificate)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", *options, tmp_path / "leaf.pem"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_a_chain_passes_openssls_strict_checks(tmp_path):
    root = make_root(now_us())
    leaf = make_leaf(root, NAMES, now_us())
    for host in ("apps.example.com", "web-acme.apps.example.com"):
        assert verify(tmp_path, root, leaf, "-purpose", "sslserver", "-verify_hostname", host) == ""
    assert "hostname mismatch" in verify(tmp_path, root, leaf, "-verify_hostname", "a.b.apps.example.com").lower()
    assert "purpose" in verify(tmp_path, root, leaf, "-purpose", "sslclient")
    assert verify(tmp_path, make_root(now_us()), leaf) != ""


def test_a_root_signs_leaves_and_nothing_else(tmp_path):
    now = now_us()
    root = make_root(now)
    certificate = parsed(root)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    leaf = make_leaf(root, NAMES, now)
    under = make_leaf(Pair(leaf.certificate, leaf.key), NAMES, now)  # a leaf that signs: no client may take it
    (tmp_path / "between.pem").write_text(leaf.certificate)
    assert "invalid CA" in verify(tmp_path, root, under, "-untrusted", str(tmp_path / "between.pem"))


def test_what_a_leaf_says():
    root, now = make_root(now_us()), now_us()
    one, two = (parsed(make_leaf(root, NAMES, now)) for _ in range(2))
    names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names.get_values_for_type(x509.DNSName)) == NAMES
    assert one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    own = one.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    of_root = parsed(root).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == of_root != own
    assert one.serial_number != two.serial_number
    assert one.serial_number.bit_length() > 64
    assert one.public_key() != two.public_key()


def test_lifetimes():
    now = now_us()
    root = make_root(now)
    assert term(root.certificate).not_after == pytest.approx(now + ROOT_LIFETIME, abs=1_000_000)
    assert term(root.certificate).not_before < now - DAY // 2
    leaf = term(make_leaf(root, NAMES, now).certificate)
    assert leaf.not_after == pytest.approx(now + LEAF_LIFETIME, abs=1_000_000)
    assert leaf.not_before < now - DAY // 48
    short = make_root(now, 30 * DAY)
    assert term(make_leaf(short, NAMES, now).certificate).not_after == term(short.certificate).not_after


def test_who_signed_it():
    root, other = make_root(now_us()), make_root(now_us())
    leaf = make_leaf(root, NAMES, now_us())
    assert signed_by(leaf.certificate, root.certificate)
    assert not signed_by(leaf.certificate, other.certificate)
    assert parsed(root).subject != parsed(other).subject


def test_python_takes_the_key(tmp_path):
    leaf = make_leaf(make_root(now_us()), NAMES, now_us())
    file = tmp_path / "both.pem"
    file.write_text(leaf.certificate + leaf.key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    assert "PRIVATE" not in repr(leaf)


@pytest.mark.parametrize("damaged", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_damage_is_told(damaged):
    root = make_root(now_us())
    with pytest.raises(BadCertificate):
        make_leaf(Pair(damaged, root.key), NAMES, now_us())
    with pytest.raises(BadCertificate):
        make_leaf(Pair(root.certificate, damaged), NAMES, now_us())
    with pytest.raises(BadCertificate):
        term(damaged)
