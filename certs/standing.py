"""What becomes of a claim by a look at DNS: `(claim, verdict, holder, now) -> Step`. Pure; transitions are a table.

Laws kept here: 5, and those of SPEC section 4. At most one namespace holds a domain, by its route. A query without an
answer changes no standing. What is held is lost only by answers that were wrong all through the grace, or by the token
of another namespace.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from certs.proof import HELD_ELSEWHERE, MOVED_ELSEWHERE, Verdict
from state.certificates import Domain, Proof
from state.models import Route, Service

SECOND: Final = 1_000_000  # microseconds
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
_NEVER: Final = 3650 * DAY  # of a claim that is looked at only if its owner asks


class Standing(enum.StrEnum):
    """Of a claim; `proof` and `held` of its record together."""

    UNPROVED = "unproved"
    BLOCKED = "blocked"  # another namespace holds it
    OWNED = "owned"  # held, by the token; DNS does not lead here
    VERIFIED = "verified"  # held, and DNS leads here (or did, within the grace)
    MOVED = "moved"  # another namespace took it


class Finding(enum.StrEnum):
    """What a look says of a claim, by the one who holds the domain."""

    SILENT = "silent"  # no answer that would tell
    WRONG = "wrong"
    OWNED = "owned"
    PROVED = "proved"
    TAKEN = "taken"  # another namespace holds it, and it is not ours to take


_S, _F = Standing, Finding
_NEXT: Final[Mapping[tuple[Standing, Finding], Standing]] = {
    (_S.UNPROVED, _F.SILENT): _S.UNPROVED,
    (_S.UNPROVED, _F.WRONG): _S.UNPROVED,
    (_S.UNPROVED, _F.OWNED): _S.OWNED,
    (_S.UNPROVED, _F.PROVED): _S.VERIFIED,
    (_S.UNPROVED, _F.TAKEN): _S.BLOCKED,
    (_S.BLOCKED, _F.SILENT): _S.BLOCKED,
    (_S.BLOCKED, _F.WRONG): _S.UNPROVED,  # the other one let go of it
    (_S.BLOCKED, _F.OWNED): _S.OWNED,
    (_S.BLOCKED, _F.PROVED): _S.VERIFIED,
    (_S.BLOCKED, _F.TAKEN): _S.BLOCKED,
    (_S.OWNED, _F.SILENT): _S.OWNED,
    (_S.OWNED, _F.WRONG): _S.OWNED,
    (_S.OWNED, _F.OWNED): _S.OWNED,
    (_S.OWNED, _F.PROVED): _S.VERIFIED,
    (_S.OWNED, _F.TAKEN): _S.MOVED,
    (_S.VERIFIED, _F.SILENT): _S.VERIFIED,
    (_S.VERIFIED, _F.WRONG): _S.VERIFIED,
    (_S.VERIFIED, _F.OWNED): _S.VERIFIED,
    (_S.VERIFIED, _F.PROVED): _S.VERIFIED,
    (_S.VERIFIED, _F.TAKEN): _S.MOVED,
    (_S.MOVED, _F.SILENT): _S.MOVED,
    (_S.MOVED, _F.WRONG): _S.UNPROVED,  # nobody holds it any more
    (_S.MOVED, _F.OWNED): _S.OWNED,
    (_S.MOVED, _F.PROVED): _S.VERIFIED,
    (_S.MOVED, _F.TAKEN): _S.MOVED,
}
_AFTER_THE_GRACE: Final[Mapping[tuple[Standing, Finding], Standing]] = {
    (_S.OWNED, _F.WRONG): _S.UNPROVED,
    (_S.VERIFIED, _F.WRONG): _S.UNPROVED,
    (_S.VERIFIED, _F.OWNED): _S.OWNED,
}
_PROOFS: Final[Mapping[Standing, Proof]] = {
    _S.UNPROVED: Proof.PENDING_DNS,
    _S.BLOCKED: Proof.PENDING_OWNERSHIP,
    _S.OWNED: Proof.PENDING_DNS,
    _S.VERIFIED: Proof.VERIFIED,
    _S.MOVED: Proof.MOVED,
}
HELD: Final = frozenset({_S.OWNED, _S.VERIFIED})


@dataclass(frozen=True, slots=True)
class Pace:
    """Microseconds. `grace`: how long answers must be wrong until what is held is lost. The rest: between two looks."""

    grace: int = 7 * DAY
    proved: tuple[int, int] = (5 * MINUTE, 12 * HOUR)  # within which the time to live counts
    doubted: tuple[int, int] = (5 * MINUTE, HOUR)  # the same, as long as answers are wrong
    silent: int = 5 * MINUTE  # of what is held, after no answer


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a service: its kind, and a sentence."""

    service: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a look changes. `claim`: as it is to be stored, and `look_at` the next look (`claim.check_at` or sooner).

    `route`: to be put in place of what was there; `releases`: the claim's own route is to be removed. `takes`: the
    namespace becomes the holder, and what others have under the name goes: of the namespace `evicts`, if it held it.
    """

    claim: Domain
    look_at: int
    route: Route | None = None
    releases: bool = False
    takes: bool = False
    evicts: str | None = None
    told: tuple[Told, ...] = field(default=())


def standing(claim: Domain) -> Standing:
    if claim.held:
        return Standing.VERIFIED if claim.proof is Proof.VERIFIED else Standing.OWNED
    if claim.proof is Proof.PENDING_OWNERSHIP:
        return Standing.BLOCKED
    return Standing.MOVED if claim.proof is Proof.MOVED else Standing.UNPROVED


def holder(claim: Domain, route: Route | None) -> str | None:
    """The other namespace that holds the domain, if one does."""
    return route.namespace if route is not None and route.namespace != claim.namespace else None


def finding(claim: Domain, verdict: Verdict, route: Route | None) -> Finding:
    if holder(claim, route) is not None and not verdict.moves:
        return Finding.TAKEN
    if verdict.owned is None:
        return Finding.SILENT
    if not verdict.owned:
        return Finding.WRONG
    if verdict.pointing is None and standing(claim) is Standing.VERIFIED:
        return Finding.SILENT
    return Finding.PROVED if verdict.pointing else Finding.OWNED


def step(claim: Domain, service: Service, verdict: Verdict, route: Route | None, now: int, pace: Pace) -> Step:
    """`verdict` is of the claim and of `route`, which is the domain's, whoever's it is. `service`: the claim's."""
    before, found = standing(claim), finding(claim, verdict, route)
    wrong_since = _wrong_since(claim, before, found, now)
    after = _NEXT[before, found]
    if wrong_since is not None and now - wrong_since >= pace.grace:
        after = _AFTER_THE_GRACE.get((before, found), after)
    held = after in HELD
    proof = _PROOFS[after]
    changed = replace(
        claim,
        proof=proof,
        held=held,
        pointing=held and (claim.pointing if verdict.pointing is None else verdict.pointing),
        wrong_since=wrong_since if held and after is before else None,
        verified_at=now if after is Standing.VERIFIED and before is not after else claim.verified_at,
        checked_at=now if verdict.answered else claim.checked_at,
    )
    changed = _explained(changed, after, found, verdict, pace)
    look_at = _next_look(changed, after, found, verdict, now, pace)
    wanted = Route(claim.service, claim.namespace, service.name, redirect=claim.redirect) if held else None
    ours = route is not None and route.namespace == claim.namespace
    return Step(
        claim=replace(changed, check_at=look_at),
        look_at=look_at,
        route=wanted if wanted != route else None,
        releases=before in HELD and not held and ours,
        takes=held and not (before in HELD and ours),
        evicts=holder(claim, route) if held else None,
        told=_told(claim, changed, before, after),
    )


def moved(claim: Domain, now: int) -> Domain:
    """The claim of a namespace whose domain another one took by TXT."""
    return replace(
        claim,
        proof=Proof.MOVED,
        held=False,
        pointing=False,
        wrong_since=None,
        reason=MOVED_ELSEWHERE,
        detail="Another namespace proved by TXT that the domain is its own now.",
        check_at=now + _NEVER,
    )


def told_of_move(claim: Domain) -> Told:
    return Told(claim.service, "domain.moved", f"{claim.name}: another namespace proved it by TXT")


def _wrong_since(claim: Domain, before: Standing, found: Finding, now: int) -> int | None:
    """The first of the wrong answers in a row. Silence neither begins nor ends a row."""
    if found is Finding.SILENT:
        return claim.wrong_since
    if found is Finding.WRONG or (before is Standing.VERIFIED and found is Finding.OWNED):
        return now if claim.wrong_since is None else claim.wrong_since
    return None


def _explained(claim: Domain, after: Standing, found: Finding, verdict: Verdict, pace: Pace) -> Domain:
    """With reason, detail and records. What is verified keeps its word through a silence."""
    if after is Standing.VERIFIED and found is Finding.SILENT:
        return claim
    reason, detail = verdict.reason, verdict.detail
    if after is Standing.MOVED:
        reason, detail = MOVED_ELSEWHERE, _how_back(verdict)
    if claim.wrong_since is not None and detail is not None:
        until = f" until {_day(claim.wrong_since + pace.grace)}" if found is Finding.WRONG else ""
        detail = f"{detail} It is served{until} all the same."
    records = claim.records if claim.held and not verdict.answered else verdict.records
    return replace(claim, reason=reason, detail=detail, records=records)


def _how_back(verdict: Verdict) -> str | None:
    if verdict.reason == HELD_ELSEWHERE:
        return verdict.detail
    return "Another namespace holds the domain now."


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _next_look(claim: Domain, after: Standing, found: Finding, verdict: Verdict, now: int, pace: Pace) -> int:
    if after is Standing.MOVED:
        return now + _NEVER
    if after not in HELD:
        return now + patience(now - claim.created_at)
    if found is Finding.SILENT or not verdict.answered:
        return now + pace.silent
    least, most = pace.proved if claim.reason is None else pace.doubted
    pause = min(max((verdict.ttl or 0) * SECOND, least), most)
    if claim.wrong_since is not None:
        pause = min(pause, max(claim.wrong_since + pace.grace - now, SECOND))
    return now + pause


def patience(age: int) -> int:
    """Between two looks at what is not proved, by the age of the claim."""
    if age < DAY:
        return min(max(age // 6, 10 * SECOND), 10 * MINUTE)
    return HOUR if age < 30 * DAY else DAY


def _told(claim: Domain, changed: Domain, before: Standing, after: Standing) -> tuple[Told, ...]:
    """What its owner should hear of: not of every look."""
    name, why = claim.name, changed.detail or "DNS says so"
    kind = ""
    if after is not before:
        kind = {_S.VERIFIED: "domain.verified", _S.OWNED: "domain.owned", _S.MOVED: "domain.moved"}.get(after, "")
        if before in HELD and after not in (_S.VERIFIED, _S.MOVED):
            kind = "domain.demoted"
    elif changed.wrong_since is not None and claim.wrong_since is None:
        kind = "domain.unproved"
    elif claim.wrong_since is not None and changed.wrong_since is None:
        kind = "domain.verified" if after is _S.VERIFIED else "domain.owned"
    why = "it is proved, and DNS leads here" if kind == "domain.verified" else why
    return (Told(claim.service, kind, f"{name}: {why}"),) if kind else ()
