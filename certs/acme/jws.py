"""Signed requests (RFC 8555 6.2; RFC 7515 in its flattened form): ES256, JWK thumbprints, external account binding.

Keys are ECDSA P-256 and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

Mac = Literal["HS256", "HS384", "HS512"]

_COORDINATE: Final = 32  # bytes
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_DIGESTS: Final[Mapping[Mac, str]] = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


def base64url(data: bytes) -> str:
    """RFC 7515 2: without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def base64url_decoded(text: str) -> bytes:
    """With or without padding. Raises ValueError."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    bare = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """RFC 7518 6.2.1. Raises ValueError for another curve than P-256."""
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"an account's key is on P-256, not on {key.curve.name}")
    numbers = key.public_numbers()
    x, y = (base64url(part.to_bytes(_COORDINATE)) for part in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638, with SHA-256."""
    return base64url(hashlib.sha256(_json(jwk(key))).digest())


def sign(key: ec.EllipticCurvePrivateKey, protected: Mapping[str, Any], payload: Mapping[str, Any] | None) -> bytes:
    """The body of a request; `payload` None is POST-as-GET (RFC 8555 6.3)."""
    header, content = _parts({"alg": "ES256", **protected}, payload)
    r, s = decode_dss_signature(key.sign(f"{header}.{content}".encode(), ec.ECDSA(SHA256())))
    return _json(_flattened(header, content, r.to_bytes(_COORDINATE) + s.to_bytes(_COORDINATE)))


def external_binding(
    key: ec.EllipticCurvePublicKey, key_id: str, secret: bytes, url: str, algorithm: Mac = "HS256"
) -> dict[str, str]:
    """RFC 8555 7.3.4: the account's key, signed by a secret that the CA gave; `url` is that of newAccount."""
    header, content = _parts({"alg": algorithm, "kid": key_id, "url": url}, jwk(key))
    mac = hmac.digest(secret, f"{header}.{content}".encode(), _DIGESTS[algorithm])
    return _flattened(header, content, mac)


def _parts(protected: Mapping[str, Any], payload: Mapping[str, Any] | None) -> tuple[str, str]:
    return base64url(_json(protected)), "" if payload is None else base64url(_json(payload))


def _flattened(header: str, content: str, signature: bytes) -> dict[str, str]:
    return {"protected": header, "payload": content, "signature": base64url(signature)}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
