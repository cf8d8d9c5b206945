"""Domains of a service as people read them: state, reason, what to do, and what DNS says beside what it should.

Pure functions of what the API answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wakegate.commands.output import Cell, cell, status_text

COLUMNS: Final = ("DOMAIN", "STATUS", "REASON", "CERTIFICATE", "SENT ON TO")
RECORD_COLUMNS: Final = ("TYPE", "NAME", "EXPECTED", "OBSERVED")

_SET: Final = "set the records below where the DNS of the domain is kept"
_LATER: Final = "nothing: it is tried again by itself"
_BY_STATUS: Final = {
    "pending_dns": _SET,
    "pending_ownership": "set the TXT record below: it moves the domain here",
    "moved": "set the TXT record below to get it back, or remove the domain",
    "verified": "nothing: its certificate comes next",
    "issuing": "nothing: its certificate is being ordered",
    "failed": "put right what the reason names, then add the domain again: it is looked at at once",
}
_BY_REASON: Final = {
    "cname_loop": "end the loop of CNAME records: the domain should lead to the expected name",
    "cname_too_long": "shorten the chain of CNAME records: it should lead to the expected name directly",
    "aaaa_mismatch": "remove the AAAA records that are not expected below, or correct them",
    "dns_timeout": "nothing here: the name servers of the domain don't answer; ask who runs them",
    "dns_error": "nothing here: the name servers of the domain answer with an error; ask who runs them",
    "caa_forbidden": "allow the CA in the CAA records of the domain, then add the domain again",
    "rate_limited": _LATER,
    "budget_exhausted": _LATER,
    "ca_error": _LATER,
    "ca_unreachable": _LATER,
    "account_error": "ask the operator of this platform: its account at the CA does not work",
    "hook_failed": "ask the operator of this platform: its DNS hook does not work",
}


def domain_row(domain: Mapping[str, Any]) -> list[Cell | None]:
    return [
        domain["name"],
        status_text(domain["status"]),
        domain["reason"],
        _certificate_line(domain["certificate"]),
        domain["redirect_to"],
    ]


def record_row(record: Mapping[str, Any]) -> list[Cell | None]:
    """What is as it should be is green."""
    observed = cell(record["observed"])
    if record["observed"] == record["value"]:
        observed.stylize("green")
    return [record["type"], record["name"], record["value"], observed]


def domain_facts(domain: Mapping[str, Any]) -> dict[str, Cell | None]:
    """All but the records."""
    return {
        "domain": domain["name"],
        "status": status_text(domain["status"]),
        "reason": domain["reason"],
        "detail": domain["detail"],
        "to do": to_do(domain),
        "sent on to": domain["redirect_to"],
        "certificate": _certificate_line(domain["certificate"]),
        "next renewal": None if domain["certificate"] is None else domain["certificate"]["renew_at"],
        "checked": domain["checked_at"] or "not yet",
        "next check": domain["next_check_at"] or "when you add it again",
    }


def to_do(domain: Mapping[str, Any]) -> str | None:
    """What its owner has to do next."""
    if domain["status"] == "active":
        return _BY_REASON.get(domain["reason"], _SET) if domain["reason"] else None
    return _BY_REASON.get(domain["reason"]) or _BY_STATUS.get(domain["status"])


def settled(domains: Sequence[Mapping[str, Any]]) -> bool:
    """Whether nothing is left to wait for."""
    return all(domain["status"] == "active" for domain in domains)


def _certificate_line(certificate: Mapping[str, Any] | None) -> str | None:
    if certificate is None:
        return None
    trusted = "" if certificate["trusted"] else ", not trusted by all"
    return f"{certificate['issuer']}, until {certificate['not_after'][:16]}Z{trusted}"
