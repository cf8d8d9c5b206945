"""Makes claims on domains for services of this installation."""

from __future__ import annotations

from dataclasses import dataclass

from certs.claims import new_claim
from certs.proof import token
from control.site import Site
from state.certificates import Domain
from state.models import Service


@dataclass(frozen=True, slots=True, repr=False)
class Claimant:
    """`key`: that of `state.secret_key.DOMAIN_TOKENS`."""

    site: Site
    key: bytes

    def claim(self, service: Service, name: str, now: int, redirect: str | None = None) -> Domain:
        """With the records that DNS should have."""
        return new_claim(
            service.namespace,
            name,
            service.id,
            endpoint=self.site.host(service.label),
            token=token(self.key, service.namespace, name),
            now=now,
            redirect=redirect,
        )
