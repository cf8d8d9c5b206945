"""Creating a service: its label and everything that it begins with, in one commit.

Laws kept here: 3 (a create returns once every registered worker knows the route), 6 (a label or a name that somebody
claims meanwhile means looking again) and 8 (environments and secrets are sealed before they are stored).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from activator.placement import Needs
from activator.planning import Note
from certs.claims import claim_id
from control.claims.changes import added, taken
from control.claims.claimant import Claimant
from control.contract.problem import FieldError, Problem, unprocessable
from control.contract.schemas import CreateBody
from control.pushes.signatures import new_secret
from control.services import names
from control.services.catalogue import Catalogue, DomainFacts, Facts
from control.services.placement import live_offers, refusals
from control.services.quota import Quota
from control.services.records import ATTEMPTS, Outcome, Records
from control.services.sealing import Sealing
from state.certificates import Domain
from state.codec import encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import Backend, Deployment, DeploymentState, Route, RunSpec, Scale, Scaling, Service
from state.store import ABSENT, Change, Conflict, Full

_WAIT: Final = 3.0  # seconds for the workers to know a new route: then it is told to the caller anyway


@dataclass(frozen=True, slots=True)
class Label:
    """A label and whether it still has to be claimed."""

    text: str
    claimed: bool


@dataclass(frozen=True, slots=True)
class Creation:
    """`create`, with what it needs."""

    records: Records
    catalogue: Catalogue
    sealing: Sealing
    claimant: Claimant
    quota: Quota

    async def create(self, namespace: str, body: CreateBody) -> Outcome:
        """The secret is that of the push webhook, for a repo. Raises Problem 409, 422, 503; StoreError."""
        if errors := [*body.together(), *self._lacking(body)]:
            raise unprocessable(errors)
        secret = new_secret() if body.repo is not None else None
        await self.quota.mend(namespace)
        for _ in range(ATTEMPTS):
            label = await self._label(namespace, body.name)
            service, deployment = self._new_service(namespace, body, label.text, secret)
            domain = self._claim(service)
            scale = Scale(desired=max(1, service.min_replicas))
            await self._tell(service, domain)  # first: from the commit on, the leader tells what becomes of it
            try:
                revision = await self.records.commit(self._changes(service, deployment, scale, label, domain))
            except Conflict as conflict:
                await self.records.forget_events(service.id)
                _refuse_taken(conflict, body)
                continue  # somebody claimed the label meanwhile
            except Full as full:
                await self.records.forget_events(service.id)
                raise self.quota.refusal(full) from None
            await self.records.keep_events(service.id)
            await self.records.settle(revision, _WAIT)
            domains = () if domain is None else (DomainFacts(domain),)
            return Outcome(Facts(service, revision, deployment, None, (), scale, domains), deployment.id, secret)
        raise Problem(503, "The name is being claimed by others; try again.", headers={"Retry-After": "1"})

    def _claim(self, service: Service) -> Domain | None:
        name = service.custom_domain
        return None if name is None else self.claimant.claim(service, name, service.created_at)

    async def _tell(self, service: Service, domain: Domain | None) -> None:
        note = Note("service.created", f"as {service.name}, label {service.label}", deployment=service.latest)
        for one in (note, *(() if domain is None else (added(domain),))):
            await self.records.tell(service.id, one)

    def _lacking(self, body: CreateBody) -> list[FieldError]:
        """Raises Problem 503."""
        region = body.region or self.claimant.site.region
        needs = Needs(region, body.gpu, body.gpu_count or 1, image=body.image is not None)
        return refusals(needs, live_offers(self.catalogue.nodes()))

    async def _label(self, namespace: str, name: str) -> Label:
        """The first candidate that is free or already ours."""
        owner = names.name_id(namespace, name)
        candidates = list(names.labels(namespace, name))
        owners = await self.records.store.get_many(Kind.LABEL, candidates)
        for candidate in candidates:
            record = owners.get(candidate)
            if record is None or record.value.decode() == owner:
                return Label(candidate, claimed=record is not None)
        raise Problem(409, "Every label for this name belongs to somebody else.", [FieldError("name", "is taken")])

    def _new_service(
        self, namespace: str, body: CreateBody, label: str, secret: str | None
    ) -> tuple[Service, Deployment]:
        service_id, deployment_id, now = new_id(), new_id(), now_us()
        run = RunSpec(
            repo=body.repo,
            branch=(body.branch or "main") if body.repo else None,
            image=body.image,
            port=body.port,
            health_check_path=body.health_check_path,
            cpu=body.cpu,
            memory=body.memory,
            env=self.sealing.environment(namespace, service_id, body.env),
        )
        service = Service(
            id=service_id,
            namespace=namespace,
            name=body.name,
            label=label,
            run=run,
            gpu=body.gpu,
            gpu_count=None if body.gpu == "none" else body.gpu_count or 1,
            min_replicas=body.min_replicas,
            max_replicas=body.max_replicas or max(1, body.min_replicas),
            target_gpu_utilization=body.target_gpu_utilization,
            region=body.region or self.claimant.site.region,
            custom_domain=body.custom_domain,
            scaling=Scaling(**body.scaling.model_dump()),
            created_at=now,
            updated_at=now,
            latest=deployment_id,
            webhook="" if secret is None else self.sealing.webhook(namespace, service_id, secret),
        )
        return service, Deployment(deployment_id, service_id, DeploymentState.PENDING, run, now)

    def _changes(
        self, service: Service, deployment: Deployment, scale: Scale, label: Label, domain: Domain | None
    ) -> list[Change]:
        """Everything of a new service in one commit; its route takes the place of an older one's tombstone."""
        owner = names.name_id(service.namespace, service.name)
        backend = Backend(
            service=service.id,
            namespace=service.namespace,
            name=service.name,
            concurrency=service.scaling.concurrency,
            hold_timeout=service.scaling.hold_timeout,
            affinity=service.scaling.affinity,
            hold_keepalive=service.scaling.hold_keepalive,
            waiting_page=service.scaling.waiting_page,
        )
        route = Route(service.id, service.namespace, service.name)
        changes = [
            Change(Kind.SERVICE, service.id, encode(service), ABSENT),
            Change(Kind.NAME, owner, service.id.encode(), ABSENT),
            Change(Kind.DEPLOYMENT, deployment.id, encode(deployment), ABSENT),
            Change(Kind.SCALE, service.id, encode(scale), ABSENT),
            Change(Kind.BACKEND, service.id, encode(backend), ABSENT),
            Change(Kind.ROUTE, self.claimant.site.host(service.label), encode(route)),
            self.quota.one_more(service.namespace),
        ]
        if not label.claimed:
            changes.append(Change(Kind.LABEL, label.text, owner.encode(), ABSENT))
        if domain is not None:
            changes.append(Change(Kind.DOMAIN, claim_id(domain.namespace, domain.name), encode(domain), ABSENT))
        return changes


def _refuse_taken(conflict: Conflict, body: CreateBody) -> None:
    """Raises Problem 409 if the name or the domain is another service's."""
    if conflict.kind is Kind.DOMAIN and body.custom_domain is not None:
        raise taken(body.custom_domain, "custom_domain") from None
    if conflict.kind is Kind.NAME:
        what = "is taken: another service of this namespace has it, or one that differs only in case, - and _"
        raise Problem(409, f"name: {body.name} {what}", [FieldError("name", what)]) from None
