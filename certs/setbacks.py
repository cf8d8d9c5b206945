"""What an error of a CA means for the name that is ordered for: its reason, and what is done next. Pure (law 5).

Reasons are the machine-readable ones of SPEC section 4; types of problems are those of RFC 8555 6.7.
"""

from __future__ import annotations

from typing import Final

from certs.acme.errors import AcmeError, Unreachable
from certs.acme.problem import Problem

CAA_FORBIDDEN: Final = "caa_forbidden"
RATE_LIMITED: Final = "rate_limited"
CA_ERROR: Final = "ca_error"
CA_UNREACHABLE: Final = "ca_unreachable"
CHALLENGE_FAILED: Final = "challenge_failed"
REJECTED_IDENTIFIER: Final = "rejected_identifier"
ACCOUNT_ERROR: Final = "account_error"
BUDGET_EXHAUSTED: Final = "budget_exhausted"
HOOK_FAILED: Final = "hook_failed"
DNS_ERROR: Final = "dns_error"
REASONS: Final = (
    *(CAA_FORBIDDEN, RATE_LIMITED, CA_ERROR, CA_UNREACHABLE, CHALLENGE_FAILED, REJECTED_IDENTIFIER),
    *(ACCOUNT_ERROR, BUDGET_EXHAUSTED, HOOK_FAILED, DNS_ERROR),
)

_BY_TYPE: Final = {
    "rateLimited": RATE_LIMITED,
    "caa": CAA_FORBIDDEN,
    "rejectedIdentifier": REJECTED_IDENTIFIER,
    "unsupportedIdentifier": REJECTED_IDENTIFIER,
    **dict.fromkeys(
        ("accountDoesNotExist", "badPublicKey", "externalAccountRequired", "invalidContact", "unauthorized"),
        ACCOUNT_ERROR,
    ),
    **dict.fromkeys(("unsupportedContact", "userActionRequired"), ACCOUNT_ERROR),
}
_OF_A_VALIDATION: Final = {"caa": CAA_FORBIDDEN, "rateLimited": RATE_LIMITED, "serverInternal": CA_ERROR}
_PERMANENT: Final = frozenset({CAA_FORBIDDEN, REJECTED_IDENTIFIER})
_OF_THE_CA: Final = frozenset({CA_ERROR, CA_UNREACHABLE, ACCOUNT_ERROR, RATE_LIMITED})
_PASSING: Final = frozenset({"badNonce", "orderNotReady", "rateLimited", "serverInternal"})
_LENGTH: Final = 1000  # characters of what a CA says


class Setback(Exception):
    """An order does not go on now.

    `reason`: machine readable; `asked`: seconds, the CA's Retry-After; `keeps`: the order may go on later, else it is
    dropped; `invalid`: a validation was made and failed. `detail` is for the owner of the domain, `cause` for the
    operator's log alone: it tells of the node's network.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        cause: str | None = None,
        asked: float | None = None,
        keeps: bool = False,
        invalid: bool = False,
    ) -> None:
        super().__init__(f"{reason}: {cause or detail}")
        self.reason = reason
        self.detail = detail[:_LENGTH]
        self.asked = asked
        self.keeps = keeps
        self.invalid = invalid

    @property
    def permanent(self) -> bool:
        """Whether time alone does not mend it."""
        return self.reason in _PERMANENT

    @property
    def fault(self) -> bool:
        """Whether another CA may well do better."""
        return self.reason in _OF_THE_CA


def of_error(error: AcmeError) -> Setback:
    """Of a request that failed."""
    asked = error.retry_after
    if isinstance(error, Unreachable):
        return Setback(CA_UNREACHABLE, "the CA does not answer", cause=str(error), asked=asked, keeps=True)
    if not isinstance(error, Problem):
        return Setback(CA_ERROR, "the CA's answer can't be used", cause=str(error), asked=asked, keeps=True)
    kind = _kind(error)
    passing = kind in _PASSING or error.status >= 500
    return Setback(_BY_TYPE.get(kind, CA_ERROR), str(error), asked=asked, keeps=passing)


def of_validation(problem: Problem | None) -> Setback:
    """Of a challenge, an authorization or an order that the CA found invalid."""
    if problem is None:
        return Setback(CHALLENGE_FAILED, "the CA gave no reason", invalid=True)
    reason = _OF_A_VALIDATION.get(_kind(problem), CHALLENGE_FAILED)
    return Setback(reason, str(problem), asked=problem.retry_after, invalid=True)


def _kind(problem: Problem) -> str:
    """Several problems of one type are of that type. A balancer before the CA says 429 without one (RFC 6585 4)."""
    if problem.status == 429:
        return "rateLimited"
    if problem.type == "compound" and len(kinds := {each.type for each in problem.subproblems}) == 1:
        return str(kinds.pop())
    return problem.type
