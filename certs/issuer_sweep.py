"""What is left behind of certificates and orders, and nobody wants any more.

Law kept here: 6 (what goes is compared with what was read, claim included; in doubt it stays until the next time).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from typing import Final, TypeVar

from certs import renewal
from certs.claims import claim_id
from certs.outcomes import dropped
from certs.spending import over as nothing_counts
from certs.wanted import of_domain
from state.certificates import Certificate, Challenge, Domain, Issuance, Spent
from state.codec import DecodeError, decode, encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Route
from state.store import ABSENT, Change, Conflict, Fence, Store

log = logging.getLogger(__name__)

STALE: Final = 3600 * 1_000_000  # µs; no order takes so long
_SLICE: Final = 100  # records looked at between two turns of the loop

T = TypeVar("T")


class Sweeper:
    """`platform`: names that are ours, of certificates and issuances, whatever the records say."""

    def __init__(self, store: Store, mirror: Mirror, platform: Collection[str]) -> None:
        self._store = store
        self._mirror = mirror
        self._platform = platform

    async def sweep(self, fence: Fence, now: int) -> int:
        """Remove what is over; how many records. Raises Fenced, Unavailable."""
        removed = 0
        async for change, claim in self._over(now):
            try:
                await self._store.commit([change, *claim], fence=fence)
            except Conflict:
                continue  # it is wanted again, or gone already
            removed += 1
        if removed:
            log.info("%d records of certificates and orders that nobody wants were removed", removed)
        return removed

    async def _over(self, now: int) -> AsyncIterator[tuple[Change, tuple[Change, ...]]]:
        async for name, version, certificate in self._records(Kind.CERTIFICATE, Certificate):
            if renewal.over(certificate, now) and not self._held(name, certificate.namespace):
                yield Change(Kind.CERTIFICATE, name, None, version), ()
        async for name, version, issuance in self._records(Kind.ISSUANCE, Issuance):
            if (left := self._left(name, issuance, now)) is not issuance:
                payload = None if left is None else encode(left)
                yield Change(Kind.ISSUANCE, name, payload, version), self._unclaimed(name, issuance, left)
        async for name, version, challenge in self._records(Kind.CHALLENGE, Challenge):
            if now - challenge.created_at > STALE and not self._ordering(name):
                yield Change(Kind.CHALLENGE, name, None, version), ()
        async for object_id, version, spent in self._records(Kind.BUDGET, Spent):
            if nothing_counts(object_id, spent, now):
                yield Change(Kind.BUDGET, object_id, None, version), ()

    async def _records(self, kind: Kind, model: type[T]) -> AsyncIterator[tuple[str, int, T]]:
        """Those that can be read."""
        for count, (object_id, record) in enumerate(list(self._mirror.records(kind).items())):
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            try:
                yield object_id, record.version, decode(model, record.value)
            except DecodeError as error:
                log.warning("%s %s can't be read: %s", kind, object_id, error)

    def _left(self, name: str, issuance: Issuance, now: int) -> Issuance | None:
        """What stays of it: nothing without a claim; no order that nobody goes on with."""
        if not issuance.namespace:
            return issuance if name in self._platform else None
        domain = self._known(Kind.DOMAIN, claim_id(issuance.namespace, name), Domain)
        if domain is None:
            return None
        stuck = issuance.began_at is not None and now - issuance.began_at > STALE
        if stuck and of_domain(domain, self._known(Kind.ROUTE, name, Route)) is None:
            return dropped(issuance)
        return issuance

    def _unclaimed(self, name: str, issuance: Issuance, left: Issuance | None) -> tuple[Change, ...]:
        """It goes only if its claim is gone in the store too: the mirror may be behind."""
        if left is not None or not issuance.namespace:
            return ()
        return (Change(Kind.DOMAIN, claim_id(issuance.namespace, name), None, ABSENT, unchanged=True),)

    def _held(self, name: str, namespace: str) -> bool:
        if not namespace:
            return name in self._platform
        route = self._known(Kind.ROUTE, name, Route)
        return route is not None and route.namespace == namespace

    def _ordering(self, name: str) -> bool:
        issuance = self._known(Kind.ISSUANCE, name, Issuance)
        return issuance is not None and issuance.began_at is not None

    def _known(self, kind: Kind, object_id: str, model: type[T]) -> T | None:
        try:
            return self._mirror.decoded(kind, object_id, model)
        except DecodeError:
            return None
