"""The duty that verifies domains, against the real store and a scripted DNS server over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from certs.claims import claim_id, new_claim
from certs.dns import Resolver
from certs.proof import token
from certs.standing import DAY, HOUR, MINUTE, Pace
from certs.verifier import Settings, Verifier
from state.certificates import Certificate, Challenge, ChallengeAnswer, Domain, Issuance, Proof
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import Event, Route
from state.store import ABSENT, Change, Conflict, Store
from tests.certs.records import service
from tests.dns_responder import Responder

KEY = bytes(range(32))
PLATFORM, WWW, OURS = "apps.example", "www.acme.com", "192.0.2.1"
KINDS = [Kind.DOMAIN, Kind.ROUTE, Kind.SERVICE, Kind.CERTIFICATE, Kind.ISSUANCE, Kind.CHALLENGE]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


class Control:
    """What a control process has around the duty: a mirror, a try for the lease, a clock, a DNS server."""

    def __init__(self, store: Store, dns: Responder, name: str = "one", **settings: float) -> None:
        self.time = now_us()
        self.store = store
        self.dns = dns
        self.events: list[tuple[str, str]] = []
        self.mirror = Mirror(store, KINDS, lambda touched: self.duty.changed(touched), slices=True)
        self.lease = Lease(store, "leader", holder=name, owner=name)
        self.resolver = Resolver([dns.address], timeout=2.0, tries=1)
        self.duty = Verifier(
            store,
            self.mirror,
            self.lease,
            self.resolver,
            Settings(PLATFORM, KEY, **{"rate": 10_000.0, **settings}),  # type: ignore[arg-type] - numbers all
            lambda service_id, event: self.events.append((service_id, event.kind)),
            lambda: self.time,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Control]:
        hurry = self.duty.hurry
        async with asyncio.TaskGroup() as tasks:
            life = [
                tasks.create_task(self.mirror.run()),
                tasks.create_task(self.lease.run(lambda _: hurry(), hurry)),
                tasks.create_task(self.duty.run()),
            ]
            yield self
            for task in life:
                task.cancel()

    def at(self, moment: int) -> None:
        self.time = moment
        self.duty.hurry()

    async def put(self, *changes: Change) -> None:
        await self.mirror.reached(await self.store.commit(changes))

    async def claim(self, namespace: str, domain: str = WWW, name: str = "web") -> None:
        """A service of the namespace claims a domain, as the API has it."""
        made = new_claim(
            namespace, domain, f"{namespace}-1", endpoint=self.endpoint(namespace), token="t", now=self.time
        )
        await self.put(
            Change(Kind.SERVICE, made.service, encode(service(made.service, namespace, name))),
            Change(Kind.DOMAIN, claim_id(namespace, domain), encode(made)),
        )

    async def ask(self, namespace: str, domain: str = WWW) -> None:
        """Have it looked at now, as the API does: again, if a look wrote between."""
        while True:
            record = await self.store.get(Kind.DOMAIN, claim_id(namespace, domain))
            assert record is not None
            asked = replace(decode(Domain, record.value), check_at=self.time)
            with contextlib.suppress(Conflict):
                return await self.put(Change(Kind.DOMAIN, claim_id(namespace, domain), encode(asked), record.version))

    async def looked(self, namespace: str, domain: str = WWW) -> Domain:
        """The claim once it was looked at anew."""
        before = self.duty.counts.checks
        await self.ask(namespace, domain)
        await until(lambda: self.duty.counts.checks > before and self.known(namespace, domain).check_at > self.time)
        return self.known(namespace, domain)

    async def idle(self) -> None:
        await until(lambda: not self.duty.busy)

    def known(self, namespace: str, domain: str = WWW) -> Domain:
        record = self.mirror.get(Kind.DOMAIN, claim_id(namespace, domain))
        assert record is not None
        return decode(Domain, record.value)

    def route(self, domain: str = WWW) -> Route | None:
        return self.mirror.decoded(Kind.ROUTE, domain, Route)

    @staticmethod
    def endpoint(namespace: str, name: str = "web") -> str:
        return f"{name}-{namespace}.{PLATFORM}"

    def leads_to(self, namespace: str, domain: str = WWW) -> None:
        self.dns.put(domain, "CNAME", self.endpoint(namespace))

    def has_token_of(self, *namespaces: str, domain: str = WWW) -> None:
        self.dns.put(f"_wakegate.{domain}", "TXT", *(token(KEY, namespace, domain) for namespace in namespaces))


@pytest.fixture
async def dns() -> AsyncIterator[Responder]:
    async with Responder() as responder:
        responder.put(f"*.{PLATFORM}", "A", OURS)
        yield responder


@pytest.fixture
async def control(store: Store, dns: Responder) -> AsyncIterator[Control]:
    async with Control(store, dns).running() as control:
        yield control


async def test_a_domain_that_leads_here_is_verified_and_routed(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    assert control.route() == Route("acme-1", "acme", "web")
    claim = control.known("acme")
    assert (claim.proof, claim.held, claim.pointing, claim.reason) == (Proof.VERIFIED, True, True, None)
    assert control.events == [("acme-1", "domain.verified")]
    assert [(r.type, r.observed) for r in claim.records] == [("CNAME", control.endpoint("acme"))]


CNAME, A, AAAA, TXT = "CNAME", "A", "AAAA", "TXT"
Case = tuple[Sequence[tuple[str, ...]], Proof, str | None, bool]
CASES: dict[str, Case] = {
    # what DNS says: the claim's proof and reason, and whether it is held
    "nothing": ([], Proof.PENDING_DNS, "nxdomain", False),
    "wrong cname": ([(WWW, CNAME, "shop.example")], Proof.PENDING_DNS, "cname_mismatch", False),
    "chain": ([(WWW, CNAME, "a.acme.com"), ("a.acme.com", CNAME, f"web-acme.{PLATFORM}")], Proof.VERIFIED, None, True),
    "loop": ([(WWW, CNAME, "a.acme.com"), ("a.acme.com", CNAME, WWW)], Proof.PENDING_DNS, "cname_loop", False),
    "too long": (
        [(WWW, CNAME, "n0.example"), *((f"n{i}.example", CNAME, f"n{i + 1}.example") for i in range(9))],
        Proof.PENDING_DNS, "cname_too_long", False,
    ),
    "apex without token": ([(WWW, A, OURS)], Proof.PENDING_DNS, "txt_missing", False),
    "apex with a wrong token": (
        [(WWW, A, OURS), (f"_wakegate.{WWW}", TXT, "x")], Proof.PENDING_DNS, "txt_mismatch", False,
    ),
    "apex": ([(WWW, A, OURS), (f"_wakegate.{WWW}", TXT, token(KEY, "acme", WWW))], Proof.VERIFIED, None, True),
    "wrong address": (
        [(WWW, A, "198.51.100.1"), (f"_wakegate.{WWW}", TXT, token(KEY, "acme", WWW))],
        Proof.PENDING_DNS, "address_mismatch", True,
    ),
    "stray aaaa": (
        [(WWW, A, OURS), (WWW, AAAA, "2001:db8::bad"), (f"_wakegate.{WWW}", TXT, token(KEY, "acme", WWW))],
        Proof.PENDING_DNS, "aaaa_mismatch", True,
    ),
    "mail alone": ([(WWW, "MX", "10 mail.acme.com.")], Proof.PENDING_DNS, "no_records", False),
}  # fmt: skip


@pytest.mark.parametrize(("records", "proof", "reason", "held"), CASES.values(), ids=list(CASES))
async def test_each_case_ends_in_its_state_and_reason(
    control: Control, records: Sequence[tuple[str, ...]], proof: Proof, reason: str | None, held: bool
):
    for name, kind, *values in records:
        control.dns.put(name, kind, *values)
    await control.claim("acme")
    claim = await control.looked("acme")
    assert (claim.proof, claim.reason, claim.held) == (proof, reason, held)
    assert claim.pointing is (proof is Proof.VERIFIED)
    assert (control.route() is not None) is held


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("drop", "dns_timeout"),
        ("servfail", "dns_error"),
        ("refused", "dns_error"),
        ("malformed", "dns_error"),
        ("cut", "dns_error"),
    ],
)
async def test_dns_that_fails_is_told_and_proves_nothing(control: Control, fault: str, reason: str):
    control.leads_to("acme")
    control.dns.fail("*" if fault != "cut" else WWW, fault)
    await control.claim("acme")
    claim = await control.looked("acme")
    assert (claim.proof, claim.reason, claim.held) == (Proof.PENDING_DNS, reason, False)
    assert control.duty.counts.unanswered > 0
    control.dns.heal()
    assert (await control.looked("acme")).proof is Proof.VERIFIED


async def test_a_flapping_dns_takes_nothing_from_who_is_verified(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    control.dns.fail("*", "servfail", every=2)
    for day in range(1, 20):
        control.at(control.time + DAY * day)
        claim = await control.looked("acme")
        assert (claim.proof, claim.held, claim.pointing, claim.reason) == (Proof.VERIFIED, True, True, None)
    assert control.duty.counts.unanswered > 5
    assert [kind for _, kind in control.events] == ["domain.verified"]


async def test_wrong_answers_demote_after_the_grace_and_leave_the_certificate(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    await control.put(Change(Kind.CERTIFICATE, WWW, encode(certificate("acme"))))
    control.dns.put(WWW, "CNAME", "shop.example")
    began = control.time
    for moment in (began, began + DAY, began + 7 * DAY - MINUTE):
        control.at(moment)
        claim = await control.looked("acme")
        assert (claim.proof, claim.held, claim.pointing, claim.reason) == (
            Proof.VERIFIED,
            True,
            False,
            "cname_mismatch",
        )
        assert control.route() is not None
    control.at(began + 7 * DAY)
    claim = await control.looked("acme")
    assert (claim.proof, claim.held) == (Proof.PENDING_DNS, False)
    assert control.route() is None
    assert control.mirror.get(Kind.CERTIFICATE, WWW) is not None
    assert control.duty.counts.demotions == 1
    assert [kind for _, kind in control.events] == ["domain.verified", "domain.unproved", "domain.demoted"]


def certificate(namespace: str) -> Certificate:
    return Certificate((WWW,), "chain", "sealed", "uploaded", True, 0, 1, namespace=namespace)


async def test_the_token_moves_a_domain_and_takes_nothing_of_the_loser_along(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    challenge = Challenge((ChallengeAnswer("http-01", "t", "t.k"),), 1)
    await control.put(
        Change(Kind.CERTIFICATE, WWW, encode(certificate("acme"))),
        Change(Kind.ISSUANCE, WWW, encode(Issuance((WWW,), namespace="acme"))),
        Change(Kind.CHALLENGE, WWW, encode(challenge)),
    )
    control.leads_to("bert")
    await control.claim("bert")
    blocked = await control.looked("bert")
    assert (blocked.proof, blocked.reason, blocked.held) == (Proof.PENDING_OWNERSHIP, "held_elsewhere", False)
    assert control.route() == Route("acme-1", "acme", "web")
    control.has_token_of("bert")
    taken = await control.looked("bert")
    lost = control.known("acme")
    assert (taken.proof, taken.held, taken.pointing) == (Proof.VERIFIED, True, True)
    assert (lost.proof, lost.held, lost.reason) == (Proof.MOVED, False, "moved_elsewhere")
    assert control.route() == Route("bert-1", "bert", "web")
    route = control.mirror.get(Kind.ROUTE, WWW)
    records = [control.mirror.get(Kind.DOMAIN, claim_id(ns, WWW)) for ns in ("acme", "bert")]
    assert route is not None
    assert {r.version for r in records if r is not None} == {route.version}, "one commit"
    assert all(control.mirror.get(k, WWW) is None for k in (Kind.CERTIFICATE, Kind.ISSUANCE, Kind.CHALLENGE))
    assert control.duty.counts.moves == 1
    assert ("acme-1", "domain.moved") in control.events
    control.at(control.time + 300 * DAY)
    checks = control.dns.asked(f"_wakegate.{WWW}")
    assert (await control.looked("bert")).proof is Proof.VERIFIED
    assert control.dns.asked(f"_wakegate.{WWW}") == checks, "who lost it is looked at only if he asks"


async def test_a_domain_does_not_go_back_and_forth_between_two_tokens(control: Control):
    control.dns.put(WWW, "A", OURS)
    control.has_token_of("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    control.has_token_of("acme", "bert")
    await control.claim("bert")
    for _ in range(3):
        assert (await control.looked("bert")).reason == "held_elsewhere"
        assert (await control.looked("acme")).proof is Proof.VERIFIED


async def test_another_tenant_gets_neither_a_dangling_nor_a_removed_domain(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    route = control.mirror.get(Kind.ROUTE, WWW)
    assert route is not None
    await control.claim("bert")
    assert (await control.looked("bert")).reason == "held_elsewhere"

    # acme's service is deleted; its DNS still leads to its label
    grave = replace(decode(Route, route.value), deleted_at=control.time)
    await control.put(
        Change(Kind.DOMAIN, claim_id("acme", WWW), None), Change(Kind.ROUTE, WWW, encode(grave), route.version)
    )
    assert (await control.looked("bert")).reason == "held_elsewhere"

    # the tombstone is swept: nobody holds it, and DNS leads to a label that is acme's for ever
    await control.put(Change(Kind.ROUTE, WWW, None))
    claim = await control.looked("bert")
    assert (claim.proof, claim.reason, claim.held) == (Proof.PENDING_DNS, "cname_mismatch", False)

    # an apex that still has the platform's addresses and acme's token
    control.dns.drop(WWW)
    control.dns.put(WWW, "A", OURS)
    control.has_token_of("acme")
    claim = await control.looked("bert")
    assert (claim.proof, claim.reason, claim.held) == (Proof.PENDING_DNS, "txt_mismatch", False)
    assert control.route() is None


async def test_two_namespaces_at_once_make_one_holder(control: Control):
    control.dns.put(WWW, "A", OURS)
    control.has_token_of("acme", "bert")
    control.dns.fail(WWW, "delay", seconds=0.2)
    await asyncio.gather(control.claim("acme"), control.claim("bert"))
    await until(lambda: control.route() is not None and control.duty.counts.checks == 2)
    await control.idle()
    control.at(control.time + MINUTE)
    await until(lambda: control.duty.counts.checks >= 3)
    await control.idle()
    held = [ns for ns in ("acme", "bert") if control.known(ns).held]
    assert [control.route()] == [Route(f"{held[0]}-1", held[0], "web")]
    assert len(held) == 1


async def test_a_claim_that_is_removed_while_it_is_looked_at_leaves_no_route(control: Control):
    control.leads_to("acme")
    control.dns.fail(WWW, "delay", seconds=0.3)
    await control.claim("acme")
    await until(lambda: control.dns.asked(WWW))
    await control.put(Change(Kind.DOMAIN, claim_id("acme", WWW), None))
    await until(lambda: control.duty.counts.conflicts == 1)
    assert control.route() is None
    assert control.duty.claims == 0


async def test_what_is_proved_is_asked_by_its_ttl_and_not_written_each_time(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    await control.idle()
    revision = await control.store.revision()
    for _ in range(3):
        asked = control.dns.asked(WWW)
        control.at(control.time + 6 * MINUTE)
        await until(lambda asked=asked: control.dns.asked(WWW) > asked)
        await control.idle()
    assert await control.store.revision() == revision
    control.at(control.time + 2 * HOUR)
    await until(lambda: control.known("acme").checked_at == control.time)
    assert await control.store.revision() == revision + 1
    assert (await control.looked("acme")).checked_at == control.time, "who asks is told that somebody looked"


async def test_who_takes_over_looks_at_what_is_proved_before_the_moment_that_was_stored(store: Store, dns: Responder):
    async with Control(store, dns).running() as before:
        before.leads_to("acme")
        await before.claim("acme")
        await until(lambda: before.route() is not None)
        await before.idle()
        assert before.known("acme").check_at == before.time + HOUR
        await before.lease.release()
    revision = await store.revision()
    after = Control(store, dns, "two")
    after.time = before.time + 4 * MINUTE
    async with after.running():
        await until(lambda: after.duty.claims == 1 and after.lease.fence is not None)
        assert after.duty.counts.checks == 0
        after.at(before.time + 6 * MINUTE)
        await until(lambda: after.duty.counts.checks == 1)
        await after.idle()
        assert after.known("acme").check_at == before.time + HOUR, "nothing new is written no more often"
    assert await store.revision() == revision


async def test_the_route_follows_a_redirect(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    await control.put(
        Change(Kind.DOMAIN, claim_id("acme", WWW), encode(replace(control.known("acme"), redirect="acme.com")))
    )
    await control.looked("acme")
    assert control.route() == Route("acme-1", "acme", "web", redirect="acme.com")


async def test_a_clock_that_went_back_holds_nothing_up(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    asked = control.dns.asked(WWW)
    control.at(control.time - 300 * DAY)
    await until(lambda: control.dns.asked(WWW) > asked)


async def test_claims_whose_service_is_gone_are_removed(control: Control):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    await control.put(
        Change(Kind.SERVICE, "acme-1", None), Change(Kind.ISSUANCE, WWW, encode(Issuance((WWW,), "acme")))
    )
    control.at(control.time + 2 * HOUR)
    await until(lambda: control.mirror.get(Kind.DOMAIN, claim_id("acme", WWW)) is None)
    route = control.route()
    assert route is not None
    assert (route.namespace, route.deleted_at) == ("acme", control.time)
    assert control.mirror.get(Kind.ISSUANCE, WWW) is None


async def test_who_does_not_lead_asks_nothing(store: Store, dns: Responder):
    one = Control(store, dns)
    other = Lease(store, "leader", holder="other", owner="other")
    await other.step(lambda _: None, lambda: None)
    async with one.running():
        one.leads_to("acme")
        await one.claim("acme")
        await until(lambda: one.duty.claims == 1)
        assert dns.queries.total() == 0
        await other.release()
        await until(lambda: one.route() is not None)


async def test_records_that_cant_be_read_stop_nobody(control: Control, caplog: pytest.LogCaptureFixture):
    await control.put(Change(Kind.DOMAIN, claim_id("acme", "broken.com"), b"{"))
    await control.put(Change(Kind.ROUTE, "odd.com", b"{"))
    await control.claim("acme", "odd.com")
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    await until(lambda: "odd.com can't be looked at" in caplog.text)


async def test_a_store_that_is_gone_for_a_while_is_no_end(control: Control, valkey):
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    valkey.kill()
    await until(lambda: not control.mirror.connected)
    control.at(control.time + 2 * HOUR)
    valkey.start()
    await until(lambda: control.mirror.connected)
    assert (await control.looked("acme")).proof is Proof.VERIFIED


async def fill(
    control: Control, namespace: str, count: int, *, due: int | None = None, reason: str | None = None
) -> int:
    """So many claims, `due` of them now and the others in an hour; returns the revision."""
    await control.store.commit([Change(Kind.SERVICE, f"{namespace}-1", encode(service(f"{namespace}-1", namespace)))])
    made = [
        new_claim(namespace, f"d{i:05}.{namespace}.com", f"{namespace}-1", endpoint="e", token="t", now=control.time)
        for i in range(count)
    ]
    made = [replace(claim, reason=reason) for claim in made]
    if due is not None:
        made[due:] = [replace(c, check_at=control.time + HOUR) for c in made[due:]]
    revision = 0
    for start in range(0, count, 200):
        part = made[start : start + 200]
        revision = await control.store.commit(
            [Change(Kind.DOMAIN, claim_id(c.namespace, c.name), encode(c), ABSENT) for c in part]
        )
    return revision


async def test_one_namespace_with_thousands_of_claims_starves_nobody(control: Control):
    control.dns.fail("*", "drop")
    await fill(control, "many", 3000)
    await until(lambda: control.duty.claims == 3000 and control.duty.busy >= 4)
    assert control.duty.busy == 4, "most of the places are for others"
    control.dns.heal()
    control.dns.fail("*", "delay", seconds=0.05)
    control.leads_to("acme")
    await control.claim("acme")
    await until(lambda: control.route() is not None)
    assert control.duty.counts.checks < 1500


def deaden(dns: Responder, namespace: str, count: int) -> None:
    """What `fill` made has servers that say nothing."""
    for i in range(count):
        dns.fail(f"d{i:05}.{namespace}.com", "drop")
        dns.fail(f"_wakegate.d{i:05}.{namespace}.com", "drop")


async def test_a_dead_zone_holds_up_none_of_its_owners_other_domains(control: Control):
    deaden(control.dns, "many", 200)
    control.leads_to("many")
    await fill(control, "many", 200)
    await until(lambda: control.duty.busy == 4)
    await control.claim("many")
    await until(lambda: control.route() is not None)
    assert control.duty.counts.checks < 20, "what is new comes next"


async def test_names_without_an_answer_leave_places_for_those_that_are_due_by_their_time(store: Store, dns: Responder):
    one = Control(store, dns)
    deaden(dns, "many", 50)
    one.leads_to("many")
    await fill(one, "many", 50, reason="dns_timeout")
    due = new_claim("many", WWW, "many-1", endpoint=one.endpoint("many"), token="t", now=one.time)
    due = replace(due, reason="nxdomain", checked_at=one.time - MINUTE)
    await store.commit([Change(Kind.DOMAIN, claim_id("many", WWW), encode(due))])
    async with one.running():
        await until(lambda: one.route() is not None)
        assert one.duty.busy <= 2
        assert one.duty.counts.checks < 10


async def test_of_ten_thousand_claims_those_that_are_due_are_looked_at_once(store: Store, dns: Responder):
    one = Control(store, dns)
    dns.put("*.many.com", "CNAME", one.endpoint("many"))
    await fill(one, "many", 10_000, due=200)
    async with one.running():
        await until(lambda: one.duty.counts.verified == 200)
        await one.idle()
        assert one.duty.claims == 10_000
        assert one.duty.counts.checks == 200
        assert one.duty.counts.conflicts == 0


async def test_a_dead_dns_and_ten_thousand_claims_cost_next_to_nothing(store: Store, dns: Responder):
    one = Control(store, dns, rate=1000.0)
    await fill(one, "many", 10_000)
    dns.fail("*", "servfail")
    async with one.running():
        await until(lambda: one.duty.silent)
        before, checks = time.process_time(), one.duty.counts.checks
        await until(lambda: one.duty.counts.checks >= checks + 3)
        assert time.process_time() - before < 1.5, "CPU seconds; 3 looks at one a second"
        assert one.duty.counts.checks < checks + 20
        dns.heal()
        dns.put("*.many.com", "CNAME", one.endpoint("many"))
        await until(lambda: one.duty.counts.verified > 100)


def test_settings_and_counts_show_no_key():
    assert "key" not in repr(Settings(PLATFORM, KEY, Pace()))
    assert isinstance(Event(1, "domain.verified", "x"), Event)
