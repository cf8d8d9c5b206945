"""Which challenge is answered."""

from __future__ import annotations

import pytest

from certs.acme.authorization import Authorization
from certs.acme.challenge import DNS_01, HTTP_01, TLS_ALPN_01, Challenge
from certs.acme.client import AcmeClient
from certs.acme.directory import Directory, Meta
from certs.due import Ca
from certs.issuer_account import Membership
from certs.issuer_proofs import kinds, proof
from certs.keys import key_of, new_key
from certs.setbacks import Setback
from certs.wanted import Wanted
from state.certificates import Issuance

BOTH = (HTTP_01, TLS_ALPN_01)
NAME = Wanted(("a.test",), "acme", "s")


@pytest.mark.parametrize(
    ("reach", "last", "reason", "wanted"),
    [
        (BOTH, None, None, BOTH),
        ((), None, None, BOTH),
        ((TLS_ALPN_01,), None, None, (TLS_ALPN_01,)),
        (BOTH, TLS_ALPN_01, None, (TLS_ALPN_01, HTTP_01)),
        (BOTH, HTTP_01, "challenge_failed", (TLS_ALPN_01, HTTP_01)),
        (BOTH, TLS_ALPN_01, "challenge_failed", BOTH),
        (BOTH, HTTP_01, "ca_error", BOTH),
        ((HTTP_01,), HTTP_01, "challenge_failed", (HTTP_01,)),
        ((HTTP_01,), TLS_ALPN_01, None, (HTTP_01,)),
    ],
)
def test_the_order_of_preference(
    reach: tuple[str, ...], last: str | None, reason: str | None, wanted: tuple[str, ...]
) -> None:
    assert kinds(NAME, reach, Issuance(NAME.names, challenge=last, reason=reason)) == wanted


def test_a_wildcard_is_proved_by_dns_alone() -> None:
    assert kinds(Wanted(("*.a.test", "a.test")), BOTH, Issuance(("*.a.test",))) == (DNS_01,)


def offered(*kinds: str) -> Authorization:
    challenges = tuple(Challenge(kind, f"https://ca.test/{kind}", "token", "pending", None) for kind in kinds)
    return Authorization("https://ca.test/1", "a.test", False, "pending", challenges, None, None)


def test_the_best_that_is_offered() -> None:
    directory = Directory("n", "a", "o", None, None, Meta())
    key = key_of(new_key())
    client = AcmeClient(None, "https://ca.test", key)  # type: ignore[arg-type] - it asks nothing
    member = Membership(Ca("https://ca.test"), client, directory, key)
    shown = proof(offered(DNS_01, TLS_ALPN_01, HTTP_01), BOTH, member)
    assert (shown.answer.type, shown.challenge.url) == (HTTP_01, "https://ca.test/http-01")
    assert shown.answer.key_authorization.startswith("token.")
    assert proof(offered(TLS_ALPN_01), BOTH, member).answer.type == TLS_ALPN_01
    with pytest.raises(Setback, match="the CA offers dns-01, and not http-01 or tls-alpn-01"):
        proof(offered(DNS_01), BOTH, member)
