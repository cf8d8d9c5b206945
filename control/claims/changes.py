"""What becomes of custom domains: claimed, looked at again, dropped, or left behind by a service. Pure (law 5).

Whatever changes the set of a service's domains is written with the service's record (`control.claims.found`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from activator.planning import Note
from certs.claims import asked_again
from control.claims.found import Found, own
from control.contract.problem import FieldError, Problem, unprocessable
from control.services.records import Held
from state.certificates import Domain
from state.codec import encode
from state.kinds import Kind
from state.models import Route, Service
from state.store import Change

MOST: Final = 20  # domains of a service

NewClaim = Callable[[str], Domain]
"""A claim of the service in question on the domain of this name."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a commit does to the domains of a service. `removes`: workers have to know before the caller is told."""

    changes: tuple[Change, ...] = ()
    notes: tuple[Note, ...] = ()
    domains: tuple[Domain, ...] = ()  # that the service has afterwards, oldest first
    removes: bool = False


def replaced(held: Held, found: Mapping[str, Found], wanted: str | None, new: NewClaim, now: int) -> Step:
    """`custom_domain` becomes `wanted`: the one before is dropped. The same again is looked at again.

    Raises Problem 409, 422.
    """
    before, mine = held.service.custom_domain, own(held, found)
    step = Step(domains=tuple(mine.values()))
    if before is not None and before != wanted and before in mine:
        refuse_a_target(before, mine, "custom_domain")
        step = _drop(step, found[before])
    if wanted is None:
        return step
    refuse_a_sisters(held, found[wanted], "custom_domain")
    if wanted not in mine:
        return _claim(step, found[wanted], new(wanted), "custom_domain")
    again = asked_again(mine[wanted], now) if wanted == before else None
    return step if again is None else _write(step, found[wanted], again)


def _claim(step: Step, found: Found, domain: Domain, field: str) -> Step:
    refuse_too_many(len(step.domains), field)
    step = _write(step, found, domain)
    return replace(step, notes=(*step.notes, added(domain)))


def _write(step: Step, found: Found, domain: Domain) -> Step:
    others = tuple(other for other in step.domains if other.name != domain.name)
    changes = (*step.changes, found.change(Kind.DOMAIN, encode(domain)))
    return replace(step, changes=changes, domains=(*others, domain))


def _drop(step: Step, found: Found) -> Step:
    left = tuple(domain for domain in step.domains if domain.name != found.name)
    note = Note("domain.removed", found.name)
    return Step((*step.changes, *dropped(found)), (*step.notes, note), left, removes=True)


def added(domain: Domain) -> Note:
    return Note("domain.added", domain.name if domain.redirect is None else sent_on(domain.name, domain.redirect))


def sent_on(name: str, target: str | None) -> str:
    return f"{name} is served itself" if target is None else f"{name} is sent on to {target}"


def dropped(found: Found) -> tuple[Change, ...]:
    """The claim and all that its namespace has under the domain's name: it stops being served, and its key is gone.

    What is not there must not come meanwhile. What is another namespace's stays.
    """
    return (found.change(Kind.DOMAIN, None), *_given_up(found, Kind.ROUTE, Kind.CERTIFICATE), *no_orders(found))


def released(service: Service, found: Iterable[Found], now: int) -> list[Change]:
    """Of a service that is deleted: its claims go, its domains answer 503 and are held for their namespace."""
    changes: list[Change] = []
    for one in found:
        changes += [one.change(Kind.DOMAIN, None), *no_orders(one)]
        if one.route is not None and one.route.service == service.id and one.route.deleted_at is None:
            tombstone = Route(service.id, service.namespace, service.name, deleted_at=now)
            changes.append(one.change(Kind.ROUTE, encode(tombstone)))
    return changes


def no_orders(found: Found) -> tuple[Change, ...]:
    """The order in progress finds its record gone, and gives up."""
    answered = () if found.led_elsewhere else (found.change(Kind.CHALLENGE, None),)
    return (*_given_up(found, Kind.ISSUANCE), *answered)


def _given_up(found: Found, *kinds: Kind) -> tuple[Change, ...]:
    there = {Kind.ROUTE: found.route, Kind.CERTIFICATE: found.certificate, Kind.ISSUANCE: found.issuance}
    ours = [kind for kind in kinds if (one := there[kind]) is None or one.namespace == found.namespace]
    return tuple(found.change(kind, None) for kind in ours)


def refuse_a_sisters(held: Held, found: Found, field: str) -> None:
    """Raises Problem 409 if another service of the namespace has it."""
    if found.domain is not None and found.domain.service != held.service.id:
        raise taken(found.name, field)


def taken(name: str, field: str) -> Problem:
    what = "is held by another service of this namespace"
    return Problem(409, f"{field}: {name} {what}", [FieldError(field, what)])


def refuse_a_target(name: str, mine: Mapping[str, Domain], field: str) -> None:
    """Raises Problem 409 if another domain is sent on to it, which would lead nowhere."""
    if sent := [domain.name for domain in mine.values() if domain.redirect == name]:
        what = f"{', '.join(sent)} {'is' if len(sent) == 1 else 'are'} sent on to it: change that first"
        raise Problem(409, f"{field}: {name}: {what}", [FieldError(field, what)])


def refuse_too_many(count: int, field: str) -> None:
    """Raises Problem 422."""
    if count >= MOST:
        raise unprocessable([FieldError(field, f"would be one more than the {MOST} that a service may have")])
