"""Creating and deleting services: what is written, in one commit each, and what is waited for.

Laws kept here: 3 (a create or delete returns once every registered worker has applied it), 6 (compare-and-set; a
conflict means looking again, never overwriting) and 8 (environments are sealed before they are stored).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from control import names, remains
from control.catalogue import Catalogue, Facts
from control.ports import Acknowledgements, Objects
from control.problem import FieldError, Problem, not_found, unprocessable
from control.schemas import CreateBody
from control.site import Site
from control.views import etag
from state.codec import decode, encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import (
    Backend,
    Deployment,
    DeploymentState,
    Event,
    Route,
    RunSpec,
    Scale,
    Scaling,
    Service,
)
from state.secrets import Vault
from state.store import ABSENT, Change, Conflict, Store, StoreError, Unavailable

_CREATE_WAIT: Final = 3.0  # seconds for the workers to know a new route: then it is told to the caller anyway
_DELETE_WAIT: Final = 5.0  # seconds (SPEC section 2, Delete)
_SEEN_WAIT: Final = 3.0  # seconds for our own write to come back by the feed
_ATTEMPTS: Final = 8

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class Label:
    """A label and whether it still has to be claimed."""

    text: str
    claimed: bool


class Services:
    """The writes of the API."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        catalogue: Catalogue,
        vault: Vault,
        acknowledgements: Acknowledgements,
        site: Site,
    ) -> None:
        self._store = store
        self._objects = objects
        self._catalogue = catalogue
        self._vault = vault
        self._acknowledgements = acknowledgements
        self._site = site

    async def create(self, namespace: str, body: CreateBody) -> Facts:
        """Raises Problem 409, 422; StoreError."""
        if errors := [*body.together(), *unavailable(body, self._site)]:
            raise unprocessable(errors)
        for _ in range(_ATTEMPTS):
            label = await self._label(namespace, body.name)
            service, deployment = self._new_service(namespace, body, label.text)
            scale = Scale(desired=max(1, service.min_replicas))
            try:
                revision = await self._commit(self._creation(service, deployment, scale, label), service)
            except Conflict as conflict:
                if conflict.kind is Kind.NAME:
                    raise _taken(conflict, namespace, body) from None
                continue  # somebody claimed the label meanwhile
            await self._event(service.id, "service.created", f"as {service.name}, label {service.label}")
            await self._settle(revision, _CREATE_WAIT)
            return Facts(service, revision, deployment, None, (), scale)
        raise Problem(503, "The name is being claimed by others; try again.", headers={"Retry-After": "1"})

    async def delete(self, namespace: str, name: str, *, force: bool, if_match: str | None) -> None:
        """Raises Problem 404, 412; StoreError."""
        for _ in range(_ATTEMPTS):
            service, version = await self._current(namespace, name)
            if if_match is not None and if_match not in ("*", etag(service)):
                raise Problem(412, "The service has changed: its ETag is another than that of If-Match.")
            try:
                removal = await self._removal(service, version, force=force)
                revision = await self._commit(removal, replace(service, deleted_at=now_us()))
            except Conflict:
                continue  # the activator wrote it meanwhile
            await self._event(service.id, "service.deleted", "at once, by force" if force else "gracefully")
            await self._settle(revision, _DELETE_WAIT)
            return
        raise Problem(503, "The service is being changed by others; try again.", headers={"Retry-After": "1"})

    async def _commit(self, changes: list[Change], wanted: Service) -> int:
        """Commit; where the answer is lost, look whether it happened, or a retry would be told that it is too late.

        `wanted`: the service as the commit leaves it, there or deleted. Raises Conflict, Unavailable.
        """
        try:
            return await self._store.commit(changes)
        except Unavailable:
            record = await self._store.get(Kind.SERVICE, wanted.id)
            found = decode(Service, record.value) if record else None
            there = found is not None and found.deleted_at is None
            if there != (wanted.deleted_at is None):
                raise
            return record.version if record else await self._store.revision()

    async def _current(self, namespace: str, name: str) -> tuple[Service, int]:
        """A service as the store has it now, which may be ahead of the mirror."""
        held = await self._store.get(Kind.NAME, names.name_id(namespace, name))
        record = await self._store.get(Kind.SERVICE, held.value.decode()) if held else None
        service = decode(Service, record.value) if record else None
        if record is None or service is None or service.deleted_at is not None:
            raise service_not_found(name)
        return service, record.version

    async def _label(self, namespace: str, name: str) -> Label:
        """The first candidate that is free or already ours."""
        owner = names.name_id(namespace, name)
        candidates = list(names.labels(namespace, name))
        owners = await self._store.get_many(Kind.LABEL, candidates)
        for candidate in candidates:
            record = owners.get(candidate)
            if record is None or record.value.decode() == owner:
                return Label(candidate, claimed=record is not None)
        raise Problem(409, "Every label for this name belongs to somebody else.", [FieldError("name", "is taken")])

    def _new_service(self, namespace: str, body: CreateBody, label: str) -> tuple[Service, Deployment]:
        service_id, deployment_id, now = new_id(), new_id(), now_us()
        run = self._run_spec(namespace, service_id, body)
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
            region=body.region or self._site.region,
            custom_domain=body.custom_domain,
            scaling=Scaling(**body.scaling.model_dump()),
            created_at=now,
            updated_at=now,
            latest=deployment_id,
        )
        return service, Deployment(deployment_id, service_id, DeploymentState.PENDING, run, now)

    def _run_spec(self, namespace: str, service_id: str, body: CreateBody) -> RunSpec:
        return RunSpec(
            repo=body.repo,
            branch=(body.branch or "main") if body.repo else None,
            image=body.image,
            port=body.port,
            health_check_path=body.health_check_path,
            cpu=body.cpu,
            memory=body.memory,
            env=self._sealed(namespace, service_id, body.env),
        )

    def _sealed(self, namespace: str, service_id: str, env: Mapping[str, str]) -> dict[str, str]:
        return {name: self._vault.seal(namespace, service_id, name, text) for name, text in env.items()}

    def _creation(self, service: Service, deployment: Deployment, scale: Scale, label: Label) -> list[Change]:
        """Everything of a new service in one commit; its route takes the place of an older one's tombstone."""
        owner = names.name_id(service.namespace, service.name)
        backend = Backend(
            service=service.id,
            namespace=service.namespace,
            name=service.name,
            concurrency=service.scaling.concurrency,
            hold_timeout=service.scaling.hold_timeout,
            affinity=service.scaling.affinity,
        )
        route = Route(service.id, service.namespace, service.name)
        changes = [
            Change(Kind.NAME, owner, service.id.encode(), ABSENT),
            Change(Kind.SERVICE, service.id, encode(service), ABSENT),
            Change(Kind.DEPLOYMENT, deployment.id, encode(deployment), ABSENT),
            Change(Kind.SCALE, service.id, encode(scale), ABSENT),
            Change(Kind.BACKEND, service.id, encode(backend), ABSENT),
            Change(Kind.ROUTE, self._site.host(service.label), encode(route)),
        ]
        if not label.claimed:
            changes.append(Change(Kind.LABEL, label.text, owner.encode(), ABSENT))
        if service.custom_domain:
            claim = names.domain_claim_id(service.namespace, service.custom_domain)
            changes.append(Change(Kind.NAME, claim, service.id.encode(), ABSENT))
        return changes

    async def _removal(self, service: Service, version: int, *, force: bool) -> list[Change]:
        """The tombstones and the freed names in one commit; the activator stops the replicas (law 3)."""
        now = now_us()
        host = self._site.host(service.label)
        gone = replace(service, deleted_at=now, updated_at=now, forced=force)
        tombstone = Route(service.id, service.namespace, service.name, deleted_at=now)
        changes = [
            Change(Kind.SERVICE, service.id, encode(gone), version),
            Change(Kind.ROUTE, host, encode(tombstone)),
            Change(Kind.NAME, names.name_id(service.namespace, service.name), None),
            remains.note(service.id, remains.Gone(service.namespace, service.name, now)),
        ]
        if service.custom_domain:
            changes.append(Change(Kind.NAME, names.domain_claim_id(service.namespace, service.custom_domain), None))
        return changes

    async def _settle(self, revision: int, timeout: float) -> None:
        """Until the workers have the change, and until the next read of ours shows it."""
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._acknowledgements.wait(revision, timeout))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SEEN_WAIT):
                    await self._objects.reached(revision)
        if not waiting.result():
            _log.warning("revision %d was not acknowledged by every worker within %g s", revision, timeout)

    async def _event(self, service: str, kind: str, reason: str) -> None:
        """Told after the commit: a store that went away in between leaves the change, not its event."""
        try:
            await self._store.append_event(service, Event(now_us(), kind, reason))
        except StoreError as error:
            _log.warning("the event %s of %s is lost: %s", kind, service, error)


def unavailable(body: CreateBody, site: Site) -> list[FieldError]:
    """What no node here can run (422), each with what there is."""
    offer, errors = site.offer, []
    if body.gpu != "none" and offer.gpus.get(body.gpu, 0) < (body.gpu_count or 1):
        have = ", ".join(f"{count} x {gpu}" for gpu, count in sorted(offer.gpus.items())) or "none"
        errors.append(FieldError("gpu", f"no node has {body.gpu_count or 1} x {body.gpu}; GPUs here: {have}"))
    if body.region is not None and body.region not in offer.regions:
        here = ", ".join(sorted(offer.regions))
        errors.append(FieldError("region", f"no node is in {body.region}; regions here: {here}"))
    if body.image is not None and not offer.images:
        errors.append(FieldError("image", f"no node runs images; the {offer.driver} driver runs a repo"))
    return errors


def service_not_found(name: str) -> Problem:
    return not_found(f"There is no service {name!r} in this namespace.")


def _taken(conflict: Conflict, namespace: str, body: CreateBody) -> Problem:
    if conflict.id == names.name_id(namespace, body.name):
        what = "is taken: another service of this namespace has it, or one that differs only in case, - and _"
        return Problem(409, f"name: {body.name} {what}", [FieldError("name", what)])
    what = "is held by another service of this namespace"
    return Problem(409, f"custom_domain: {body.custom_domain} {what}", [FieldError("custom_domain", what)])
