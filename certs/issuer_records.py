"""What the store has of a name that a certificate is wanted for, and every commit of an order.

Laws kept here: 6 (each commit is fenced, and compared with what was read: another leader, an owner who removed his
domain or a namespace that took it over make it fail; it has in it what is spent of the name's budgets) and 8 (keys are
sealed before they come here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from certs.spending import of_name, of_namespace
from certs.wanted import Wanted, of_domain
from state.certificates import Certificate, Challenge, Domain, Issuance, Spent
from state.codec import DecodeError, decode, encode
from state.kinds import Kind
from state.models import Route
from state.store import ABSENT, Change, Conflict, Fence, Store

T = TypeVar("T")

_ATTEMPTS: Final = 5  # of a commit while DNS is looked at, which changes the claim but not whose it is


class Lost(Exception):
    """The order is not ours any more: its name was removed or moved, its record changed, or another control leads."""


class Tenure(Protocol):
    """`state.leases.Lease`: who has no fence does not lead."""

    @property
    def fence(self) -> Fence | None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of one name; `versions` by kind and id; `spent` of the name's budgets, whoever held it."""

    wanted: Wanted
    issuance: Issuance
    certificates: Mapping[str, Certificate | None]
    domain: Domain | None
    route: Route | None
    versions: Mapping[tuple[Kind, str], int] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)

    def version(self, kind: Kind, object_id: str) -> int:
        return self.versions.get((kind, object_id), ABSENT)

    def change(self, kind: Kind, object_id: str, value: bytes | None) -> Change:
        """Of a record that still is as it was read."""
        return Change(kind, object_id, value, self.version(kind, object_id))

    @property
    def certificate(self) -> Certificate | None:
        """What the name is served with, if all of its names are served with the same."""
        return shared(list(self.certificates.values()))

    @property
    def held(self) -> bool:
        """Whether the name still is its namespace's, wherever it leads."""
        if not self.wanted.namespace:
            return True
        domain, route = self.domain, self.route
        return domain is not None and domain.held and route is not None and route.namespace == domain.namespace

    @property
    def pointing(self) -> bool:
        """Whether an order may be made for it: it is held and leads here."""
        return not self.wanted.namespace or of_domain(self.domain, self.route) is not None


def shared(found: Sequence[Certificate | None]) -> Certificate | None:
    """The certificate that all of these are."""
    first = found[0] if found else None
    return first if first is not None and all(c is not None and c.chain == first.chain for c in found) else None


class Records:
    """Reads from the store itself, never from a copy that may be behind: after taking the lease, look again."""

    def __init__(self, store: Store, tenure: Tenure) -> None:
        self._store = store
        self._tenure = tenure

    @property
    def fence(self) -> Fence | None:
        """None: another control leads, and no commit would succeed."""
        return self._tenure.fence

    async def read(self, wanted: Wanted) -> Seen:
        """Raises StoreError, DecodeError (of the claim)."""
        versions: dict[tuple[Kind, str], int] = {}
        issuance = await self._readable(Kind.ISSUANCE, wanted.name, Issuance, versions)
        if issuance is None or issuance.namespace != wanted.namespace or issuance.names != wanted.names:
            issuance = Issuance(wanted.names, wanted.namespace)
        spent = await self._readable(Kind.BUDGET, of_name(wanted.name), Spent, versions) or Spent()
        issuance = replace(issuance, ordered=spent.ordered, failed=spent.failed)
        certificates = {
            name: await self._readable(Kind.CERTIFICATE, name, Certificate, versions) for name in wanted.names
        }
        domain, route = await self._claim(wanted, versions)
        await self._readable(Kind.CHALLENGE, wanted.name, Challenge, versions)
        return Seen(wanted, issuance, certificates, domain, route, versions, spent)

    async def spent_by(self, namespace: str) -> tuple[Spent, int]:
        """Of its budget, and the version of that record. Raises StoreError."""
        versions: dict[tuple[Kind, str], int] = {}
        spent = await self._readable(Kind.BUDGET, of_namespace(namespace), Spent, versions)
        return spent or Spent(), versions[Kind.BUDGET, of_namespace(namespace)]

    async def write(self, seen: Seen, issuance: Issuance | None, more: Sequence[Change] = ()) -> Seen:
        """Store the issuance (None: it goes) with `more`, if the name still is its namespace's; what is stored now.

        Raises Lost, StoreError. After Unavailable nobody knows whether it was stored: read anew.
        """
        for _ in range(_ATTEMPTS):
            payload = None if issuance is None else encode(replace(issuance, ordered=(), failed=()))
            first = seen.change(Kind.ISSUANCE, seen.wanted.name, payload)
            changes = [first, *_spending(seen, issuance), *more, *_claim_of(seen)]
            try:
                revision = await self._store.commit(changes, fence=self._fence())
            except Conflict as conflict:
                seen = await self._claimed_anew(seen, conflict)
                continue
            return _after(seen, issuance, changes, revision)
        raise Lost(f"the claim on {seen.wanted.name} changes all the time")

    async def _claimed_anew(self, seen: Seen, conflict: Conflict) -> Seen:
        """The claim was looked at meanwhile, or it is gone."""
        if conflict.kind is not Kind.DOMAIN:
            raise Lost(str(conflict)) from conflict
        versions = dict(seen.versions)
        domain, route = await self._claim(seen.wanted, versions)
        seen = replace(seen, domain=domain, route=route, versions=versions)
        if not seen.held:
            raise Lost(f"{seen.wanted.name} is not held any more") from conflict
        return seen

    def _fence(self) -> Fence:
        fence = self._tenure.fence
        if fence is None:
            raise Lost("another control leads")
        return fence

    async def _claim(self, wanted: Wanted, versions: dict[tuple[Kind, str], int]) -> tuple[Domain | None, Route | None]:
        if wanted.claim is None:
            return None, None
        domain = await self._get(Kind.DOMAIN, wanted.claim, Domain, versions)
        return domain, await self._get(Kind.ROUTE, wanted.name, Route, versions)

    async def _readable(
        self, kind: Kind, object_id: str, model: type[T], versions: dict[tuple[Kind, str], int]
    ) -> T | None:
        """One that can't be read is as good as none: it is made anew."""
        try:
            return await self._get(kind, object_id, model, versions)
        except DecodeError:
            return None

    async def _get(self, kind: Kind, object_id: str, model: type[T], versions: dict[tuple[Kind, str], int]) -> T | None:
        record = await self._store.get(kind, object_id)
        versions[kind, object_id] = ABSENT if record is None else record.version
        return None if record is None else decode(model, record.value)


def _claim_of(seen: Seen) -> tuple[Change, ...]:
    """The commit depends on the claim, which says who holds the name, and leaves it as it is."""
    claim = seen.wanted.claim
    if claim is None:
        return ()
    return (Change(Kind.DOMAIN, claim, None, seen.version(Kind.DOMAIN, claim), unchanged=True),)


def _spending(seen: Seen, issuance: Issuance | None) -> tuple[Change, ...]:
    """Of the name's budgets, as far as it changes."""
    spent = _spent(seen, issuance)
    if spent == seen.spent:
        return ()
    payload = None if spent == Spent() else encode(spent)
    return (seen.change(Kind.BUDGET, of_name(seen.wanted.name), payload),)


def _spent(seen: Seen, issuance: Issuance | None) -> Spent:
    """Without an issuance it stays as it is."""
    return seen.spent if issuance is None else Spent(issuance.ordered, issuance.failed)


def _after(seen: Seen, issuance: Issuance | None, changes: Sequence[Change], revision: int) -> Seen:
    written = {
        (change.kind, change.id): ABSENT if change.value is None else revision
        for change in changes
        if not change.unchanged
    }
    spent = _spent(seen, issuance)
    left = issuance or Issuance(seen.wanted.names, seen.wanted.namespace, ordered=spent.ordered, failed=spent.failed)
    return replace(seen, issuance=left, versions={**seen.versions, **written}, spent=spent)
