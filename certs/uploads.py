"""Certificates that owners give us for their domains: read, and judged as a client would (RFC 5280, RFC 9525).

All that is wrong is told at once, by the field that it is wrong with. What every client would refuse is refused here;
only whose root it ends in is left open, and said by `trusted`: a client of OpenSSL is asked, by a handshake in memory.
Law 8: the key is in no message, in no `repr` and in no file that has a place.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import ssl
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

CHAIN_LENGTH: Final = 64 << 10  # characters
KEY_LENGTH: Final = 16 << 10
MOST: Final = 10  # certificates of a chain
RSA_BITS: Final = (2048, 4096)  # a longer key would keep a worker from its other tenants at each handshake
CURVES: Final = ("secp256r1", "secp384r1")
CERTIFICATE: Final = "certificate"
KEY: Final = "key"

_TURNS: Final = 5  # of a handshake; two are enough
_WEAK: Final = ("md5", "sha1")
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_KINDS: Final = f"RSA of {RSA_BITS[0]} to {RSA_BITS[1]} bits, or ECDSA on P-256 or P-384"
_OF_TLS: Final = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_UNDERSTOOD: Final = {  # by the usual clients, if they are critical (RFC 5280 4.2.1)
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.POLICY_MAPPINGS,
    ExtensionOID.POLICY_CONSTRAINTS,
    ExtensionOID.INHIBIT_ANY_POLICY,
}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
E = TypeVar("E", bound=x509.ExtensionType)


class Refused(ValueError):
    """`reasons`: field and what is wrong with it."""

    def __init__(self, reasons: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {reason}" for field, reason in reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True, slots=True)
class Upload:
    """What can be served. `names`: of the leaf, the domain first; `key`: PEM of PKCS#8, in the clear; times in µs."""

    names: tuple[str, ...]
    chain: str
    key: str
    not_before: int
    not_after: int
    trusted: bool

    def __repr__(self) -> str:
        return f"Upload({', '.join(self.names)})"


def read(domain: str, chain: str, key: str, now: int, client: ssl.SSLContext) -> Upload:
    """For a domain in A-labels. `client`: of those to whom it should seem trusted. Blocking: some milliseconds.

    Raises Refused.
    """
    reasons: list[tuple[str, str]] = []
    with _told(reasons, CERTIFICATE):
        certificates = _certificates(chain)
        reasons += [(CERTIFICATE, why) for why in _faults(domain, certificates, now)]
    with _told(reasons, KEY):
        private = _private_key(key)
    if reasons:
        raise Refused(reasons)
    if private.public_key() != certificates[0].public_key():
        raise Refused([(KEY, "is not the key of the certificate")])
    leaf, served = certificates[0], "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    plain = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Upload(
        names=(domain, *(name for name in _names(leaf) if name != domain)),
        chain=served,
        key=plain,
        not_before=_microseconds(leaf.not_valid_before_utc),
        not_after=_microseconds(leaf.not_valid_after_utc),
        trusted=_accepted(domain, _server(served, plain), client),
    )


class _Wrong(ValueError):
    """In our words."""


_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    CryptographyDeprecationWarning,
)


@contextlib.contextmanager
def _told(reasons: list[tuple[str, str]], field: str) -> Iterator[None]:
    """The boundary: whatever a parser says becomes a reason of ours."""
    try:
        yield
    except _Wrong as error:
        reasons.append((field, str(error)))
    except _UNREADABLE:
        reasons.append((field, "can't be read: it is damaged, or of a kind that is not served"))


def _certificates(text: str) -> list[x509.Certificate]:
    """Raises ValueError."""
    kinds = [match[1] for match in _BLOCK.finditer(text)]
    if any("PRIVATE KEY" in kind for kind in kinds):
        raise _Wrong("has a private key in it, which belongs into `key`")
    if "CERTIFICATE" not in kinds:
        raise _Wrong("must be certificates in PEM, the leaf first: -----BEGIN CERTIFICATE-----")
    if len(kinds) > MOST:
        raise _Wrong(f"has {len(kinds)} certificates; {MOST} is the most")
    with warnings.catch_warnings():
        # a serial number that is not positive is against RFC 5280, and refused by some clients
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(text.encode())


def _faults(domain: str, certificates: Sequence[x509.Certificate], now: int) -> Iterator[str]:
    """Why clients would refuse this chain, whomever they trust."""
    leaf = certificates[0]
    if reason := _unfit(leaf.public_key()):
        yield reason
    if not any(covers(name, domain) for name in _names(leaf)):
        named = ", ".join(_names(leaf)) or "none"
        yield f"the first certificate is not for {domain}; the names in it: {named}"
    for number, one in enumerate(certificates, 1):
        start, end = _microseconds(one.not_valid_before_utc), _microseconds(one.not_valid_after_utc)
        if now >= end:
            yield f"certificate {number} ended at {one.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        elif now < start:
            yield f"certificate {number} begins at {one.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} only"
    yield from _repeated(certificates)
    yield from _not_understood(certificates)
    yield from _broken_links(certificates)
    yield from _unfit_for_tls(leaf)


def _repeated(certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    for number, one in enumerate(certificates, 1):
        if (first := certificates.index(one) + 1) < number:
            yield f"certificate {number} is certificate {first} again: each belongs into the chain once"


def _not_understood(certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    """RFC 5280 4.2: who does not know a critical extension has to refuse the certificate."""
    for number, one in enumerate(certificates, 1):
        for extension in one.extensions:
            if extension.critical and extension.oid not in _UNDERSTOOD:
                oid = extension.oid.dotted_string
                yield f"certificate {number} has a critical extension that clients don't know ({oid}), and refuse"


def _broken_links(certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    for number, one in enumerate(certificates, 1):
        issuer = certificates[number] if number < len(certificates) else None
        root = number > 1 and one.issuer == one.subject  # its signature is not looked at
        if not root and (digest := _digest(one)) in _WEAK:
            yield f"certificate {number} is signed with {digest}, which clients refuse"
        elif issuer is not None and not _issued(one, issuer):
            yield f"certificate {number} was not issued by the next: the order is leaf, its issuer, and so on"


def _issued(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _unfit_for_tls(leaf: x509.Certificate) -> Iterator[str]:
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and not _OF_TLS & set(usage):
        yield "the first certificate is not for TLS servers (extended key usage)"
    allowed, constraints = _extension(leaf, x509.KeyUsage), _extension(leaf, x509.BasicConstraints)
    if allowed is not None and not allowed.digital_signature:
        yield "the first certificate may not sign handshakes (key usage without digitalSignature)"
    if constraints is not None and constraints.ca and leaf.issuer != leaf.subject:
        yield "the first certificate is one of an authority (CA:TRUE), which clients refuse from servers"
    if _extension(leaf, x509.TLSFeature) is not None:
        yield "the first certificate demands stapled OCSP answers (must-staple), which are not sent"


def _private_key(text: str) -> PrivateKey:
    """Raises ValueError, which tells nothing of the key."""
    kinds = [match[1] for match in _BLOCK.finditer(text) if match[1].endswith("PRIVATE KEY")]
    if not kinds:
        raise _Wrong("must be a private key in PEM: -----BEGIN PRIVATE KEY-----")
    if len(kinds) > 1:
        raise _Wrong("has more than one private key")
    if kinds[0].startswith("ENCRYPTED") or "Proc-Type: 4,ENCRYPTED" in text:
        raise _Wrong("is encrypted: send it without a password (openssl pkey -in key.pem -out plain.pem)")
    # validating a key takes the longer the longer it is: not before that is known
    key = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, PrivateKey) or _unfit(key.public_key()):
        raise _Wrong(f"is of a kind that is not served: {_KINDS}")
    load_pem_private_key(text.encode(), None)
    return key


def _unfit(key: object) -> str | None:
    """Why nobody should be served with a certificate of this key."""
    match key:
        case rsa.RSAPublicKey() if RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
            return None
        case ec.EllipticCurvePublicKey() if key.curve.name in CURVES:
            return None
        case rsa.RSAPublicKey():
            return f"its key is RSA of {key.key_size} bits: {_KINDS}"
        case _:
            return f"its key is of a kind that is not served: {_KINDS}"


def covers(name: str, domain: str) -> bool:
    """Whether a name of a certificate is, or stands for, a domain (RFC 9525 6.3: a wildcard is one label)."""
    if name.startswith("*."):
        return domain.partition(".")[2] == name[2:]
    return name == domain


def _names(leaf: x509.Certificate) -> list[str]:
    """DNS names alone, in lower case: what is in the subject counts no more."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    return [] if names is None else [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _digest(certificate: x509.Certificate) -> str:
    algorithm = certificate.signature_hash_algorithm
    return "" if algorithm is None else algorithm.name


def _server(chain: str, key: str) -> ssl.SSLContext:
    """As workers make theirs. Raises Refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with os.fdopen(os.memfd_create("certificate"), "w") as file:
        file.write(chain + key)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
        except ssl.SSLError as error:
            raise Refused([(CERTIFICATE, f"can't be served: {error.reason}")]) from None
    return context


def _accepted(domain: str, server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether the client shakes hands with the server that calls itself so."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(to_client, to_server, server_hostname=domain)
    answers = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(_TURNS):
            if _done(asks):
                return True
            _done(answers)
    except ssl.SSLError:
        return False
    return False


def _done(side: ssl.SSLObject) -> bool:
    """Go on with a handshake. Raises ssl.SSLError if that ends it."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _microseconds(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1_000_000
