"""What a call on a domain of a service writes. Pure (law 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from activator.planning import Note
from certs.claims import asked_again
from certs.due import UPLOADED
from control.claims.changes import (
    NewClaim,
    added,
    dropped,
    no_orders,
    refuse_a_sisters,
    refuse_a_target,
    refuse_too_many,
    sent_on,
)
from control.claims.found import Found, own
from control.contract import preconditions
from control.contract.problem import FieldError, Problem, not_found, unprocessable
from control.services.records import REMOVAL_WAIT, Held, Write
from state.certificates import Certificate, Domain
from state.codec import encode
from state.kinds import Kind
from state.models import Service
from state.store import Change


@dataclass(frozen=True, slots=True)
class Wanted:
    """A domain to be added. `redirect`: another domain of the service; `given`: whether anything was said of that."""

    name: str
    redirect: str | None = None
    given: bool = False


def add(held: Held, found: Mapping[str, Found], wanted: Wanted, new: NewClaim, now: int) -> Write | None:
    """A new one; of one that is there already, where it is sent on to. The same again is looked at again.

    The first domain of a service becomes its `custom_domain`. Raises Problem 409, 422.
    """
    refuse_a_sisters(held, found[wanted.name], "domain")
    mine = own(held, found)
    if wanted.redirect is not None:
        _judge_redirect(wanted.name, wanted.redirect, mine)
    there = mine.get(wanted.name)
    if there is None:
        refuse_too_many(len(mine), "domain")
        domain = replace(new(wanted.name), redirect=wanted.redirect)
        after = replace(held.service, custom_domain=held.service.custom_domain or wanted.name, updated_at=now)
        return _written(
            held, after, mine, domain, (found[wanted.name].change(Kind.DOMAIN, encode(domain)),), added(domain)
        )
    if wanted.given and wanted.redirect != there.redirect:
        return _redirected(held, found[wanted.name], mine, wanted.redirect, now)
    return _looked_at(held, found[wanted.name], mine, now)


def _judge_redirect(name: str, target: str, mine: Mapping[str, Domain]) -> None:
    """Raises Problem 409, 422: each request is sent on once, to a domain that is served."""
    reason = None
    if target == name:
        reason = "is the domain itself"
    elif target not in mine:
        reason = "is no domain of this service: add it first"
    elif mine[target].redirect is not None:
        reason = f"is itself sent on, to {mine[target].redirect}"
    if reason is not None:
        raise unprocessable([FieldError("redirect_to", reason)])
    refuse_a_target(name, mine, "redirect_to")


def _written(
    held: Held, after: Service, mine: Mapping[str, Domain], domain: Domain, changes: tuple[Change, ...], *notes: Note
) -> Write:
    """With the service's record, since the set of its domains changes."""
    put = Change(Kind.SERVICE, after.id, encode(after), held.version(Kind.SERVICE, after.id))
    domains = {**mine, domain.name: domain}
    return Write(replace(held, service=after, domains=tuple(domains.values())), (put, *changes), notes)


def _redirected(held: Held, found: Found, mine: Mapping[str, Domain], target: str | None, now: int) -> Write:
    """Its route, if it has one, changes with it: who is told of it finds it so at every worker."""
    domain = replace(mine[found.name], redirect=target, check_at=now)
    changes = [found.change(Kind.DOMAIN, encode(domain))]
    if found.route is not None and found.route.service == held.service.id and found.route.deleted_at is None:
        changes.append(found.change(Kind.ROUTE, encode(replace(found.route, redirect=target))))
    note = Note("domain.changed", sent_on(domain.name, target))
    write = _written(held, replace(held.service, updated_at=now), mine, domain, tuple(changes), note)
    return replace(write, workers=REMOVAL_WAIT)


def _looked_at(held: Held, found: Found, mine: Mapping[str, Domain], now: int) -> Write | None:
    domain = asked_again(mine[found.name], now)
    if domain is None:
        return None
    after = replace(held, domains=tuple({**mine, domain.name: domain}.values()))
    return Write(after, (found.change(Kind.DOMAIN, encode(domain)),), ())


def remove(held: Held, found: Mapping[str, Found], name: str, if_match: str | None, now: int) -> Write:
    """It stops being served. If it was the `custom_domain`, the oldest of the others takes its place.

    Raises Problem 404, 409, 412.
    """
    _the(held, found, name, if_match)
    mine = own(held, found)
    refuse_a_target(name, mine, "domain")
    left = {other: domain for other, domain in mine.items() if other != name}
    first = held.service.custom_domain
    after = replace(held.service, custom_domain=next(iter(left), None) if first == name else first, updated_at=now)
    put = Change(Kind.SERVICE, after.id, encode(after), held.version(Kind.SERVICE, after.id))
    note = Note("domain.removed", name)
    still = replace(held, service=after, domains=tuple(left.values()))
    return Write(still, (*dropped(found[name]), put), (note,), workers=REMOVAL_WAIT)


def upload(
    held: Held, found: Mapping[str, Found], name: str, certificate: Certificate, if_match: str | None, now: int
) -> Write | None:
    """Instead of what is served, and of an order in progress. None if it is served already.

    Raises Problem 404, 409, 412.
    """
    domain = _the(held, found, name, if_match)
    if not domain.held:
        raise _unproved(domain)
    there = found[name].certificate
    if there is not None and there.namespace == domain.namespace and there.chain == certificate.chain:
        return None
    changes = (
        found[name].change(Kind.DOMAIN, encode(replace(domain, check_at=now))),
        found[name].change(Kind.CERTIFICATE, encode(certificate)),
        *no_orders(found[name]),
    )
    kind = "trusted" if certificate.trusted else "not trusted by clients that know the usual authorities only"
    return Write(held, changes, (Note("certificate.uploaded", f"{name}: {kind}"),), workers=REMOVAL_WAIT)


def withdraw(held: Held, found: Mapping[str, Found], name: str, if_match: str | None, now: int) -> Write:
    """The owner's certificate and its key go; another is got as if there had been none. Raises Problem 404, 412."""
    domain = _the(held, found, name, if_match)
    there = found[name].certificate
    if there is None or there.namespace != domain.namespace or there.issuer != UPLOADED:
        raise not_found(f"{name} has no certificate of your own.")
    changes = (
        found[name].change(Kind.DOMAIN, encode(replace(domain, check_at=now))),
        found[name].change(Kind.CERTIFICATE, None),
        *no_orders(found[name]),
    )
    return Write(held, changes, (Note("certificate.removed", name),), workers=REMOVAL_WAIT)


def _the(held: Held, found: Mapping[str, Found], name: str, if_match: str | None) -> Domain:
    """The domain of the service of this name. Raises Problem 404, 412."""
    domain = own(held, found).get(name)
    if domain is None:
        raise domain_not_found(held.service, name)
    preconditions.check(if_match, preconditions.domain_etag(domain, found[name].certificate), "domain")
    return domain


def domain_not_found(service: Service, name: str) -> Problem:
    return not_found(f"{service.name} has no domain {name!r}.")


def _unproved(domain: Domain) -> Problem:
    record = next((record for record in domain.records if record.type == "TXT"), None)
    how = (
        ""
        if record is None
        else f" Set the TXT record {record.name} to {record.value}: that proves it without moving it."
    )
    return Problem(409, f"{domain.name} is not proved to be yours yet ({domain.proof}).{how}")
