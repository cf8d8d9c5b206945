"""What answers a challenge: the RFCs' examples, and certbot's library where they have none."""

from __future__ import annotations

import josepy
import pytest
from acme import challenges as certbot
from cryptography.hazmat.primitives.asymmetric import ec

from certs.acme.challenge import challenge, dns01_value, http01_path, key_authorization, tls_alpn01_digest
from certs.acme.errors import BadAnswer
from certs.acme.fields import Fields
from certs.acme.jws import base64url_decoded

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"  # RFC 8555 8.1
RFC8555_8_1 = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


def fields(**more: object) -> Fields:
    values = {"type": "http-01", "url": "https://ca.test/c/1", "status": "pending", "token": TOKEN, **more}
    return Fields({name: value for name, value in values.items() if value is not ...}, "the challenge", secure=True)


def test_the_path_of_http_01_is_that_of_rfc_8555():
    assert http01_path(TOKEN) == f"/.well-known/acme-challenge/{TOKEN}"


def test_the_digest_of_tls_alpn_01():
    """RFC 8737 3; what `openssl dgst -sha256` says of RFC 8555's key authorization."""
    expected = "2cfb08c13a3ba3c0681b4faf8c2c8640605649520fc48fa2fd7df7e9e50e419a"
    assert tls_alpn01_digest(RFC8555_8_1).hex() == expected
    assert base64url_decoded(dns01_value(RFC8555_8_1)).hex() == expected


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_certbots_library_answers_the_same(key):
    theirs = josepy.JWKEC(key=key)
    ours = key_authorization(TOKEN, key)
    token = josepy.decode_b64jose(TOKEN)
    assert ours == key_authorization(TOKEN, key.public_key())
    assert ours == certbot.HTTP01(token=token).key_authorization(theirs)
    assert http01_path(TOKEN) == certbot.HTTP01(token=token).path
    assert dns01_value(ours) == certbot.DNS01(token=token).validation(theirs)


@pytest.mark.parametrize("token", ["", "a/b", "../../x", "a b", "a\r\nX: y", "ä", "x" * 257, "<b>", 7, None, ...])
def test_a_token_that_is_not_base64url_is_refused(token):
    with pytest.raises(BadAnswer, match="token"):
        challenge(fields(token=token))


def test_a_type_that_we_do_not_know_is_kept():
    found = challenge(fields(type="dns-persist-01", token=...))
    assert (found.type, found.token, found.status) == ("dns-persist-01", "", "pending")


def test_its_error_is_a_problem():
    told = {"type": "urn:ietf:params:acme:error:connection", "detail": "refused", "status": 400}
    found = challenge(fields(status="invalid", error=told))
    assert found.error is not None
    assert (found.error.type, found.error.detail, found.error.status) == ("connection", "refused", 400)


@pytest.mark.parametrize("wrong", [{"status": "ready"}, {"url": "http://ca.test/"}, {"type": None}, {"error": "no"}])
def test_what_is_not_a_challenge(wrong):
    with pytest.raises(BadAnswer):
        challenge(fields(**wrong))
