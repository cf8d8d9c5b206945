"""What a claim on a domain begins with, and the token that proves it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from certs.claims import asked_again, claim_id, new_claim
from certs.proof import token, txt_name
from state.certificates import DnsRecord, Proof

KEY = bytes(range(32))
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


def test_a_claim_begins_unproved_and_is_looked_at_at_once():
    made = new_claim("acme", "www.acme.com", "s", endpoint="api-acme.apps.localhost", token="t", now=7)
    assert (made.proof, made.held, made.pointing, made.created_at, made.check_at) == (
        Proof.PENDING_DNS, False, False, 7, 7,
    )  # fmt: skip
    assert made.records == (
        DnsRecord("CNAME", "www.acme.com", "api-acme.apps.localhost"),
        DnsRecord("TXT", "_wakegate.www.acme.com", "t"),
    )
    assert claim_id("acme", "www.acme.com") == "acme/www.acme.com"


def test_who_asks_again_is_written_once_for_a_moment_and_also_if_it_is_due_long_since():
    made = new_claim("acme", "www.acme.com", "s", endpoint="api-acme.apps.localhost", token="t", now=100_000_000)
    assert asked_again(made, 101_000_000) is None
    for now in (99_000_000, 105_000_000, 900_000_000):
        again = asked_again(made, now)
        assert again is not None
        assert again.check_at == now


def test_a_token_is_what_it_was_and_fits_a_label():
    made = token(KEY, "acme", "www.acme.com")
    assert made == token(KEY, "acme", "www.acme.com") == "vetnq5v3725uda6bkxxb7dz3dekzku57"
    assert re.fullmatch(r"[a-z2-7]{32}", made)
    assert txt_name("acme.com") == "_wakegate.acme.com"


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_tokens_of_two_namespaces_or_domains_differ(one, other):
    assert (token(KEY, *one) == token(KEY, *other)) is (one == other)
    assert token(KEY, *one) != token(bytes(32), *one)
