"""The writes of the API: creating, changing, deploying, putting to sleep and deleting services.

Laws kept here: 3 (a create or delete returns once every registered worker has applied it), 5 (what a call writes is
decided by pure functions of `updating`, `deploying` and `sleeping`) and 6 (`records`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from activator.planning import Note
from control.claims import changes as claims
from control.claims.claimant import Claimant
from control.claims.found import Finder, Found
from control.claims.writes import Domains
from control.contract.schemas import CreateBody, EnvBody, UpdateBody
from control.ports import Acknowledgements, Objects
from control.services import deploying, names, remains, sleeping, updating
from control.services.catalogue import Catalogue
from control.services.creation import Creation
from control.services.placement import live_offers
from control.services.quota import Quota, one_less
from control.services.records import REMOVAL_WAIT, Held, Outcome, Records, Write
from control.services.sealing import Sealing
from state.codec import encode
from state.ids import new_id, now_us
from state.kinds import Kind
from state.models import Event, Route
from state.secrets import Vault
from state.store import Change, Store

_SERVED_WAIT: Final = 3.0  # seconds for workers to know of a switch, for who waits for it


class Services:
    """Every call raises Problem 404 and 412 where it names a service, 503 after too many conflicts, and StoreError.

    `vault` is that of environments, `certificates` that of certificates.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        catalogue: Catalogue,
        vault: Vault,
        acknowledgements: Acknowledgements,
        claimant: Claimant,
        certificates: Vault,
        later: Callable[[str, Event], None] | None = None,
    ) -> None:
        self.sealing = Sealing(vault)
        self.records = Records(store, objects, catalogue, acknowledgements, later)
        self._catalogue = catalogue
        self._claimant = claimant
        self._finder = Finder(self.records, catalogue)
        self.domains = Domains(self.records, self._finder, claimant, certificates)
        self._site = claimant.site
        quota = Quota(store, objects, catalogue, self._site.max_services)
        self._creation = Creation(self.records, catalogue, self.sealing, claimant, quota)

    async def create(self, namespace: str, body: CreateBody) -> Outcome:
        """Raises Problem 409, 422."""
        return await self._creation.create(namespace, body)

    async def update(self, namespace: str, name: str, body: UpdateBody, *, if_match: str | None = None) -> Outcome:
        """Raises Problem 409, 422."""

        async def decide(held: Held) -> Write | None:
            offers = live_offers(self._catalogue.nodes()) if body.image is not None else ()
            domains = await self._domains(held, body)
            return updating.updated(held, body, self._sealed(held), offers, domains, new_id(), now_us())

        return await self.records.write(namespace, name, if_match, decide)

    async def patch_env(self, namespace: str, name: str, body: EnvBody, *, if_match: str | None = None) -> Outcome:
        """Raises Problem 409, 422."""

        async def decide(held: Held) -> Write | None:
            return updating.with_env(held, body, self._sealed(held), new_id(), now_us())

        return await self.records.write(namespace, name, if_match, decide)

    async def redeploy(
        self,
        namespace: str,
        name: str,
        *,
        cause: str = "redeploy",
        pushed: str | None = None,
        if_match: str | None = None,
    ) -> Outcome:
        """The branch's newest commit, or the image pulled again. `cause`: `redeploy` or `push`.

        `pushed`: the commit that a push told of. While a deployment is in progress it is remembered in the service, and
        the activator deploys it afterwards; nothing is done if it is deployed already, or on its way.
        Raises Problem 409 if one is in progress, unless `pushed`.
        """

        async def decide(held: Held) -> Write | None:
            return deploying.redeployed(held, cause, new_id(), now_us(), pushed=pushed)

        return await self.records.write(namespace, name, if_match, decide)

    async def rollback(
        self, namespace: str, name: str, deployment: str | None = None, *, if_match: str | None = None
    ) -> Outcome:
        """Back to what `deployment` ran, by default the newest superseded one. Raises Problem 409, 422."""

        async def decide(held: Held) -> Write | None:
            deploying.refuse_a_second(held)
            kept = await self.records.kept_deployments(held.service.id)
            return deploying.rolled_back(held, deploying.earlier(held, kept, deployment), new_id(), now_us())

        return await self.records.write(namespace, name, if_match, decide)

    async def cancel(self, namespace: str, name: str, *, if_match: str | None = None) -> Outcome:
        """End the deployment in progress. Raises Problem 409."""

        async def decide(held: Held) -> Write | None:
            return deploying.cancelled(held, now_us())

        return await self.records.write(namespace, name, if_match, decide)

    async def sleep(self, namespace: str, name: str, *, if_match: str | None = None) -> Outcome:
        """Drain it; the next request wakes it. Raises Problem 409."""

        async def decide(held: Held) -> Write | None:
            return sleeping.put_to_sleep(held)

        return await self.records.write(namespace, name, if_match, decide)

    async def wake(self, namespace: str, name: str, *, if_match: str | None = None) -> Outcome:
        """Start it as a request would. Raises Problem 409."""

        async def decide(held: Held) -> Write | None:
            return sleeping.woken(held, now_us())

        return await self.records.write(namespace, name, if_match, decide)

    async def delete(self, namespace: str, name: str, *, force: bool, if_match: str | None) -> None:
        """Returns once the workers answer 503 for its hosts."""

        async def decide(held: Held) -> Write | None:
            found = await self._finder.of(held)
            return _removed(held, self._site.host(held.service.label), found.values(), now_us(), force=force)

        await self.records.write(namespace, name, if_match, decide)

    async def deployed(self, outcome: Outcome, patience: float) -> None:
        """Until the deployment that the call started has ended and workers know, for `patience` seconds at most."""
        if outcome.started is not None:
            await self._catalogue.deployed(outcome.started, patience)
            await self.records.served(outcome.facts.service.id, _SERVED_WAIT)

    async def awake(self, outcome: Outcome, patience: float) -> None:
        """Until a replica is ready, or failed, and workers know, for `patience` seconds at most."""
        await self._catalogue.awake(outcome.facts.service.id, patience)
        await self.records.served(outcome.facts.service.id, _SERVED_WAIT)

    async def _domains(self, held: Held, body: UpdateBody) -> Callable[[], claims.Step] | None:
        if "custom_domain" not in body.model_fields_set:
            return None
        found, now = await self._finder.of(held, body.custom_domain), now_us()
        claim = functools.partial(self._claimant.claim, held.service, now=now)
        return functools.partial(claims.replaced, held, found, body.custom_domain, claim, now)

    def _sealed(self, held: Held) -> updating.Sealed:
        again: updating.Sealed = functools.partial(self.sealing.again, held.service)
        return again


def _removed(held: Held, host: str, domains: Iterable[Found], now: int, *, force: bool) -> Write:
    """The tombstones and the freed names in one commit; the activator stops the replicas (law 3)."""
    service = held.service
    gone = replace(service, deleted_at=now, updated_at=now, forced=force)
    tombstone = Route(service.id, service.namespace, service.name, deleted_at=now)
    changes = [
        Change(Kind.NAME, names.name_id(service.namespace, service.name), None),
        Change(Kind.SERVICE, service.id, encode(gone), held.version(Kind.SERVICE, service.id)),
        Change(Kind.ROUTE, host, encode(tombstone)),
        remains.note(service.id, remains.Gone(service.namespace, service.name, now)),
        one_less(service.namespace),
        *claims.released(service, domains, now),
    ]
    note = Note("service.deleted", "at once, by force" if force else "gracefully")
    return Write(replace(held, service=gone), changes, (note,), workers=REMOVAL_WAIT)
