"""What becomes of claims: the table, and any history of looks by several namespaces."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from certs import standing
from certs.claims import new_claim
from certs.proof import Verdict
from certs.standing import DAY, HOUR, MINUTE, SECOND, Finding, Pace, Standing, Step, moved, patience, step
from state.certificates import Domain, Proof
from state.models import Route
from tests.certs.records import service_of

NOW = 1_700_000_000 * SECOND
PACE = Pace()
PROVED = Verdict(True, True, False, None, None, (), 600)
BY_TOKEN = Verdict(True, True, True, None, None, (), 600)
OWNED = Verdict(True, False, True, "no_records", "Nothing there.", (), None)
ASTRAY = Verdict(True, None, True, "dns_timeout", "No answer.", (), None)
WRONG = Verdict(False, False, False, "cname_mismatch", "It leads elsewhere.", (), 60)
SILENT = Verdict(None, None, False, "dns_timeout", "No answer.", (), None)
VERDICTS = (PROVED, BY_TOKEN, OWNED, ASTRAY, WRONG, SILENT)


def claim(namespace: str = "acme", at: int = NOW) -> Domain:
    return new_claim(namespace, "www.acme.com", f"{namespace}-1", endpoint="e", token="t", now=at)


def looked(before: Domain, verdict: Verdict, route: Route | None = None, now: int = NOW) -> Step:
    return step(before, service_of(before), verdict, route, now, PACE)


def route_of(holder: Domain) -> Route:
    return Route(holder.service, holder.namespace, service_of(holder).name, redirect=holder.redirect)


VERIFIED = looked(claim(), PROVED).claim
HELD_BY_TOKEN = looked(claim(), OWNED).claim
OTHERS = Route("other-1", "other", "web")


def test_every_standing_knows_every_finding():
    assert set(standing._NEXT) == set(product(Standing, Finding))
    assert all(after in standing._PROOFS for after in standing._NEXT.values())


def test_silence_changes_no_standing():
    assert all(after is before for (before, found), after in standing._NEXT.items() if found is Finding.SILENT)
    assert not any(found is Finding.SILENT for _, found in standing._AFTER_THE_GRACE)


def test_a_proved_claim_becomes_the_holder():
    made = looked(claim(), PROVED)
    assert (made.claim.proof, made.claim.held, made.claim.pointing) == (Proof.VERIFIED, True, True)
    assert (made.claim.verified_at, made.claim.checked_at) == (NOW, NOW)
    assert made.route == Route("acme-1", "acme", "web")
    assert made.takes
    assert [t.kind for t in made.told] == ["domain.verified"]
    assert made.look_at == NOW + 600 * SECOND


def test_the_token_alone_holds_and_does_not_lead_here():
    made = looked(claim(), OWNED)
    assert (made.claim.proof, made.claim.held, made.claim.pointing) == (Proof.PENDING_DNS, True, False)
    assert made.claim.reason == "no_records"
    assert made.route is not None
    assert [t.kind for t in made.told] == ["domain.owned"]


def test_an_unproved_claim_routes_nothing():
    for verdict in (WRONG, SILENT):
        made = looked(claim(), verdict)
        assert (made.route, made.takes, made.releases, made.told) == (None, False, False, ())
        assert (made.claim.held, made.claim.pointing, made.claim.reason) == (False, False, verdict.reason)


def test_what_another_namespace_holds_moves_by_the_token_alone():
    blocked = looked(claim(), replace(PROVED, reason="held_elsewhere"), OTHERS)
    assert (blocked.claim.proof, blocked.claim.reason) == (Proof.PENDING_OWNERSHIP, "held_elsewhere")
    assert (blocked.route, blocked.claim.pointing) == (None, False)
    taken = looked(blocked.claim, BY_TOKEN, OTHERS)
    assert (taken.takes, taken.evicts, taken.claim.proof) == (True, "other", Proof.VERIFIED)
    assert taken.route == Route("acme-1", "acme", "web")
    free = looked(blocked.claim, WRONG)
    assert free.claim.proof is Proof.PENDING_DNS


def test_a_tombstone_holds_for_its_namespace():
    grave = replace(OTHERS, deleted_at=NOW)
    assert looked(claim(), PROVED, grave).claim.proof is Proof.PENDING_OWNERSHIP
    own = looked(claim(), PROVED, Route("acme-0", "acme", "web", deleted_at=NOW))
    assert own.takes
    assert own.evicts is None
    assert own.route == Route("acme-1", "acme", "web")
    assert not looked(claim(), WRONG, Route("acme-0", "acme", "web", deleted_at=NOW)).releases


def test_the_one_that_lost_it_is_looked_at_only_if_it_asks():
    lost = moved(VERIFIED, NOW)
    assert (lost.proof, lost.held, lost.pointing, lost.reason) == (Proof.MOVED, False, False, "moved_elsewhere")
    again = looked(replace(lost, check_at=NOW), replace(PROVED, reason="held_elsewhere", detail="By TXT."), OTHERS)
    assert (again.claim.proof, again.claim.reason, again.claim.detail) == (Proof.MOVED, "moved_elsewhere", "By TXT.")
    assert again.look_at > NOW + 365 * DAY
    back = looked(lost, BY_TOKEN, OTHERS)
    assert (back.evicts, back.claim.proof) == ("other", Proof.VERIFIED)


def test_wrong_answers_end_it_after_the_grace_and_not_before():
    current, route, kinds = VERIFIED, route_of(VERIFIED), []
    for hours in range(1, 7 * 24 + 1):
        made = looked(current, WRONG, route, NOW + hours * HOUR)
        kinds += [t.kind for t in made.told]
        assert (made.claim.proof, made.claim.held, made.claim.pointing) == (Proof.VERIFIED, True, False)
        assert made.claim.reason == "cname_mismatch"
        assert "It is served until 2023-11-21" in (made.claim.detail or "")
        current = made.claim
    assert kinds == ["domain.unproved"]
    made = looked(current, SILENT, route, NOW + 30 * DAY)
    assert made.claim.held, "no answer is not a wrong one"
    made = looked(made.claim, WRONG, route, NOW + 30 * DAY)
    assert (made.claim.proof, made.claim.held, made.releases) == (Proof.PENDING_DNS, False, True)
    assert [t.kind for t in made.told] == ["domain.demoted"]


def test_one_right_answer_begins_the_grace_anew():
    doubted = looked(VERIFIED, WRONG, route_of(VERIFIED)).claim
    assert doubted.wrong_since == NOW
    right = looked(doubted, PROVED, route_of(VERIFIED), NOW + DAY)
    assert (right.claim.wrong_since, right.claim.reason, right.claim.detail) == (None, None, None)
    assert [t.kind for t in right.told] == ["domain.verified"]
    assert right.route is None
    assert right.claim.verified_at == NOW


def test_a_domain_that_leads_away_but_has_the_token_is_shown_so_after_the_grace_and_stays_held():
    doubted = looked(VERIFIED, OWNED, route_of(VERIFIED)).claim
    assert (doubted.proof, doubted.pointing) == (Proof.VERIFIED, False)
    unknown = looked(doubted, ASTRAY, route_of(VERIFIED), NOW + 8 * DAY).claim
    assert unknown.proof is Proof.VERIFIED
    made = looked(unknown, OWNED, route_of(VERIFIED), NOW + 8 * DAY)
    assert (made.claim.proof, made.claim.held, made.releases, made.route) == (Proof.PENDING_DNS, True, False, None)
    assert made.claim.wrong_since is None
    assert [t.kind for t in made.told] == ["domain.demoted"]


def test_a_silence_leaves_what_is_verified_as_it_is_and_is_told_of_what_is_not():
    made = looked(VERIFIED, SILENT, route_of(VERIFIED), NOW + DAY)
    assert replace(made.claim, check_at=0) == replace(VERIFIED, check_at=0)
    assert made.look_at == NOW + DAY + 5 * MINUTE
    assert looked(HELD_BY_TOKEN, SILENT, route_of(VERIFIED)).claim.reason == "dns_timeout"


def test_the_route_follows_the_claim():
    assert looked(VERIFIED, PROVED, None).route is not None, "held and routed go together"
    sent_on = replace(VERIFIED, redirect="acme.com")
    assert looked(sent_on, PROVED, route_of(VERIFIED)).route == Route("acme-1", "acme", "web", redirect="acme.com")
    stale = looked(VERIFIED, PROVED, OTHERS)
    assert (stale.claim.proof, stale.route, stale.releases) == (Proof.MOVED, None, False)


@pytest.mark.parametrize(
    ("age", "pause"),
    [
        (-DAY, 10 * SECOND), (0, 10 * SECOND), (2 * MINUTE, 20 * SECOND), (2 * HOUR, 10 * MINUTE),
        (DAY, HOUR), (29 * DAY, HOUR), (31 * DAY, DAY),
    ],
)  # fmt: skip
def test_patience_grows_with_the_age_of_a_claim(age: int, pause: int):
    assert patience(age) == pause
    assert looked(claim(at=NOW - age), WRONG).look_at == NOW + pause


@pytest.mark.parametrize(("ttl", "pause"), [(None, 5 * MINUTE), (0, 5 * MINUTE), (3600, HOUR), (2**31 - 1, 12 * HOUR)])
def test_the_time_to_live_counts_within_bounds(ttl: int | None, pause: int):
    assert looked(claim(), replace(PROVED, ttl=ttl)).look_at == NOW + pause


def test_the_end_of_the_grace_is_not_missed():
    doubted = looked(VERIFIED, replace(WRONG, ttl=86_400), route_of(VERIFIED), NOW).claim
    assert doubted.check_at == NOW + HOUR
    almost = looked(doubted, WRONG, route_of(VERIFIED), NOW + 7 * DAY - MINUTE).claim
    assert almost.check_at == NOW + 7 * DAY


class Histories(RuleBasedStateMachine):
    """Namespaces claim one domain, and are looked at with whatever DNS might say; the store is two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.claims: dict[str, Domain] = {}
        self.route: Route | None = None
        self.wrong_from: int | None = None  # since when every answer to the holder was wrong

    @rule(namespace=st.sampled_from("abc"))
    def claimed(self, namespace: str) -> None:
        self.claims.setdefault(namespace, claim(namespace, self.now))

    @rule(hours=st.sampled_from([0, 1, 30, 100, 169]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(namespace=st.sampled_from("abc"))
    def removed(self, namespace: str) -> None:
        if self.claims.pop(namespace, None) and self.route and self.route.namespace == namespace:
            self.route = None

    @precondition(lambda self: self.claims)
    @rule(namespace=st.sampled_from("abc"), verdict=st.sampled_from(VERDICTS))
    def looked_at(self, namespace: str, verdict: Verdict) -> None:
        before = self.claims.get(namespace)
        if before is None:
            return
        route = self.route
        made = looked(before, verdict, route, self.now)
        self.check(before, made, verdict, route)
        self.claims[namespace] = made.claim
        if made.evicts is not None and made.evicts in self.claims:
            self.claims[made.evicts] = moved(self.claims[made.evicts], self.now)
        if made.route is not None or made.releases:
            self.route = made.route
        if made.claim.held and (made.takes or verdict.owned or verdict is SILENT):
            self.wrong_from = None if verdict is not SILENT else self.wrong_from
        elif made.claim.held and self.wrong_from is None:
            self.wrong_from = self.now

    def check(self, before: Domain, made: Step, verdict: Verdict, route: Route | None) -> None:
        if verdict.owned is None:
            assert made.claim.held == before.held
            assert made.claim.proof == before.proof or made.claim.proof is Proof.PENDING_OWNERSHIP
        if before.held and not made.claim.held:
            assert verdict.owned is False
            assert self.wrong_from is not None
            assert self.now - self.wrong_from >= PACE.grace
        if made.takes and route is not None and route.namespace != before.namespace:
            assert verdict.moves
        assert made.look_at > self.now
        assert made.claim.check_at == made.look_at

    @invariant()
    def one_holds_it_at_most_and_it_is_routed(self) -> None:
        held = [c for c in self.claims.values() if c.held]
        assert len(held) <= 1
        assert (self.route is None) is (not held)
        if held and self.route is not None:
            assert self.route == route_of(held[0])

    @invariant()
    def only_what_is_held_is_verified_or_leads_here(self) -> None:
        assert all(c.held for c in self.claims.values() if c.proof is Proof.VERIFIED or c.pointing)


TestHistories = Histories.TestCase
