"""Webhook deliveries of forges: from a proof that holds to a redeploy.

Laws kept here: nothing is told to whoever has no secret (an unknown service, one without a webhook and a wrong
signature take the same work and get the same answer), and nothing of what he sent is parsed; a delivery counts once; a
push that comes during a deployment is remembered, so that the last one wins. Law 7: of a body only its beginning is
kept, and an address that is wrong too often waits, unless it has been right at the same path.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from aiohttp import web

from activator.planning import Note
from control.contract.problem import FieldError, Problem, bad_request, unprocessable
from control.credentials.acquaintances import Acquaintances
from control.credentials.failures import Failures, client_of
from control.ports import Objects
from control.pushes.decisions import HEAD, Action, NotAPush, Push, Verdict, is_push, judge, no_news, read_push
from control.pushes.deliveries import Deliveries
from control.pushes.signatures import Check, Origin, new_secret
from control.services.catalogue import Catalogue
from control.services.records import Held, Write
from control.services.writes import Services
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import Service
from state.secret_key import SecretError
from state.store import Change, Store, StoreError

BODY_LIMIT: Final = 25 << 20  # bytes: no forge sends more (GitHub's cap; the others send far less)
_FAILURES: Final = 60  # of an address in a minute
_ACQUAINTED: Final = 86_400.0  # seconds
_DECOY: Final = "decoy"

_log = logging.getLogger("wakegate.api")


@dataclass(slots=True)
class Delivery:
    """One delivery while its body comes. `service` is None where nobody can prove anything.

    `acquaintance`: who sends it, and where to.
    """

    service: Service | None
    check: Check
    origin: Origin
    address: str | None
    acquaintance: str
    head: bytearray = field(default_factory=bytearray)
    size: int = 0

    def feed(self, data: bytes) -> None:
        """Raises Problem 413."""
        self.size += len(data)
        if self.size > BODY_LIMIT:
            raise too_large()
        self.check.feed(data)
        self.head += data[: HEAD - len(self.head)]


@dataclass(frozen=True, slots=True)
class Reception:
    """What became of a delivery, for the forge's log of deliveries. `deployment`: the id of the one that began."""

    action: Literal["redeploy", "queued", "none"]
    reason: str
    deployment: str | None = None


def too_large() -> Problem:
    return Problem(413, f"A delivery may have {BODY_LIMIT >> 20} MiB.", headers={"Connection": "close"})


class Hooks:
    """`begin` a delivery, `feed` it its body, `finish` it."""

    def __init__(self, store: Store, objects: Objects, catalogue: Catalogue, services: Services) -> None:
        self._objects = objects
        self._catalogue = catalogue
        self._services = services
        self._sealing = services.sealing
        self._deliveries = Deliveries(store)
        self._failures = Failures(_FAILURES)
        self._acquainted = Acquaintances(_ACQUAINTED)
        self.counts: Counter[str] = Counter({"redeploy": 0, "queued": 0, "none": 0, "refused": 0})
        """Deliveries by what became of them; `refused` are those without a valid signature."""
        self._decoy = self._sealing.vault.seal("", "", _DECOY, new_secret())

    def begin(self, namespace: str, name: str, headers: Mapping[str, str], address: str | None) -> Delivery:
        """`headers` by their names in lower case. Raises Problem 429, 503."""
        if not self._objects.run_id:
            raise Problem(503, "The store has not been read yet; try again.", headers={"Retry-After": "1"})
        acquaintance, now = f"{client_of(address)} {namespace}/{name}", time.monotonic()
        if (wait := self._failures.wait(address, now)) and not self._acquainted.known(acquaintance, now):
            self.counts["refused"] += 1
            raise _too_often(wait)
        service = self._catalogue.service(namespace, name)
        secret, found = self._secret(service)
        check = Check(secret, headers, time.time())
        return Delivery(service if found else None, check, Origin.of(headers), address, acquaintance)

    def _secret(self, service: Service | None) -> tuple[str, bool]:
        """The secret, and whether it is the service's own: where there is none, a decoy is opened instead."""
        if service is not None and service.webhook:
            try:
                return self._sealing.webhook_secret(service) or "", True
            except SecretError as error:
                _log.error("the webhook secret of service %s can't be read: %s", service.id, error)
        return self._sealing.vault.unseal("", "", _DECOY, self._decoy), False

    async def finish(self, delivery: Delivery) -> Reception:
        """Raises Problem 400, 403, 404, 429; StoreError."""
        reception = await self._received(delivery)
        self.counts[reception.action] += 1
        return reception

    async def _received(self, delivery: Delivery) -> Reception:
        service, now = delivery.service, time.monotonic()
        if not delivery.check.holds() or service is None:
            self.counts["refused"] += 1
            if wait := self._failures.note(delivery.address, now):
                raise _too_often(wait)
            raise Problem(403, "Nothing at this path has the secret that this delivery was signed with.")
        self._acquainted.met(delivery.acquaintance, now)
        facts = self._catalogue.facts(service)
        verdict = judge(delivery.origin, _push(delivery), service, facts.latest, facts.active)
        if not verdict.hooked:
            return Reception("none", verdict.reason)
        marks = delivery.check.marks(delivery.origin.delivery)
        if not await self._deliveries.take(service.id, marks):
            return Reception("none", "this delivery came before")
        try:
            return await self._act(service, verdict)
        except (Problem, StoreError):
            with contextlib.suppress(StoreError):
                await self._deliveries.drop(service.id, marks)
            raise

    async def _act(self, service: Service, verdict: Verdict) -> Reception:
        """Raises Problem 404, 503; StoreError."""
        if verdict.action is Action.NOTHING:
            if service.hooked_at is None:
                await self._hooked(service, Note("webhook.seen", "its forge tells of pushes by webhook"))
            return Reception("none", verdict.reason)
        await self._hooked(service, Note("push.received", verdict.reason))
        commit = verdict.commit
        outcome = await self._services.redeploy(service.namespace, service.name, cause="push", pushed=commit)
        if outcome.started is not None:
            return Reception("redeploy", verdict.reason, outcome.started)
        if outcome.facts.service.pushed == commit:
            return Reception("queued", f"{verdict.reason}; it is deployed after the deployment in progress")
        return Reception("none", no_news(commit))

    async def _hooked(self, service: Service, note: Note) -> None:
        """Remember that webhooks tell of its pushes."""

        async def decide(held: Held) -> Write | None:
            if held.service.id != service.id:
                return None  # deleted, and another by that name was made
            after = replace(held.service, hooked_at=now_us())
            return Write(replace(held, service=after), (_put(held, after),), (note,))

        await self._services.records.write(service.namespace, service.name, None, decide)

    async def rotate(self, namespace: str, name: str, if_match: str | None) -> str:
        """A new secret, shown this once; the one before counts no more. Raises Problem 404, 412, 422; StoreError."""
        secret = new_secret()

        async def decide(held: Held) -> Write | None:
            service = held.service
            if service.run.repo is None:
                raise unprocessable([FieldError("repo", f"{service.name} runs an image: nothing is pushed to it")])
            sealed = self._sealing.webhook(service.namespace, service.id, secret)
            after = replace(service, webhook=sealed, hooked_at=None)
            note = Note("webhook.rotated", "it has a new secret; deliveries signed with the one before are refused")
            return Write(replace(held, service=after), (_put(held, after),), (note,))

        await self._services.records.write(namespace, name, if_match, decide)
        return secret


HOOKS: Final = web.AppKey("hooks", Hooks)


def _put(held: Held, service: Service) -> Change:
    return Change(Kind.SERVICE, service.id, encode(service), held.version(Kind.SERVICE, service.id))


def _push(delivery: Delivery) -> Push | None:
    """Raises Problem 400."""
    if not is_push(delivery.origin):
        return None
    try:
        return read_push(bytes(delivery.head))
    except NotAPush as error:
        raise bad_request([FieldError("body", str(error))]) from None


def _too_often(wait: float) -> Problem:
    detail = "Too many deliveries without a valid signature came from this address."
    return Problem(429, detail, headers={"Retry-After": str(int(wait) + 1), "Connection": "close"})
