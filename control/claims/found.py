"""What the store has of custom domains, as a write finds it.

Law kept here: 6. A service's record is written with every change of the set of its domains. So whoever has the record
of one version, and the mirror up to that version, knows all domains that it had then; that they are still all is what
the comparison of the record's version says at the commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from certs.claims import claim_id
from control.contract.problem import Problem
from control.services.catalogue import Catalogue
from control.services.records import Held, Records
from state.certificates import Certificate, Challenge, Domain, Issuance
from state.codec import decode
from state.kinds import Kind
from state.models import Route
from state.store import ABSENT, Change

_MODELS: Final[Mapping[Kind, type[Any]]] = {
    Kind.DOMAIN: Domain,
    Kind.ROUTE: Route,
    Kind.CERTIFICATE: Certificate,
    Kind.ISSUANCE: Issuance,
    Kind.CHALLENGE: Challenge,
}


@dataclass(frozen=True, slots=True)
class Found:
    """The claim of a namespace on a domain, and what is stored under the domain's name, whoever's it is."""

    namespace: str
    name: str
    domain: Domain | None = None
    route: Route | None = None
    certificate: Certificate | None = None
    issuance: Issuance | None = None
    challenge: Challenge | None = None
    versions: Mapping[Kind, int] | None = None

    def change(self, kind: Kind, value: bytes | None) -> Change:
        """Of the record of this kind, if it still is as it was found. Of one that was not there: it still is not."""
        object_id = claim_id(self.namespace, self.name) if kind is Kind.DOMAIN else self.name
        version = (self.versions or {}).get(kind, ABSENT)
        return Change(kind, object_id, value, version, unchanged=value is None and version == ABSENT)

    @property
    def led_elsewhere(self) -> bool:
        """Whether another namespace holds it."""
        return self.route is not None and self.route.namespace != self.namespace


@dataclass(frozen=True, slots=True)
class Finder:
    """Reads from the store itself."""

    records: Records
    catalogue: Catalogue

    async def of(self, held: Held, *more: str | None) -> dict[str, Found]:
        """Every domain of a service by name, and `more`, which may be nobody's or a sister's.

        Raises StoreError; Problem 503 if the mirror is too far behind to tell.
        """
        service = held.service
        if not await self.records.seen(held.version(Kind.SERVICE, service.id)):
            raise Problem(503, "What is known here is too old; try again.", headers={"Retry-After": "1"})
        names = dict.fromkeys([*self.catalogue.domain_names(service.id), *filter(None, more)])
        return await self.read(service.namespace, list(names))

    async def read(self, namespace: str, names: list[str]) -> dict[str, Found]:
        """Raises StoreError."""
        parts: dict[str, dict[str, Any]] = {name: {} for name in names}
        versions: dict[str, dict[Kind, int]] = {name: {} for name in names}
        for kind, model in _MODELS.items():
            by_id = {claim_id(namespace, name) if kind is Kind.DOMAIN else name: name for name in names}
            for object_id, record in (await self.records.store.get_many(kind, list(by_id))).items():
                name = by_id[object_id]
                parts[name][kind.value] = decode(model, record.value)
                versions[name][kind] = record.version
        return {name: Found(namespace, name, **parts[name], versions=versions[name]) for name in names}


def own(held: Held, found: Mapping[str, Found]) -> dict[str, Domain]:
    """The domains of the service itself among those that were found, oldest first."""
    mine = [f.domain for f in found.values() if f.domain is not None and f.domain.service == held.service.id]
    return {domain.name: domain for domain in sorted(mine, key=lambda domain: (domain.created_at, domain.name))}
