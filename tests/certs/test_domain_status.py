"""The state of a domain, of what is stored of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs import renewal
from certs.authority import make_leaf, make_root
from certs.issuer_desk import identifier
from certs.status import STATES, renew_at, status
from state.certificates import Certificate, Domain, Issuance, Proof, Window

NOW = 1_000
PROVED = Domain("acme", "www.acme.com", "s", 1, proof=Proof.VERIFIED, held=True)
CERTIFICATE = Certificate(("www.acme.com",), "", "", "internal", False, NOW - 10, NOW + 10, namespace="acme")
IDLE = Issuance(("www.acme.com",), namespace="acme")


def test_an_unproved_domain_shows_what_dns_said():
    for proof in (Proof.PENDING_DNS, Proof.PENDING_OWNERSHIP, Proof.MOVED):
        domain = replace(PROVED, proof=proof, reason="nxdomain", detail="there is no such name")
        assert status(domain, None, CERTIFICATE, NOW) == (proof.value, "nxdomain", "there is no such name")


@pytest.mark.parametrize(
    ("issuance", "certificate", "expected"),
    [
        (None, None, ("verified", None)),
        (IDLE, None, ("verified", None)),
        (replace(IDLE, failures=1, reason="rate_limited"), None, ("verified", "rate_limited")),
        (replace(IDLE, began_at=1), None, ("issuing", None)),
        (replace(IDLE, order="https://ca/1", failures=1, reason="ca_error"), None, ("verified", "ca_error")),
        (replace(IDLE, permanent=True, reason="caa_forbidden"), None, ("failed", "caa_forbidden")),
        (None, CERTIFICATE, ("active", None)),
        (replace(IDLE, began_at=1), CERTIFICATE, ("active", None)),
        (replace(IDLE, failures=2, reason="ca_unreachable"), CERTIFICATE, ("active", "ca_unreachable")),
        (IDLE, replace(CERTIFICATE, not_after=NOW), ("verified", None)),
        (IDLE, replace(CERTIFICATE, not_before=NOW + 1), ("verified", None)),
        (None, replace(CERTIFICATE, namespace="other"), ("verified", None)),
        (Issuance((), namespace="other", began_at=1, reason="ca_error"), None, ("verified", None)),
    ],
)
def test_a_proved_domain_goes_on_to_be_served(issuance, certificate, expected):
    state, reason, _ = status(PROVED, issuance, certificate, NOW)
    assert (state, reason) == expected
    assert state in STATES


def test_what_dns_says_wrongly_within_the_grace_is_told_while_it_is_served():
    domain = replace(PROVED, reason="cname_mismatch", detail="leads elsewhere", wrong_since=1)
    failing = replace(IDLE, reason="ca_error")
    assert status(domain, failing, CERTIFICATE, NOW) == ("active", "cname_mismatch", "leads elsewhere")


def test_an_order_that_waits_for_dns_to_be_right_again_is_not_being_made():
    domain = replace(PROVED, reason="cname_mismatch", detail="leads elsewhere", wrong_since=1)
    assert status(domain, replace(IDLE, began_at=1), None, NOW) == ("verified", "cname_mismatch", "leads elsewhere")


def test_when_a_certificate_is_replaced_is_what_its_ca_says_of_it():
    now = 1_700_000_000_000_000
    chain = make_leaf(make_root(now), ["www.acme.com"], now).certificate
    certificate = replace(CERTIFICATE, chain=chain, not_before=now, not_after=now + 10**13)
    usual, window = renewal.renew_at(certificate), Window(now + 1, now + 2)
    assert renew_at(PROVED, None, certificate) == renew_at(PROVED, IDLE, certificate) == usual
    of_it = replace(IDLE, window=window, window_of=identifier(certificate))
    assert renew_at(PROVED, of_it, certificate) == now + 1
    assert renew_at(PROVED, replace(of_it, window_of="of another"), certificate) == usual
    assert renew_at(PROVED, of_it, replace(certificate, issuer="uploaded")) is None
    assert renew_at(replace(PROVED, held=False), of_it, certificate) is None
