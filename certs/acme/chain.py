"""Certificate chains (RFC 8555 7.4.2, 9.1): PEM, split and checked before anything is stored or served."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from certs.acme.errors import AcmeError
from certs.acme.fields import printable
from certs.acme.renewal_info import certificate_id

CERTIFICATES: Final = 10  # of one chain
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)


class BadChain(AcmeError):
    """What came is not the certificate that was asked for, or none at all."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is known of a certificate. `names`: in lower case. Times: microseconds since the epoch.

    `identifier`: for renewal information (RFC 9773 4.1), None if it can't have one.
    """

    names: tuple[str, ...]
    issuer: str
    not_before: int
    not_after: int
    identifier: str | None


def split(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The leaf first. Raises BadChain."""
    with _reading():
        found = x509.load_pem_x509_certificates(pem)
        if len(found) <= CERTIFICATES:
            return tuple(found)
    raise BadChain(f"a chain of more than {CERTIFICATES} certificates")


def joined(chain: Sequence[x509.Certificate]) -> str:
    """PEM with nothing in between."""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)


def check(pem: str, key: ec.EllipticCurvePublicKey, names: Sequence[str], now: int) -> Leaf:
    """What the leaf says, if it is for this key and all of these names, has not ended, and each signs the one before.

    `now`: microseconds since the epoch. Raises BadChain.
    """
    chain = split(pem.encode())
    with _reading():
        if chain[0].public_key() != key:
            raise BadChain("the certificate is for another key")
        leaf = describe(chain[0])
        for signed, signer in itertools.pairwise(chain):
            signed.verify_directly_issued_by(signer)
    if missing := sorted({name.lower() for name in names} - set(leaf.names)):
        raise BadChain(f"the certificate is not for {', '.join(missing)}")
    if leaf.not_after <= max(now, leaf.not_before):
        raise BadChain("the certificate has ended already")
    return leaf


def describe(certificate: x509.Certificate) -> Leaf:
    """Raises BadChain."""
    with _reading():
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return Leaf(
            tuple(name.lower() for name in alternative.get_values_for_type(x509.DNSName)),
            _common_name(certificate.issuer),
            _microseconds(certificate.not_valid_before_utc),
            _microseconds(certificate.not_valid_after_utc),
            _identifier(certificate),
        )


def _identifier(certificate: x509.Certificate) -> str | None:
    try:
        return certificate_id(certificate)
    except AcmeError:
        return None


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME) or name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return printable(str(found[0].value)) if found else ""


def _microseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # what is against RFC 5280 (a serial number that is not positive) is read with no more than a warning so far
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            yield
    except _UNREADABLE as error:
        raise BadChain(f"the certificates can't be read: {printable(str(error)) or type(error).__name__}") from error
