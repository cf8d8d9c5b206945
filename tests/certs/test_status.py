"""The state of a domain, of what is stored of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs.status import STATES, status
from state.models import Certificate, Domain, Issuance, Proof

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
        (replace(IDLE, order="https://ca/1", failures=1, reason="ca_error"), None, ("issuing", "ca_error")),
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
