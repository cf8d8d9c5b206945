"""The state of a custom domain as its owner sees it (SPEC section 4). Pure."""

from __future__ import annotations

from typing import Final

from certs import renewal
from certs.due import UPLOADED
from certs.issuer_desk import identifier
from state.certificates import Certificate, Domain, Issuance, Proof

ACTIVE: Final = "active"  # it is proved and served over HTTPS
ISSUING: Final = "issuing"  # its certificate is being ordered
FAILED: Final = "failed"  # it gets no certificate, for a reason that does not pass by itself

STATES: Final = (
    *(Proof.PENDING_DNS.value, Proof.PENDING_OWNERSHIP.value, Proof.VERIFIED.value, Proof.MOVED.value),
    *(ISSUING, ACTIVE, FAILED),
)


def status(
    domain: Domain, issuance: Issuance | None, certificate: Certificate | None, now: int
) -> tuple[str, str | None, str | None]:
    """State, machine-readable reason, and a sentence. An `active` one with a reason has something that needs a look.

    `issuance` and `certificate` are those stored under the domain's name; of another namespace they don't count.
    """
    if domain.proof is not Proof.VERIFIED:
        return domain.proof.value, domain.reason, domain.detail
    if issuance is not None and issuance.namespace != domain.namespace:
        issuance = None
    reason, detail = domain.reason, domain.detail
    if reason is None and issuance is not None:
        reason, detail = issuance.reason, issuance.detail
    stage = _stage(domain, issuance, certificate, now)
    if stage == ISSUING and reason is not None:
        stage = Proof.VERIFIED.value  # the order waits: for the CA, or for DNS to be right again
    return stage, reason, detail


def _stage(domain: Domain, issuance: Issuance | None, certificate: Certificate | None, now: int) -> str:
    """How far a proved domain has come."""
    if valid(domain, certificate, now):
        return ACTIVE
    if issuance is not None and (issuance.order is not None or issuance.began_at is not None):
        return ISSUING
    if issuance is not None and issuance.permanent:
        return FAILED
    return Proof.VERIFIED.value


def valid(domain: Domain, certificate: Certificate | None, now: int) -> bool:
    """Whether the domain is served with this certificate, which is its namespace's own."""
    return (
        certificate is not None
        and certificate.namespace == domain.namespace
        and certificate.not_before <= now < certificate.not_after
    )


def renew_at(domain: Domain, issuance: Issuance | None, certificate: Certificate) -> int | None:
    """When the domain's certificate is to be replaced, as far as it is known now; None: it will not be."""
    if certificate.issuer == UPLOADED or not domain.held:
        return None
    usual = renewal.renew_at(certificate)
    if issuance is None or issuance.window is None or issuance.window_of != identifier(certificate):
        return usual
    return renewal.suggested_at(certificate, issuance.window)
