"""Custom domains as the API shows them. Pure (law 5). What another namespace has under a domain's name is not shown."""

from __future__ import annotations

from certs.status import renew_at, status
from control.contract.shapes import CertificateView, DomainRecord, DomainView
from control.contract.times import iso
from control.services.catalogue import DomainFacts
from state.models import Certificate, DnsRecord, Domain


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
        "certificate": _certificate_view(domain, facts.certificate),
        "created_at": iso(domain.created_at),
        "verified_at": _time(domain.verified_at),
        "checked_at": _time(domain.checked_at),
        "next_check_at": iso(domain.check_at),
    }


def _record_view(record: DnsRecord) -> DomainRecord:
    return {"type": record.type, "name": record.name, "value": record.value, "observed": record.observed}


def _certificate_view(domain: Domain, certificate: Certificate | None) -> CertificateView | None:
    """Never its key."""
    if certificate is None or certificate.namespace != domain.namespace:
        return None
    return {
        "issuer": certificate.issuer,
        "not_before": iso(certificate.not_before),
        "not_after": iso(certificate.not_after),
        "renew_at": _time(renew_at(domain, certificate)),
        "trusted": certificate.trusted,
    }


def _time(at: int | None) -> str | None:
    return None if at is None else iso(at)
