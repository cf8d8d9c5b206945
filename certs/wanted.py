"""Which names certificates are wanted for: pure (law 5).

A custom domain that is held and leads here; of the platform's own names the host of the API, and the platform domain
with its wildcard where TXT records can be set for it (no CA gives a wildcard for less: RFC 8555 8.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from certs.claims import claim_id
from state.certificates import Certificate, Domain
from state.models import Route

WILDCARD = "*."


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform's own names. `wildcard`: TXT records can be set for its domain."""

    domain: str
    api_host: str | None = None
    wildcard: bool = False

    def covers(self, name: str) -> bool:
        """Whether the wildcard's certificate counts for it (RFC 9525 6.3: one label)."""
        return name == self.domain or name.partition(".")[2] == self.domain


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that should be there. `names[0]` is the id of its issuance; all of `names` are in it.

    `service`: whose events tell of it; None for the platform's names.
    """

    names: tuple[str, ...]
    namespace: str = ""
    service: str | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def claim(self) -> str | None:
        """The id of the claim that it depends on."""
        return claim_id(self.namespace, self.name) if self.namespace else None

    def served_by(self, certificate: Certificate | None, now: int) -> bool:
        """Whether this certificate is the namespace's own, has not ended, and is for all of the names.

        One that begins later by our clock counts: the clock of its CA is the better one.
        """
        return (
            certificate is not None
            and certificate.namespace == self.namespace
            and set(certificate.names) >= set(self.names)
            and now < certificate.not_after
        )


def of_platform(platform: Platform) -> Iterator[Wanted]:
    """What is ordered for the platform itself."""
    if platform.wildcard:
        yield Wanted((WILDCARD + platform.domain, platform.domain))
    if platform.api_host is not None and not (platform.wildcard and platform.covers(platform.api_host)):
        yield Wanted((platform.api_host,))


def of_domain(domain: Domain | None, route: Route | None) -> Wanted | None:
    """What is wanted for a custom domain, by its holder's claim and its route: nothing unless it leads here."""
    if domain is None or route is None or route.deleted_at is not None or route.namespace != domain.namespace:
        return None
    if not (domain.held and domain.pointing):
        return None
    return Wanted((domain.name,), domain.namespace, domain.service)
