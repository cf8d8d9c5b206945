"""Whether DNS lets a CA issue for a name: CAA (RFC 8659) with the account and method of RFC 8657.

A CA that must refuse is not asked: a refused order counts against its limits, and its owner would learn less of it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from certs.dns_answer import Answer, Property, clipped
from certs.observation import Lookups

_PATIENCE: Final = 60.0  # seconds for all names up to the root
_CRITICAL: Final = 128  # RFC 8659 4.1.1
_LONGEST: Final = 400  # characters of a detail
# Those that a CA knows by RFC 8659, 9495 and the CA/Browser Forum's baseline requirements.
_KNOWN: Final = frozenset({"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"})


class Permission(enum.StrEnum):
    ALLOWED = "allowed"
    FORBIDDEN = "forbidden"
    UNANSWERED = "unanswered"  # a CA must not issue then either (RFC 8659 3); that passes


@dataclass(frozen=True, slots=True)
class CaaVerdict:
    """`detail`: a sentence for the domain's owner, "" if allowed. `found_at`: the name whose records decided."""

    permission: Permission
    detail: str = ""
    found_at: str | None = None


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who wants to issue. `identities`: of the CA (`caaIdentities`, RFC 8555 9.7.6); none: it does not say.

    `method`: of validation, such as http-01.
    """

    identities: frozenset[str]
    account_url: str | None
    method: str


async def check(
    resolver: Lookups, name: str, wildcard: bool, identities: Collection[str], account_url: str | None, method: str
) -> CaaVerdict:
    """For a certificate of `name`, or with `wildcard` of `*.name`. Never raises."""
    applicant = Applicant(frozenset(i.lower().rstrip(".") for i in identities), account_url, method.lower())
    try:
        async with asyncio.timeout(_PATIENCE):
            for parent in climbing(name):
                answer = await resolver.lookup(parent, "CAA")
                if not answer.answered:
                    return _unanswered(parent, answer)
                if answer.properties:
                    return judge(answer.properties, parent, wildcard, applicant)
    except TimeoutError:
        return CaaVerdict(Permission.UNANSWERED, f"The questions for the CAA records of {name} took too long.")
    return CaaVerdict(Permission.ALLOWED)


def climbing(name: str) -> Iterator[str]:
    """The name and its parents but the root (RFC 8659 3)."""
    labels = name.rstrip(".").split(".")
    for depth in range(len(labels)):
        yield ".".join(labels[depth:])


def judge(properties: Sequence[Property], found_at: str, wildcard: bool, applicant: Applicant) -> CaaVerdict:
    """By the records of one name, which are all that count."""
    for one in properties:
        if one.flags & _CRITICAL and one.tag not in _KNOWN:
            what = f"The CAA record {one} of {found_at} is critical and not known"
            return _forbidden(f"{what}: no CA may issue.", found_at)
    counting = [one for one in properties if wildcard and one.tag == "issuewild"]
    counting = counting or [one for one in properties if one.tag == "issue"]
    if not counting or any(_permits(one.value, applicant) for one in counting):
        return CaaVerdict(Permission.ALLOWED, found_at=found_at)
    wanted = ", ".join(sorted(applicant.identities)) or "this CA"
    rows = ", ".join(map(str, counting))
    return _forbidden(f"CAA of {found_at} ({rows}) does not let {wanted} issue by {applicant.method}.", found_at)


def _permits(value: str, applicant: Applicant) -> bool:
    issuer, parameters = read_issue(value)
    if not issuer or (applicant.identities and issuer not in applicant.identities):
        return False
    accounts = [text for tag, text in parameters if tag == "accounturi"]
    if accounts and accounts != [applicant.account_url]:  # RFC 8657 3: more than one can't be met
        return False
    methods = [text for tag, text in parameters if tag == "validationmethods"]
    if not methods:
        return True
    return len(methods) == 1 and applicant.method in [m.strip().lower() for m in methods[0].split(",")]


def read_issue(value: str) -> tuple[str, list[tuple[str, str]]]:
    """Issuer and parameters of an `issue` or `issuewild` (RFC 8659 4.2). Issuer "": nobody, as of what is no value."""
    issuer, *rest = (part.strip(" \t") for part in value.split(";"))
    parameters: list[tuple[str, str]] = []
    for part in rest:
        tag, equals, text = part.partition("=")
        if part and not (equals and tag.strip()):
            return "", []
        if part:
            parameters.append((tag.strip().lower(), text.strip()))
    plain = all(c.isascii() and (c.isalnum() or c in "-.") for c in issuer)
    return (issuer.lower().rstrip(".") if plain else ""), parameters


def _forbidden(detail: str, found_at: str) -> CaaVerdict:
    return CaaVerdict(Permission.FORBIDDEN, clipped(detail, _LONGEST), found_at)


def _unanswered(name: str, answer: Answer) -> CaaVerdict:
    detail = f"The question for the CAA records of {name} had no answer: {answer.detail}."
    return CaaVerdict(Permission.UNANSWERED, clipped(detail, _LONGEST), name)
