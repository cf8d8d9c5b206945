"""What the API looks up: services by namespace and name, their deployments, replicas and domains, keys by digest.

Indexes over the mirror, kept by its changes, so that a look-up costs no walk over all objects.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from activator.placement import Needs, unfit
from activator.status import service_status
from control.ports import Objects
from control.services import names
from control.services.listing import Listing
from control.services.waiting import Waiting
from state.certificates import Certificate, Domain, Issuance
from state.codec import DecodeError
from state.kinds import Kind
from state.models import ApiKey, Deployment, Node, Offer, Replica, Scale, Service

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A claim on a domain, and what is stored under the domain's name: perhaps another namespace's."""

    domain: Domain
    issuance: Issuance | None = None
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one service at one moment.

    `unfit`: why no live node can run it; None: one can. `lost`: the nodes that are not heard any more.
    """

    service: Service
    version: int
    latest: Deployment | None
    active: Deployment | None
    replicas: tuple[Replica, ...]
    scale: Scale
    domains: tuple[DomainFacts, ...] = ()
    unfit: str | None = None
    lost: frozenset[str] = frozenset()

    @property
    def deployments(self) -> Mapping[str, Deployment]:
        return {d.id: d for d in (self.latest, self.active) if d}

    @property
    def status(self) -> str:
        """SPEC section 2, Status."""
        runnable = self.unfit is None
        return service_status(
            self.service, self.deployments, self.replicas, self.scale, runnable=runnable, lost=self.lost
        )


class Catalogue:
    """Hand `changed` to the mirror as its `on_change`. `on_revoked` is called when a secret is good no more."""

    def __init__(self, objects: Objects, on_revoked: Callable[[], None] = lambda: None) -> None:
        self.waiting = Waiting()
        self._objects = objects
        self._listing = Listing(self._status_of)
        self._owner: dict[str, str] = {}  # replica id -> service id
        self._replicas: dict[str, set[str]] = defaultdict(set)  # service id -> replica ids
        self._deployment_owner: dict[str, str] = {}  # deployment id -> service id
        self._deployments: dict[str, set[str]] = defaultdict(set)  # service id -> deployment ids
        self._claimant: dict[str, str] = {}  # id of a claim on a domain -> service id
        self._claims: dict[str, set[str]] = defaultdict(set)  # service id -> ids of its claims
        self._digest: dict[str, str] = {}  # key id -> digest
        self._key: dict[str, str] = {}  # digest -> key id
        self._on_revoked = on_revoked
        self._keyed: Counter[str] = Counter()  # namespace -> its keys
        self._offers: tuple[Offer, ...] = ()  # of the nodes that are not lost
        self._lost: frozenset[str] = frozenset()
        self._unfit: dict[Needs, str | None] = {}

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> None:
        for kind, object_id in touched:
            try:
                self._note(kind, object_id)
            except DecodeError:
                _log.exception("the %s %s can't be read", kind, object_id)
        self.waiting.changed(touched)

    def service(self, namespace: str, name: str) -> Service | None:
        """The service of that name, also by another spelling that folds to it; deleted ones don't exist."""
        record = self._objects.get(Kind.NAME, names.name_id(namespace, name))
        service = self.service_by_id(record.value.decode()) if record else None
        return service if service and service.deleted_at is None else None

    def service_by_id(self, service_id: str) -> Service | None:
        """Also one that is being deleted."""
        return self._objects.decoded(Kind.SERVICE, service_id, Service)

    async def page(self, namespace: str, status: str | None, number: int, limit: int) -> tuple[list[Service], int]:
        """A page (from 1) of the services of a namespace, or of those of them with a status, ordered by `created_at`
        and id; and how many there are in all."""
        ids, total = await self._listing.page(namespace, status, (number - 1) * limit, number * limit)
        return self.services(ids), total

    def services(self, ids: Iterable[str]) -> list[Service]:
        found = (self.service_by_id(service_id) for service_id in ids)
        return [service for service in found if service]

    def exists(self, namespace: str) -> bool:
        """With a key of its own, or with a service."""
        return namespace in self._keyed or self._listing.inhabited(namespace)

    def count(self, namespace: str) -> int:
        """How many services it has."""
        return self._listing.count(namespace)

    def inhabited(self) -> set[str]:
        """Those with a service."""
        return self._listing.namespaces()

    def facts(self, service: Service) -> Facts:
        return replace(self._facts(service), domains=tuple(map(self.domain_facts, self.domains(service.id))))

    def _facts(self, service: Service) -> Facts:
        """Without its domains, which have nothing to do with its status."""
        record = self._objects.get(Kind.SERVICE, service.id)
        replicas = (self._objects.decoded(Kind.REPLICA, i, Replica) for i in self._replicas.get(service.id, ()))
        return Facts(
            service=service,
            version=record.version if record else 0,
            latest=self._objects.decoded(Kind.DEPLOYMENT, service.latest, Deployment),
            active=self._objects.decoded(Kind.DEPLOYMENT, service.active, Deployment) if service.active else None,
            replicas=tuple(replica for replica in replicas if replica),
            scale=self._objects.decoded(Kind.SCALE, service.id, Scale) or Scale(),
            unfit=self._why_unfit(service),
            lost=self._lost,
        )

    def domains(self, service_id: str) -> list[Domain]:
        """Those that a service claims, oldest first."""
        found = (self._objects.decoded(Kind.DOMAIN, i, Domain) for i in self._claims.get(service_id, ()))
        return sorted((domain for domain in found if domain), key=lambda domain: (domain.created_at, domain.name))

    def domain_names(self, service_id: str) -> list[str]:
        """The names of those, in no order."""
        return [claim.partition("/")[2] for claim in self._claims.get(service_id, ())]

    def domain_facts(self, domain: Domain) -> DomainFacts:
        return DomainFacts(
            domain,
            self._objects.decoded(Kind.ISSUANCE, domain.name, Issuance),
            self._objects.decoded(Kind.CERTIFICATE, domain.name, Certificate),
        )

    def _why_unfit(self, service: Service) -> str | None:
        """There are few kinds of needs, and many services. Nothing is said while no node is known."""
        needs = Needs.of(service)
        if needs not in self._unfit:
            self._unfit[needs] = unfit(needs, self._offers) if self._offers else None
        return self._unfit[needs]

    def nodes(self) -> list[Node]:
        """Those that have said what they offer, also lost ones."""
        return list(self._nodes().values())

    def _nodes(self) -> dict[str, Node]:
        found = {}
        for node_id in self._objects.records(Kind.NODE):
            try:
                node = self._objects.decoded(Kind.NODE, node_id, Node)
            except DecodeError:  # of a newer version; the leader, which places, says so
                continue
            if node is not None:
                found[node_id] = node
        return found

    def now(self, facts: Facts) -> Facts:
        """The same service as it is now, if that is newer."""
        service = self.service_by_id(facts.service.id)
        known = None if service is None or service.deleted_at is not None else self.facts(service)
        return facts if known is None or known.version < facts.version else known

    async def deployed(self, deployment_id: str, timeout: float) -> None:
        """Until the deployment is no longer in progress; for `timeout` seconds at most."""

        def ended() -> bool:
            deployment = self._objects.decoded(Kind.DEPLOYMENT, deployment_id, Deployment)
            return deployment is None or not deployment.state.in_progress

        await self.waiting.until((Kind.DEPLOYMENT, deployment_id), ended, timeout)

    async def awake(self, service_id: str, timeout: float) -> None:
        """Until the service has a replica that is ready, or failed at it; for `timeout` seconds at most."""

        def settled() -> bool:
            service = self.service_by_id(service_id)
            return service is None or self.facts(service).status not in ("stopped", "deploying")

        await self.waiting.until((Kind.BACKEND, service_id), settled, timeout)

    def deployments(self, service_id: str) -> list[Deployment]:
        """Those that are kept of a service, newest first."""
        found = (self._objects.decoded(Kind.DEPLOYMENT, i, Deployment) for i in self._deployments.get(service_id, ()))
        return sorted((d for d in found if d), key=lambda d: (d.created_at, d.id), reverse=True)

    def key(self, digest: str) -> ApiKey | None:
        """The key whose secret has this digest."""
        key_id = self._key.get(digest)
        return self._objects.decoded(Kind.KEY, key_id, ApiKey) if key_id else None

    def api_keys(self) -> list[ApiKey]:
        """All of them, by namespace and name."""
        found = (self._objects.decoded(Kind.KEY, key_id, ApiKey) for key_id in sorted(self._digest))
        return [key for key in found if key]

    def _note(self, kind: Kind, object_id: str) -> None:
        match kind:
            case Kind.SERVICE:
                self._note_service(object_id)
            case Kind.REPLICA:
                self._note_replica(object_id)
            case Kind.DEPLOYMENT:
                self._note_deployment(object_id)
            case Kind.SCALE:
                self._listing.stir(object_id)
            case Kind.DOMAIN:
                self._note_domain(object_id)
            case Kind.KEY:
                self._note_key(object_id)
            case Kind.NODE:
                self._note_nodes()
            case _:
                pass

    def _note_nodes(self) -> None:
        nodes = self._nodes()
        offers = tuple(node.offer for node in nodes.values() if node.lost_at is None)
        lost = frozenset(node_id for node_id, node in nodes.items() if node.lost_at is not None)
        if (offers, lost) != (self._offers, self._lost):
            self._offers, self._lost = offers, lost
            self._unfit.clear()
            self._listing.stir_all()

    def _status_of(self, service_id: str) -> str | None:
        service = self.service_by_id(service_id)
        return self._facts(service).status if service else None

    def _note_service(self, service_id: str) -> None:
        service = self.service_by_id(service_id)
        if service is None or service.deleted_at is not None:
            self._listing.drop(service_id)
        else:
            self._listing.put(service.namespace, service_id, service.created_at)

    def _note_replica(self, replica_id: str) -> None:
        replica = self._objects.decoded(Kind.REPLICA, replica_id, Replica)
        self._listing.stir(replica.service if replica else self._owner.get(replica_id, ""))
        if replica is None:
            if owner := self._owner.pop(replica_id, None):
                self._replicas[owner].discard(replica_id)
                if not self._replicas[owner]:
                    del self._replicas[owner]
        else:
            self._owner[replica_id] = replica.service
            self._replicas[replica.service].add(replica_id)

    def _note_deployment(self, deployment_id: str) -> None:
        deployment = self._objects.decoded(Kind.DEPLOYMENT, deployment_id, Deployment)
        if deployment is not None:
            self._listing.stir(deployment.service)
            self._deployment_owner[deployment_id] = deployment.service
            self._deployments[deployment.service].add(deployment_id)
        elif owner := self._deployment_owner.pop(deployment_id, None):
            self._deployments[owner].discard(deployment_id)
            if not self._deployments[owner]:
                del self._deployments[owner]

    def _note_domain(self, claim: str) -> None:
        domain = self._objects.decoded(Kind.DOMAIN, claim, Domain)
        owner = self._claimant.get(claim)
        if owner is not None and (domain is None or domain.service != owner):
            del self._claimant[claim]
            self._claims[owner].discard(claim)
            if not self._claims[owner]:
                del self._claims[owner]
        if domain is not None:
            self._claimant[claim] = domain.service
            self._claims[domain.service].add(claim)

    def _note_key(self, key_id: str) -> None:
        namespace = key_id.partition("/")[0]
        if old := self._digest.pop(key_id, None):
            del self._key[old]
            self._keyed[namespace] -= 1
        key = self._objects.decoded(Kind.KEY, key_id, ApiKey)
        if old and (key is None or key.digest != old):
            self._on_revoked()
        if key:
            self._digest[key_id] = key.digest
            self._key[key.digest] = key_id
            self._keyed[namespace] += 1
        if not self._keyed[namespace]:
            del self._keyed[namespace]
