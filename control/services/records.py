"""The records of a service as the API's writes find and leave them.

Laws kept here: 3 (whoever is told of a change finds it in the next read), 6 (compare-and-set; a conflict means looking
again, never overwriting).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from activator.planning import Note
from control.contract import preconditions
from control.contract.problem import Problem, not_found
from control.ports import Acknowledgements, Objects
from control.services import names
from control.services.catalogue import Catalogue, Facts
from state.certificates import Domain
from state.codec import decode
from state.ids import now_us
from state.kinds import Kind
from state.models import Deployment, Event, Scale, Service
from state.store import ABSENT, Change, Conflict, Record, Store, StoreError, Unavailable

_SEEN_WAIT: Final = 3.0  # seconds for our own write to come back by the feed
ATTEMPTS: Final = 8
REMOVAL_WAIT: Final = 5.0  # seconds for workers to stop serving what is removed (SPEC section 2, Delete)

_log = logging.getLogger("wakegate.api")


@dataclass(frozen=True, slots=True)
class Held:
    """A service as the store has it at one moment; `versions` are those of what is here, by kind and id.

    `domains`: where the call has to do with them.
    """

    service: Service
    latest: Deployment | None
    active: Deployment | None
    scale: Scale
    versions: dict[tuple[Kind, str], int]
    domains: tuple[Domain, ...] | None = None

    def version(self, kind: Kind, object_id: str) -> int:
        return self.versions.get((kind, object_id), ABSENT)

    @property
    def in_progress(self) -> Deployment | None:
        return self.latest if self.latest is not None and self.latest.state.in_progress else None


@dataclass(frozen=True, slots=True)
class Write:
    """What a call wants to be written: `changes` in one commit, which leaves `held`; `notes` tell it afterwards.

    The first change is the one by which a commit whose answer was lost is found again. `started`: the deployment that
    begins with it. `workers`: seconds for all of them to have applied it; None: they needn't.
    """

    held: Held
    changes: Sequence[Change]
    notes: Sequence[Note]
    started: Deployment | None = None
    workers: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A service after a call. `started`: the id of the deployment that the call began; `secret`: shown once."""

    facts: Facts
    started: str | None = None
    secret: str | None = None


Decide = Callable[[Held], Awaitable[Write | None]]
"""What to write, from what is held; None = nothing. Called again after a conflict. Raises Problem."""


class Records:
    """Reads from the store itself, which may be ahead of the mirror. `later` takes events that it can't take now."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        catalogue: Catalogue,
        acknowledgements: Acknowledgements,
        later: Callable[[str, Event], None] | None = None,
    ) -> None:
        self.store = store
        self._later = later
        self._objects = objects
        self._catalogue = catalogue
        self._acknowledgements = acknowledgements

    async def write(self, namespace: str, name: str, if_match: str | None, decide: Decide) -> Outcome:
        """Write what `decide` says. Raises Problem 404, 412, 503, and what `decide` raises; StoreError."""
        for _ in range(ATTEMPTS):
            held = await self.held(namespace, name)
            preconditions.check(if_match, preconditions.etag(held.service))
            wanted = await decide(held)
            if wanted is None:
                return Outcome(self._facts(held))
            try:
                revision = await self.commit(wanted.changes)
            except Conflict:
                continue  # the activator, a duty of the leader or another call wrote it meanwhile
            for note in wanted.notes:
                await self.tell(held.service.id, note)
            seen = await (self.seen(revision) if wanted.workers is None else self.settle(revision, wanted.workers))
            started = None if wanted.started is None else wanted.started.id
            return Outcome(self._facts(wanted.held, seen=seen), started)
        raise contended()

    async def held(self, namespace: str, name: str) -> Held:
        """Raises Problem 404; StoreError."""
        name_record = await self.store.get(Kind.NAME, names.name_id(namespace, name))
        record = await self.store.get(Kind.SERVICE, name_record.value.decode()) if name_record else None
        service = decode(Service, record.value) if record else None
        if record is None or service is None or service.deleted_at is not None:
            raise service_not_found(name)
        versions = {(Kind.SERVICE, service.id): record.version}
        found = await self.deployments([i for i in (service.latest, service.active) if i])
        versions |= {(Kind.DEPLOYMENT, i): r.version for i, (_, r) in found.items()}
        scale = await self.store.get(Kind.SCALE, service.id)
        if scale is not None:
            versions[Kind.SCALE, service.id] = scale.version
        by_id = {i: deployment for i, (deployment, _) in found.items()}
        return Held(
            service=service,
            latest=by_id.get(service.latest),
            active=by_id.get(service.active or ""),
            scale=Scale() if scale is None else decode(Scale, scale.value),
            versions=versions,
        )

    async def deployments(self, ids: Sequence[str]) -> dict[str, tuple[Deployment, Record]]:
        """Those of `ids` that exist. Raises StoreError."""
        records = await self.store.get_many(Kind.DEPLOYMENT, ids)
        return {i: (decode(Deployment, record.value), record) for i, record in records.items()}

    async def kept_deployments(self, service: str) -> list[Deployment]:
        """Those that are kept of a service, as far as the mirror knows; read anew, for what is made of them."""
        ids = [deployment.id for deployment in self._catalogue.deployments(service)]
        return [deployment for deployment, _ in (await self.deployments(ids)).values()]

    async def commit(self, changes: Sequence[Change]) -> int:
        """Commit; where the answer is lost, look whether it happened, or a retry would be told that it is too late.

        Raises Conflict, Unavailable.
        """
        try:
            return await self.store.commit(changes)
        except Unavailable:
            proof = changes[0]
            record = await self.store.get(proof.kind, proof.id)
            if not _landed(proof, record):
                raise
            return record.version if record else await self.store.revision()

    async def seen(self, revision: int) -> bool:
        """Until the next read of ours shows it; False: it takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_WAIT):
                await self._objects.reached(revision)
                return True
        return False

    async def settle(self, revision: int, timeout: float) -> bool:
        """Until the workers have it, too: for `timeout` seconds. Returns what `seen` does."""
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._acknowledgements.wait(revision, timeout))
            seen = await self.seen(revision)
        if not waiting.result():
            _log.warning("revision %d was not acknowledged by every worker within %g s", revision, timeout)
        return seen

    async def served(self, service_id: str, timeout: float) -> None:
        """Until the workers have what is known now of a service's replicas."""
        record = self._objects.get(Kind.BACKEND, service_id)
        if record is not None:
            await self._acknowledgements.wait(record.version, timeout)

    async def tell(self, service: str, note: Note) -> None:
        """A store that can't take the event now is told it later, where there is somebody who does that."""
        event = Event(now_us(), note.kind, str(note.reason), note.deployment, note.replica)
        try:
            await self.store.append_event(service, event)
        except StoreError as error:
            if self._later is None:
                _log.warning("the event %s of %s is lost: %s", note.kind, service, error)
            else:
                self._later(service, event)

    async def keep_events(self, service: str) -> None:
        """Of a service that is stored now. Where the store can't do it, they go after a day."""
        with contextlib.suppress(StoreError):
            await self.store.keep_events(service)

    async def forget_events(self, service: str) -> None:
        """Of a service that did not come to be. Where the store can't do it, they go after a day."""
        with contextlib.suppress(StoreError):
            await self.store.forget_events(service, after=0)

    def _facts(self, held: Held, *, seen: bool = True) -> Facts:
        """What a read shows now; what was found or written, where the mirror has not come so far."""
        version = held.version(Kind.SERVICE, held.service.id)
        known = self._catalogue.service_by_id(held.service.id)
        facts = self._catalogue.facts(known or held.service)
        if known is not None and seen and facts.version >= version:
            return facts
        if held.domains is not None:
            facts = replace(facts, domains=tuple(map(self._catalogue.domain_facts, held.domains)))
        return replace(
            facts, service=held.service, version=version, latest=held.latest, active=held.active, scale=held.scale
        )


def _landed(change: Change, record: Record | None) -> bool:
    """Whether a commit with this change happened, as far as its record tells. What was put new may have gone on."""
    if change.value is None:
        return record is None
    return record is not None and (change.expect == ABSENT or record.value == change.value)


def contended() -> Problem:
    return Problem(503, "The service is being changed by others; try again.", headers={"Retry-After": "1"})


def service_not_found(name: str) -> Problem:
    return not_found(f"There is no service {name!r} in this namespace.")
