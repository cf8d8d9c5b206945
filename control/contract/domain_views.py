"""Custom domains as the API shows them. Pure (law 5). What another namespace has under a domain's name is not shown."""

from __future__ import annotations

from typing import Final

from certs.status import renew_at, status
from control.contract.shapes import CertificateView, DomainRecord, DomainView
from control.contract.times import iso
from control.services.catalogue import DomainFacts
from state.certificates import DnsRecord

_FAR: Final = 365 * 86_400 * 1_000_000  # microseconds; what is looked at only then is looked at when its owner asks


def domain_view(facts: DomainFacts, now: int) -> DomainView:
    domain = facts.domain
    state, reason, detail = status(domain, facts.issuance, facts.certificate, now)
    return {
        "name": domain.name,
        "status": state,
        "reason": reason,
        "detail": detail,
        "redirect_to": domain.redirect,
        "records": [_record_view(record) for record in domain.records],
        "certificate": _certificate_view(facts),
        "created_at": iso(domain.created_at),
        "verified_at": _time(domain.verified_at),
        "checked_at": _time(domain.checked_at),
        "next_check_at": iso(domain.check_at) if domain.check_at < now + _FAR else None,
    }


def _record_view(record: DnsRecord) -> DomainRecord:
    return {"type": record.type, "name": record.name, "value": record.value, "observed": record.observed}


def _certificate_view(facts: DomainFacts) -> CertificateView | None:
    """Never its key."""
    domain, certificate = facts.domain, facts.certificate
    if certificate is None or certificate.namespace != domain.namespace:
        return None
    return {
        "issuer": certificate.issuer,
        "not_before": iso(certificate.not_before),
        "not_after": iso(certificate.not_after),
        "renew_at": _time(renew_at(domain, facts.issuance, certificate)),
        "trusted": certificate.trusted,
    }


def _time(at: int | None) -> str | None:
    return None if at is None else iso(at)
