"""TLS-ALPN-01: the certificates that a certificate authority is shown that looks at a name (RFC 8737).

Made when one first asks and kept as other contexts are (`contexts.py`), but apart from those that serve: nothing is
spoken under them, and no session of theirs is resumed anywhere.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.tls.contexts import load
from gateway.tls.selection import ACME_TLS
from gateway.tls.sessions import blank

LIMIT: Final = 100  # contexts kept: those of names that are being looked at
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 6.1
_OCTETS: Final = b"\x04\x20"  # DER: an OCTET STRING of 32 bytes
_DAY: Final = datetime.timedelta(days=1)


class Proof(NamedTuple):
    """What a name's context is built of. `id`: the name; `version`: another for another digest."""

    id: str
    digest: bytes

    @property
    def version(self) -> int:
        return int.from_bytes(self.digest, "big")

    def context(self) -> ssl.SSLContext:
        """Blocking. Raises OSError, ValueError."""
        context = blank()
        context.set_alpn_protocols([ACME_TLS.decode("ascii")])
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        return load(context, certificate(self.id, self.digest, datetime.datetime.now(datetime.UTC)))


class Proofs:
    """The source of `Contexts` for names under challenge. `digest`: SHA-256 of a name's key authorization, or None."""

    def __init__(self, digest: Callable[[str], bytes | None]) -> None:
        self._digest = digest

    def find(self, name: str) -> Proof | None:
        digest = self._digest(name)
        return None if digest is None else Proof(name, digest)


def certificate(name: str, digest: bytes, now: datetime.datetime) -> bytes:
    """PEM of a certificate for `name` alone, signed by itself, and of its key (RFC 8737 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    identifier = x509.UnrecognizedExtension(_ACME_IDENTIFIER, _OCTETS + digest)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(identifier, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
