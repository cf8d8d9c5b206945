"""Claims on custom domains as records: their ids, and what one begins with. Pure (law 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from certs.proof import txt_name
from state.certificates import DnsRecord, Domain

_MOMENT: Final = 5_000_000  # microseconds within which asking again writes nothing


def claim_id(namespace: str, domain: str) -> str:
    """The id of a namespace's claim (kind `domain`)."""
    return f"{namespace}/{domain}"


def new_claim(
    namespace: str, domain: str, service: str, *, endpoint: str, token: str, now: int, redirect: str | None = None
) -> Domain:
    """Unproved, and to be looked at now. `endpoint`: the host that the domain should lead to."""
    return Domain(
        namespace=namespace,
        name=domain,
        service=service,
        created_at=now,
        redirect=redirect,
        records=expected(domain, endpoint, token),
        check_at=now,
    )


def asked_again(claim: Domain, now: int) -> Domain | None:
    """To be looked at now, before what is due by its time; None if that was written a moment ago."""
    return None if 0 <= now - claim.check_at < _MOMENT else replace(claim, check_at=now)


def expected(domain: str, endpoint: str, token: str) -> tuple[DnsRecord, ...]:
    """What DNS should say, as long as nobody has looked: the first proves and leads here, the second proves alone."""
    return (DnsRecord("CNAME", domain, endpoint), DnsRecord("TXT", txt_name(domain), token))
