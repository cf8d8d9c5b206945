"""Certificate signing requests (RFC 2986) as orders are finalized with (RFC 8555 7.4)."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding


def csr(names: Sequence[str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER, for these DNS names (A-labels) and this key. Raises ValueError for no or unfit names."""
    if not names:
        raise ValueError("a certificate has at least one name")
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(alternative, critical=False).sign(key, SHA256()).public_bytes(Encoding.DER)
