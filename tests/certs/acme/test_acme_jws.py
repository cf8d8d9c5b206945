"""What is signed: the vectors of the RFCs, and what josepy, which is not ours, makes of it."""

from __future__ import annotations

import hashlib
import hmac
import json

import josepy
import pytest
from acme import jws as certbot_jws
from acme import messages
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from certs.acme.jws import base64url, base64url_decoded, external_binding, jwk, sign, thumbprint

RFC7515_A3 = {  # its key, private part included
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}
RFC7517_A1 = ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM")


def number(text: str) -> int:
    return int.from_bytes(base64url_decoded(text))


def public(x: str, y: str) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(number(x), number(y), ec.SECP256R1()).public_key()


def test_a_jwk_is_that_of_rfc_7515():
    key = ec.derive_private_key(number(RFC7515_A3["d"]), ec.SECP256R1())
    assert jwk(key.public_key()) == {"crv": "P-256", "kty": "EC", "x": RFC7515_A3["x"], "y": RFC7515_A3["y"]}


def test_the_thumbprint_of_the_key_of_rfc_7517():
    assert thumbprint(public(*RFC7517_A1)) == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_coordinates_keep_their_leading_zeros():
    """1 in 256 has one; RFC 7518 6.2.1.2 wants 32 bytes."""
    for exponent in range(1, 2000):
        numbers = ec.derive_private_key(exponent, ec.SECP256R1()).public_key().public_numbers()
        if min(numbers.x, numbers.y) < 1 << 248:
            key = numbers.public_key()
            assert {len(base64url_decoded(jwk(key)[part])) for part in "xy"} == {32}
            assert base64url(josepy.JWKEC(key=key).thumbprint()) == thumbprint(key)
            return
    pytest.fail("no such key")


@given(st.integers(1, 2**200))
def test_josepy_has_the_same_thumbprint(secret):
    key = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
    assert thumbprint(key) == base64url(josepy.JWKEC(key=key).thumbprint())


def test_other_curves_are_refused():
    with pytest.raises(ValueError, match="P-256"):
        jwk(ec.generate_private_key(ec.SECP384R1()).public_key())


def test_a_signature_verifies_and_covers_everything():
    key = ec.generate_private_key(ec.SECP256R1())
    body = json.loads(sign(key, {"nonce": "abc", "url": "https://ca.test/x"}, {"a": 1}))
    assert body.keys() == {"protected", "payload", "signature"}
    raw = base64url_decoded(body["signature"])
    assert len(raw) == 64
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    signed = f"{body['protected']}.{body['payload']}".encode()
    key.public_key().verify(signature, signed, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, signed + b"A", ec.ECDSA(SHA256()))
    assert json.loads(base64url_decoded(body["protected"])) == {
        "alg": "ES256",
        "nonce": "abc",
        "url": "https://ca.test/x",
    }
    assert json.loads(base64url_decoded(body["payload"])) == {"a": 1}


@pytest.mark.parametrize("payload", [None, {}, {"identifiers": [{"type": "dns", "value": "a.test"}]}])
@pytest.mark.parametrize("by", ["jwk", "kid"])
def test_certbots_library_verifies_what_we_sign(payload, by):
    key = ec.generate_private_key(ec.SECP256R1())
    signer = {"jwk": jwk(key.public_key())} if by == "jwk" else {"kid": "https://ca.test/account/1"}
    body = sign(key, {**signer, "nonce": "q83vASNFZ4k", "url": "https://ca.test/order"}, payload)
    read = certbot_jws.JWS.json_loads(body.decode())
    known = josepy.JWKEC(key=key.public_key())
    assert read.verify(key=known)
    assert not read.verify(key=josepy.JWKEC(key=ec.generate_private_key(ec.SECP256R1()).public_key()))
    header = read.signature.combined
    assert (header.alg, header.url) == (josepy.ES256, "https://ca.test/order")
    assert header.nonce == base64url_decoded("q83vASNFZ4k")
    assert (header.kid, header.jwk) == (signer.get("kid"), known if by == "jwk" else None)
    assert read.payload == (b"" if payload is None else json.dumps(payload, separators=(",", ":")).encode())


def test_an_external_account_is_bound_as_certbots_library_binds_it():
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    secret, url = bytes(range(32)), "https://ca.test/new-account"
    ours = external_binding(key, "kid-1", secret, url)
    directory = messages.Directory({"newAccount": url})
    binding = messages.ExternalAccountBinding.from_data(josepy.JWKEC(key=key), "kid-1", base64url(secret), directory)
    theirs = json.loads(json.dumps(binding))
    for part in ("protected", "payload"):
        assert json.loads(base64url_decoded(ours[part])) == json.loads(base64url_decoded(theirs[part]))
    assert josepy.JWS.from_json(ours).verify(key=josepy.JWKOct(key=secret))


@pytest.mark.parametrize(("algorithm", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
def test_every_mac_of_an_external_account(algorithm, digest):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    bound = external_binding(key, "k", b"secret", "https://ca.test/new", algorithm)
    expected = hmac.new(b"secret", f"{bound['protected']}.{bound['payload']}".encode(), getattr(hashlib, digest))
    assert base64url_decoded(bound["signature"]) == expected.digest()
    assert json.loads(base64url_decoded(bound["protected"]))["alg"] == algorithm


@given(st.binary())
def test_base64url_comes_back_with_and_without_padding(data):
    text = base64url(data)
    assert "=" not in text
    if data:
        assert base64url_decoded(text) == data == base64url_decoded(text + "=" * (-len(text) % 4))


@given(st.text())
def test_what_is_not_base64url_is_a_value_error(text):
    try:
        base64url_decoded(text)
    except ValueError:
        return
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
