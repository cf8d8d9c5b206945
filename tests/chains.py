"""Certificates as owners have them: chains of any length, with whatever can be wrong with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from state.ids import now_us

NOW = dt.datetime.fromtimestamp(now_us() / 1e6, dt.UTC)
DAYS = dt.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def p384() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def p521() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP521R1())


def rsa_of(bits: int) -> Callable[[], rsa.RSAPrivateKey]:
    return lambda: rsa.generate_private_key(65537, bits)


def key_pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> str:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def authority(name: str = "root", issuer: Issued | None = None, **more: Any) -> Issued:
    """A CA, signed by itself or by another one."""
    return issue([], name=name, issuer=issuer, ca=True, allowed=SIGNS_CERTIFICATES, **more)


def issue(
    names: Sequence[str],
    issuer: Issued | None = None,
    *,
    name: str = "leaf",
    ca: bool = False,
    key: Any = None,
    start: dt.datetime = NOW - DAYS,
    end: dt.datetime = NOW + 90 * DAYS,
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.SERVER_AUTH,
    digest: Any = None,
    allowed: x509.KeyUsage | None = None,
    critical: Sequence[x509.ExtensionType] = (),
    more: Sequence[x509.ExtensionType] = (),
) -> Issued:
    """A leaf for these names, or a CA. `key`: of its own kind, else on P-256."""
    key = key or p256()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = Issued(None, key) if issuer is None else issuer  # type: ignore[arg-type]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )
    if allowed is not None:
        builder = builder.add_extension(allowed, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
    if usage is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    for extension in (*critical, *more):
        builder = builder.add_extension(extension, critical=extension in critical)
    algorithm = None if isinstance(signer.key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return Issued(builder.sign(signer.key, algorithm), key)


def _key_usage(*, signature: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


SIGNS_HANDSHAKES = _key_usage(signature=True, certificates=False)
SIGNS_CERTIFICATES = _key_usage(signature=False, certificates=True)
