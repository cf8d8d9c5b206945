"""The internal development CA: certificates that nobody trusts until he was told to (`wakegate trust`, `--cacert`).

Keys are ECDSA P-256. The root may sign leaves and nothing else (RFC 5280: CA:TRUE with pathLenConstraint 0,
keyCertSign); leaves are for TLS servers (serverAuth), at most as long as the root lasts. Times are microseconds;
nothing here reads a clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY: Final = 86_400 * 1_000_000  # µs
ROOT_LIFETIME: Final = 3652 * DAY
LEAF_LIFETIME: Final = 90 * DAY
# They count from before they were made: the clocks of clients differ, and the one that made them may have been set.
_ROOT_EARLIER: Final = DAY
_LEAF_EARLIER: Final = DAY // 24


class BadCertificate(ValueError):
    """What should be a certificate or its key is not."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (PEM) and its key (PEM of PKCS#8, in the clear: never stored or shown like this)."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Pair(…)"


@dataclass(frozen=True, slots=True)
class Term:
    """How long a certificate counts; both ends included."""

    not_before: int
    not_after: int


def make_root(now: int, lifetime: int = ROOT_LIFETIME) -> Pair:
    """A new root. Its name ends in digits of its key, so that clients that know several tell them apart."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"Wakegate development CA {identifier.digest.hex()[:8]}")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(key, Term(now - _ROOT_EARLIER, now + lifetime))
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
    )
    return _signed(builder, key, key)


def make_leaf(root: Pair, names: Sequence[str], now: int, lifetime: int = LEAF_LIFETIME) -> Pair:
    """A certificate for these DNS names, signed by `root`. Raises BadCertificate if the root is damaged."""
    issuer, issuer_key = _parse(root.certificate), _parse_key(root.key)
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + lifetime, _term(issuer).not_after)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(key, Term(now - _LEAF_EARLIER, not_after))
        .subject_name(x509.Name([]))  # the names are where clients look for them; a subject has room for 64 characters
        .issuer_name(issuer.subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_identifier(issuer), critical=False)
    )
    return _signed(builder, key, issuer_key)


def term(certificate: str) -> Term:
    """How long the first certificate of a PEM chain counts. Raises BadCertificate."""
    return _term(_parse(certificate))


def signed_by(chain: str, root: str) -> bool:
    """Whether the first certificate of `chain` was signed by `root` (both PEM). Raises BadCertificate."""
    try:
        _parse(chain).verify_directly_issued_by(_parse(root))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_authority(certificate: str) -> bool:
    """Whether a certificate (PEM) may sign others. Raises BadCertificate."""
    try:
        constraints = _parse(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(key: ec.EllipticCurvePrivateKey, term: Term) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(term.not_before))
        .not_valid_after(_time(term.not_after))
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(issuer, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM).decode(), private.decode())


def _authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _parse(certificate: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise BadCertificate(f"a certificate is damaged: {error}") from error


def _parse_key(key: str) -> ec.EllipticCurvePrivateKey:
    try:
        parsed = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"the key of a certificate is damaged: {error}") from error
    if not isinstance(parsed, ec.EllipticCurvePrivateKey):
        raise BadCertificate("the key of the development CA is not an ECDSA key")
    return parsed


def _term(certificate: x509.Certificate) -> Term:
    return Term(_microseconds(certificate.not_valid_before_utc), _microseconds(certificate.not_valid_after_utc))


def _time(microseconds: int) -> dt.datetime:
    """Certificates know whole seconds only."""
    return dt.datetime.fromtimestamp(microseconds // 1_000_000, dt.UTC)


def _microseconds(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1_000_000
