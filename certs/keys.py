"""Private keys as they are made and stored: ECDSA P-256, PEM of PKCS#8. Nothing here keeps one in the clear."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from certs.authority import BadCertificate


def new_key() -> str:
    """PEM of a new key, in the clear: to be sealed at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_of(pem: str) -> ec.EllipticCurvePrivateKey:
    """Raises BadCertificate."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"a key is damaged: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadCertificate("a key is not an ECDSA key")
    return key
