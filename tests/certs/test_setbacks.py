"""What errors of a CA mean, and what is stored of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs import setbacks
from certs.acme.errors import AcmeError, BadAnswer, Unreachable
from certs.acme.problem import Problem, Subproblem
from certs.budget import DAY, HOUR, MINUTE
from certs.due import FAULTS, Ca
from certs.outcomes import done, failed
from certs.setbacks import REASONS, Setback, of_error, of_validation
from state.certificates import Issuance

NOW = 1_900_000_000 * 1_000_000
FIRST, OTHER = Ca("https://ca.test/dir"), Ca("https://other.test/dir")
ORDERED = Issuance(("a.test",), "acme", FIRST.directory, "https://ca.test/1", "sealed", NOW, ordered=(NOW,))


@pytest.mark.parametrize(
    ("error", "reason", "keeps"),
    [
        (Unreachable("refused"), "ca_unreachable", True),
        (BadAnswer("not JSON"), "ca_error", True),
        (AcmeError("odd"), "ca_error", True),
        (Problem("serverInternal", "", 500), "ca_error", True),
        (Problem("about:blank", "", 503), "ca_error", True),
        (Problem("badNonce", "", 400), "ca_error", True),
        (Problem("orderNotReady", "", 403), "ca_error", True),
        (Problem("rateLimited", "", 429), "rate_limited", True),
        (Problem("about:blank", "HTTP status 429", 429), "rate_limited", True),
        (Problem("badCSR", "", 400), "ca_error", False),
        (Problem("rejectedIdentifier", "", 400), "rejected_identifier", False),
        (Problem("unsupportedIdentifier", "", 400), "rejected_identifier", False),
        (Problem("caa", "", 403), "caa_forbidden", False),
        (Problem("accountDoesNotExist", "", 400), "account_error", False),
        (Problem("externalAccountRequired", "", 403), "account_error", False),
        (Problem("compound", "", 400, (Subproblem("caa", "", "a.test"),) * 2), "caa_forbidden", False),
        (Problem("compound", "", 400, (Subproblem("caa", "", None), Subproblem("dns", "", None))), "ca_error", False),
    ],
)
def test_a_request_that_failed(error: AcmeError, reason: str, keeps: bool) -> None:
    setback = of_error(error)
    assert (setback.reason, setback.keeps, setback.invalid) == (reason, keeps, False)


def test_what_tells_of_the_node_s_network_is_for_the_operator_alone() -> None:
    setback = of_error(Unreachable("https://169.254.169.254/ can't be reached: connection refused"))
    assert setback.detail == "the CA does not answer"
    assert "169.254.169.254" in str(setback)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *((kind, "challenge_failed") for kind in ("dns", "connection", "tls", "unauthorized", "incorrectResponse")),
        ("caa", "caa_forbidden"),
        ("rateLimited", "rate_limited"),
        ("serverInternal", "ca_error"),
    ],
)
def test_a_validation_that_failed(kind: str, reason: str) -> None:
    setback = of_validation(Problem(kind, "the reason"))
    assert (setback.reason, setback.keeps, setback.invalid) == (reason, False, True)
    assert "the reason" in setback.detail
    assert of_validation(None).reason == "challenge_failed"


@given(st.sampled_from(REASONS), st.booleans(), st.none() | st.floats(0, 1e9), st.integers(0, 40), st.booleans())
def test_whatever_fails_is_tried_again(reason: str, keeps: bool, asked: float | None, before: int, two: bool) -> None:
    setback = Setback(reason, "why", asked=asked, keeps=keeps)
    cas = (FIRST, OTHER) if two else (FIRST,)
    after = failed(replace(ORDERED, failures=before, faults=before), setback, cas, None, NOW)
    assert NOW < (after.retry_at or 0) <= NOW + 7 * DAY
    assert (after.failures, after.failed_at, after.reason, after.detail) == (before + 1, NOW, reason, "why")
    assert (after.order is None) == (after.key is None) == (after.began_at is None)
    assert after.began_at is None or keeps
    assert after.ordered == (NOW,)


def test_the_order_of_a_ca_that_is_asked_no_more_is_dropped() -> None:
    passing = Setback(setbacks.CA_ERROR, "503", keeps=True)
    last = replace(ORDERED, faults=FAULTS - 1)
    assert failed(last, passing, (FIRST,), None, NOW).order == ORDERED.order
    assert failed(last, passing, (FIRST, OTHER), None, NOW).order is None


def test_the_word_of_one_ca_binds_no_other() -> None:
    limited = Setback(setbacks.RATE_LIMITED, "429", asked=86400, keeps=True)
    alone = failed(ORDERED, limited, (FIRST,), None, NOW)
    assert (alone.retry_at or 0) >= NOW + DAY
    assert alone.order == ORDERED.order
    with_other = failed(ORDERED, limited, (FIRST, OTHER), None, NOW)
    assert (with_other.retry_at or 0) <= NOW + MINUTE
    assert with_other.waits[FIRST.directory] >= NOW + DAY
    assert with_other.order is None


def test_what_is_forbidden_waits_for_an_hour_at_least() -> None:
    forbidden = failed(ORDERED, Setback(setbacks.CAA_FORBIDDEN, ""), (FIRST,), None, NOW)
    assert (forbidden.permanent, forbidden.retry_at) == (True, NOW + HOUR)
    rejected = failed(replace(ORDERED, failures=20), Setback(setbacks.REJECTED_IDENTIFIER, ""), (FIRST,), None, NOW)
    assert (rejected.retry_at or 0) > NOW + HOUR


def test_success_forgets_all_but_the_budgets() -> None:
    trouble = replace(ORDERED, failures=3, faults=2, retry_at=NOW, reason="ca_error", waits={"x": 1}, failed=(1,))
    after = done(trouble)
    assert after == Issuance(("a.test",), "acme", FIRST.directory, ordered=(NOW,), failed=(1,))
