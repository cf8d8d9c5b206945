"""What the store has of a claim and its domain, and what a step changes there. Pure, but for the mirror that is read.

Laws kept here: 6 (every change names the version that it was judged by) and 8 (with a domain nothing of its former
holder goes over: certificate, order and challenge are removed in the very commit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from certs.claims import claim_id
from certs.standing import Step, Told, moved, told_of_move
from state.certificates import Certificate, Domain, Issuance
from state.codec import DecodeError, decode, encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Route, Service
from state.store import ABSENT, Change

_BELONGINGS: Final[tuple[tuple[Kind, type[Any]], ...]] = ((Kind.CERTIFICATE, Certificate), (Kind.ISSUANCE, Issuance))


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim, the route of its domain, whoever's it is, and its service; with the versions of the first two."""

    claim: Domain
    version: int
    route: Route | None
    route_version: int
    service: Service | None

    @property
    def id(self) -> str:
        return claim_id(self.claim.namespace, self.claim.name)


def read_claimed(mirror: Mirror, object_id: str) -> Claimed | None:
    """None if the claim is gone. Raises DecodeError."""
    record = mirror.get(Kind.DOMAIN, object_id)
    if record is None:
        return None
    claim = decode(Domain, record.value)
    route = mirror.get(Kind.ROUTE, claim.name)
    return Claimed(
        claim=claim,
        version=record.version,
        route=None if route is None else decode(Route, route.value),
        route_version=ABSENT if route is None else route.version,
        service=mirror.decoded(Kind.SERVICE, claim.service, Service),
    )


def changes_of(step: Step, claimed: Claimed, mirror: Mirror, now: int) -> tuple[list[Change], list[Told]]:
    """One commit, and what is told once it is done. Raises DecodeError if the former holder's claim can't be read."""
    name = claimed.claim.name
    changes = [Change(Kind.DOMAIN, claimed.id, encode(step.claim), claimed.version)]
    told = list(step.told)
    value = None if step.route is None else encode(step.route)
    kept = step.route is None and not step.releases
    changes.append(Change(Kind.ROUTE, name, value, claimed.route_version, unchanged=kept))
    if step.takes:
        changes += _others_belongings(claimed, mirror)
    if step.evicts is not None:
        losing = claim_id(step.evicts, name)
        loser = mirror.get(Kind.DOMAIN, losing)
        if loser is None:
            changes.append(_still_absent(Kind.DOMAIN, losing))
        else:
            lost = decode(Domain, loser.value)
            changes.append(Change(Kind.DOMAIN, losing, encode(moved(lost, now)), loser.version))
            told.append(told_of_move(lost))
    return changes, told


def _others_belongings(claimed: Claimed, mirror: Mirror) -> list[Change]:
    """What is under the name and not of the namespace that takes it; what can't be read is nobody's.

    What is not there must not come meanwhile: it would be the former holder's.
    """
    name, ours, changes = claimed.claim.name, claimed.claim.namespace, []
    for kind, model in _BELONGINGS:
        record = mirror.get(kind, name)
        if record is None:
            changes.append(_still_absent(kind, name))
        elif _namespace(model, record.value) != ours:
            changes.append(Change(kind, name, None, record.version))
    challenge = mirror.get(Kind.CHALLENGE, name)
    if challenge is None:
        changes.append(_still_absent(Kind.CHALLENGE, name))
    elif claimed.route is None or claimed.route.namespace != ours:
        changes.append(Change(Kind.CHALLENGE, name, None, challenge.version))
    return changes


def _still_absent(kind: Kind, object_id: str) -> Change:
    return Change(kind, object_id, None, ABSENT, unchanged=True)


def cleaning(claimed: Claimed, mirror: Mirror, now: int) -> list[Change]:
    """The claim of a service that is gone: its domain answers 503, and is held for its namespace as after a delete."""
    claim, route = claimed.claim, claimed.route
    changes = [Change(Kind.DOMAIN, claimed.id, None, claimed.version)]
    issuance = mirror.get(Kind.ISSUANCE, claim.name)
    if issuance is not None and _namespace(Issuance, issuance.value) == claim.namespace:
        changes.append(Change(Kind.ISSUANCE, claim.name, None, issuance.version))
    if route is not None and route.namespace == claim.namespace and route.service == claim.service:
        if route.deleted_at is None:
            tombstone = Route(route.service, route.namespace, route.name, deleted_at=now)
            changes.append(Change(Kind.ROUTE, claim.name, encode(tombstone), claimed.route_version))
        challenge = mirror.get(Kind.CHALLENGE, claim.name)
        if challenge is not None:
            changes.append(Change(Kind.CHALLENGE, claim.name, None, challenge.version))
    return changes


def _namespace(model: type[Any], value: bytes) -> str | None:
    try:
        found: str = decode(model, value).namespace
    except DecodeError:
        return None
    return found
