"""Proofs of deliveries: published vectors, each scheme, and whatever is wrong with one."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from control.pushes.signatures import Check, Origin, new_secret

SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
GITHUB = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
NOW = 1_674_087_231.0


def check(headers: dict[str, str], *, secret: str = SECRET, body: bytes = BODY, now: float = NOW) -> Check:
    made = Check(secret, headers, now)
    for at in range(0, len(body), 5):
        made.feed(body[at : at + 5])
    return made


def signed(secret: bytes, identity: str = "msg_1", stamp: int = int(NOW), body: bytes = BODY) -> dict[str, str]:
    mac = hmac.new(secret, f"{identity}.{stamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(stamp),
        "webhook-signature": "v1," + base64.b64encode(mac.digest()).decode(),
    }


def test_the_vector_that_github_publishes():
    """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries"""
    assert check({"x-hub-signature-256": GITHUB}).holds()


def test_the_vector_of_standard_webhooks():
    """The one of the reference libraries' tests and of the documentation that they were made from."""
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert check(headers, secret=secret, body=body, now=1_614_265_331).holds()


def test_gitea_signs_in_plain_hex():
    plain = GITHUB.removeprefix("sha256=")
    for field in ("x-gitea-signature", "x-forgejo-signature", "x-gogs-signature"):
        assert check({field: plain}).holds()
        assert not check({field: GITHUB}).holds()
        assert not check({field: plain[:-1] + "8"}).holds()


def test_the_token_of_gitlab_is_the_secret_itself():
    assert check({"x-gitlab-token": SECRET}).holds()
    assert not check({"x-gitlab-token": SECRET + " "}).holds()
    assert not check({"x-gitlab-token": ""}).holds()


def test_one_secret_serves_every_scheme():
    secret = new_secret()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    assert secret != new_secret()
    plain = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    for headers in (
        {"x-hub-signature-256": f"sha256={plain}"},
        {"x-gitea-signature": plain},
        {"x-gitlab-token": secret},
        signed(key),
    ):
        assert check(headers, secret=secret).holds()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": GITHUB.upper()},
        {"x-hub-signature-256": GITHUB.removeprefix("sha256=")},
        {"x-hub-signature-256": GITHUB + ", " + GITHUB},
        {"x-hub-signature-256": "sha256=\udcff"},
        {"x-hub-signature": "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59"},
        {"x-gitlab-token": "it's a secret to everybody"},
        {"webhook-signature": "v1,", "webhook-id": "1", "webhook-timestamp": str(int(NOW))},
        {"webhook-signature": ""},
    ],
)
def test_a_proof_that_is_missing_or_malformed_does_not_hold(headers):
    assert not check(headers).holds()


def test_another_body_or_another_secret_does_not_hold():
    assert not check({"x-hub-signature-256": GITHUB}, body=BODY + b" ").holds()
    assert not check({"x-hub-signature-256": GITHUB}, body=b"").holds()
    assert not check({"x-hub-signature-256": GITHUB}, secret="Everybody").holds()


def test_a_bad_proof_is_not_rescued_by_another():
    """GitLab sends both where both are set; the signature is then the one that counts."""
    assert not check({"webhook-signature": "v1,bad", "webhook-id": "1", "x-gitlab-token": SECRET}).holds()
    assert check({**signed(SECRET.encode()), "x-gitlab-token": "another"}).holds()
    assert not check({"x-hub-signature-256": "sha256=0", "x-gitea-signature": GITHUB.removeprefix("sha256=")}).holds()


@pytest.mark.parametrize(
    ("change", "now", "holds"),
    [
        ({}, NOW + 299, True),
        ({}, NOW - 299, True),
        ({}, NOW + 302, False),
        ({}, NOW - 302, False),
        ({"webhook-id": "msg_2"}, NOW, False),
        ({"webhook-timestamp": str(int(NOW) + 1)}, NOW, False),
        ({"webhook-timestamp": "1e9"}, NOW, False),
        ({"webhook-timestamp": "9" * 5000}, NOW, False),
        ({"webhook-timestamp": ""}, NOW, False),
    ],
)
def test_the_id_and_the_time_are_signed_too(change, now, holds):
    assert check({**signed(SECRET.encode()), **change}, now=now).holds() is holds


def test_several_signatures_of_which_one_is_ours():
    """Standard Webhooks: while a secret is rotated, both sign."""
    headers = signed(SECRET.encode())
    both = f"v1,{base64.b64encode(bytes(32)).decode()} {headers['webhook-signature']}"
    assert check({**headers, "webhook-signature": both}).holds()
    assert not check({**headers, "webhook-signature": headers["webhook-signature"].replace("v1,", "v1a,")}).holds()


def test_what_a_delivery_is_known_by_when_it_comes_again():
    digest = "body " + hashlib.sha256(BODY).hexdigest()
    github = check({"x-hub-signature-256": GITHUB})
    assert github.marks("1") == (digest, "id 1")
    assert github.marks(None) == (digest,)
    assert check(signed(SECRET.encode(), identity="msg_9")).marks("msg_9") == ("id msg_9",)
    token = check({"x-gitlab-token": SECRET})
    assert token.marks("7") == (f"{digest} 7",)
    assert token.marks(None) == (digest,)


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"x-github-event": "push", "x-github-delivery": "1"}, Origin("GitHub", "push", "1")),
        ({"x-gitea-event": "push", "x-github-event": "push", "x-gitea-delivery": "2"}, Origin("Gitea", "push", "2")),
        ({"x-forgejo-event": "push", "x-gitea-event": "push"}, Origin("Forgejo", "push", None)),
        (
            {"x-gitlab-event": "Push Hook", "idempotency-key": "3", "x-gitlab-event-uuid": "4"},
            Origin("GitLab", "Push Hook", "3"),
        ),
        ({"x-gitlab-event": "Push Hook", "x-gitlab-event-uuid": "4"}, Origin("GitLab", "Push Hook", "4")),
        ({}, Origin("an unknown forge", "", None)),
        ({"x-github-event": "push", "x-github-delivery": "d" * 5000}, Origin("GitHub", "push", "d" * 256)),
    ],
)
def test_what_a_delivery_says_of_itself(headers, origin):
    assert Origin.of(headers) == origin
