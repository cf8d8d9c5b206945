"""What a CA, the DNS and the network do wrong, and what comes of it: a reason, a time, and never a second order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs import setbacks
from certs.acme.challenge import HTTP_01, TLS_ALPN_01
from certs.authority import DAY
from certs.budget import HOUR, MINUTE
from certs.due import FAULTS
from certs.renewal import renew_at
from certs.setbacks import Setback
from state.certificates import Issuance
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.store import Change
from tests.acme_faults import Fault, account_gone, bad_nonces, down, dropped, garbage, rate_limited, refused
from tests.certs.issuing import World, settled, until
from tests.pebble import Pebble

NAME = "www.acme.test"
SECOND = 1_000_000


@pytest.mark.parametrize(
    ("fault", "reason", "wait"),
    [
        (rate_limited("newOrder", "7200"), "rate_limited", 2 * HOUR),
        (rate_limited("finalize", "7200"), "rate_limited", 2 * HOUR),
        (rate_limited("newAccount", "7200"), "rate_limited", 2 * HOUR),
        (down("newOrder", Retry_After="7200"), "ca_error", 2 * HOUR),
        (down("newOrder"), "ca_error", None),
        (down("directory"), "ca_error", None),
        (down("authorization"), "ca_error", None),
        (bad_nonces("newOrder", 20), "ca_error", None),
        (garbage("order"), "ca_error", None),
        (garbage("certificate"), "ca_error", None),
        (dropped("directory", 9, after=False), "ca_unreachable", None),
        (dropped("newOrder", after=False), "ca_unreachable", None),
        (dropped("challenge", after=False), "ca_unreachable", None),
        (dropped("finalize", after=True), "ca_unreachable", None),
        (dropped("certificate", after=True), "ca_unreachable", None),
        (refused("newAccount", "externalAccountRequired", 403), "account_error", None),
        (refused("newOrder", "rejectedIdentifier", 400), "rejected_identifier", HOUR),
        (refused("newOrder", "malformed", 400), "ca_error", None),
    ],
)
async def test_a_fault_ends_in_its_reason_and_is_mended(ca: World, fault: Fault, reason: str, wait: int | None) -> None:
    ca.proxy.break_(fault)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        issuance = await control.failed(NAME, reason)
        assert issuance.failures == 1
        assert issuance.failed_at is not None
        assert issuance.retry_at is not None
        pause = issuance.retry_at - issuance.failed_at
        if wait is None:
            assert MINUTE * 3 // 4 <= pause <= MINUTE
        else:
            assert wait <= pause <= wait + MINUTE
        assert issuance.permanent is (reason == "rejected_identifier")
        await until(lambda: "certificate.failed" in control.kinds())
        assert control.desk.counts[reason] == 1
        asked = len(ca.proxy.requests)
        await settled(control)
        assert len(ca.proxy.requests) == asked, "it waits"
        ca.proxy.mend()
        control.at(issuance.retry_at + SECOND)
        await control.served(NAME)
        done = control.issuance(NAME)
        assert done is not None
        assert (done.failures, done.faults, done.reason, done.retry_at) == (0, 0, None, None)


@pytest.mark.parametrize(
    "fault",
    [
        down("authorization"),
        dropped("challenge", after=True),
        rate_limited("finalize", "60"),
        dropped("finalize", after=True),
        dropped("certificate", after=True),
        down("certificate"),
    ],
)
async def test_an_order_goes_on_after_what_passes(ca: World, fault: Fault) -> None:
    ca.proxy.break_(fault)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: (found := control.issuance(NAME)) and found.failures)
        issuance = control.issuance(NAME)
        assert issuance is not None
        assert None not in (issuance.order, issuance.key, issuance.began_at)
        control.at((issuance.retry_at or 0) + SECOND)
        await control.served(NAME)
        assert ca.orders == 1


async def test_a_retry_after_may_be_a_date(ca: World) -> None:
    ca.proxy.break_(rate_limited("newOrder", 7200.0))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "rate_limited")
        assert now_us() + HOUR < (issuance.retry_at or 0) <= now_us() + 2 * HOUR + MINUTE


async def test_refused_nonces_are_no_setback(strict_ca: World) -> None:
    strict_ca.proxy.break_(bad_nonces("newOrder", 5), bad_nonces("finalize", 5))
    async with strict_ca.control().running() as control:
        await strict_ca.hold(NAME)
        await control.served(NAME)
        assert control.desk.counts == {"issued": 1}


async def test_a_retry_after_is_kept_to_by_the_next_leader(ca: World) -> None:
    ca.proxy.break_(rate_limited("newOrder", "3600"))
    async with ca.control("one").running() as control:
        await ca.hold(NAME)
        await control.failed(NAME, "rate_limited")
    asked = len(ca.proxy.requests)
    async with ca.control("two").running() as control:
        await until(lambda: control.lease.fence)
        await settled(control)
        assert len(ca.proxy.requests) == asked


@pytest.mark.parametrize("kind", ["newOrder", "authorization", "finalize", "order"])
async def test_an_account_that_is_gone_is_made_anew(ca: World, kind: str) -> None:
    ca.proxy.break_(account_gone(kind))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: control.certificate(NAME) or (control.issuance(NAME) or Issuance(())).failures)
        if (issuance := control.issuance(NAME)) is not None and issuance.retry_at is not None:
            control.at(issuance.retry_at + SECOND)
        await control.served(NAME)
        assert ca.orders <= 2
        assert ca.proxy.counts["newAccount"] == 2


async def test_the_other_challenge_is_tried_after_one_that_failed(ca: World) -> None:
    async with ca.control().running() as control:
        ca.edge.silent.add(HTTP_01)
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "challenge_failed")
        assert (issuance.challenge, issuance.order, issuance.key) == (HTTP_01, None, None)
        assert control.spent(NAME).ordered == (), "no certificate came of it"
        assert len(control.spent(NAME).failed) == 1
        assert await ca.store.get(Kind.CHALLENGE, NAME) is None
        control.at((issuance.retry_at or 0) + SECOND)
        await control.served(NAME)
        assert ca.edge.asked[-1] == TLS_ALPN_01
        assert (control.issuance(NAME) or issuance).challenge == TLS_ALPN_01


async def test_caa_forbids_without_an_order_and_is_looked_at_hourly(ca: World) -> None:
    async with ca.control().running() as control:
        control.forbidden = lambda _: Setback(setbacks.CAA_FORBIDDEN, "CAA of acme.test says other.test")
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "caa_forbidden")
        assert issuance.permanent
        assert issuance.retry_at == (issuance.failed_at or 0) + HOUR
        assert ca.orders == 0
        control.forbidden = lambda _: None
        control.at((issuance.failed_at or 0) + 2 * MINUTE)
        await settled(control)
        assert ca.orders == 0
        await ca.hold(NAME, check_at=0)  # its owner asks
        await control.served(NAME)


async def test_dns_that_does_not_say_forbids_nothing_for_long(ca: World) -> None:
    async with ca.control().running() as control:
        control.forbidden = lambda _: Setback(setbacks.DNS_ERROR, "CAA of acme.test: SERVFAIL")
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "dns_error")
        assert not issuance.permanent
        assert ca.orders == 0
        control.forbidden = lambda _: None
        control.at((issuance.retry_at or 0) + SECOND)
        await control.served(NAME)


async def test_what_the_ca_says_of_caa_counts_as_well(ca: World) -> None:
    async with ca.control().running() as control:
        ca.proxy.break_(refused("newOrder", "caa", 403))
        await ca.hold(NAME)
        assert (await control.failed(NAME, "caa_forbidden")).permanent


async def test_the_old_certificate_is_served_while_renewals_fail(ca: World) -> None:
    async with ca.control().running() as control:
        await ca.hold(NAME)
        first = await control.served(NAME)
        ca.proxy.break_(down("newOrder", count=100))
        control.at(renew_at(first) + MINUTE)
        await control.failed(NAME, "ca_error")
        assert control.certificate(NAME) == first


async def test_the_other_ca_is_asked_when_the_first_fails_and_the_first_again_for_the_next(
    ca: World, other_pebble: Pebble
) -> None:
    ca.trust(other_pebble)
    ca.proxy.break_(down("newOrder", count=FAULTS))
    async with ca.control(fallback=other_pebble.directory).running() as control:
        await ca.hold(NAME)
        for faults in range(1, FAULTS + 1):
            await until(lambda count=faults: (control.issuance(NAME) or Issuance(())).faults == count)
            control.at((control.issuance(NAME) or Issuance(())).retry_at or 0)
        certificate = await control.served(NAME)
        assert certificate.issuer == other_pebble.directory
        assert (control.issuance(NAME) or Issuance(())).faults == 0
        control.at(certificate.not_after - 5 * DAY)
        assert (await control.served(NAME, but=certificate)).issuer == ca.proxy.directory


async def test_the_other_ca_is_asked_at_once_when_the_first_wants_to_be_left_alone(
    ca: World, other_pebble: Pebble
) -> None:
    ca.trust(other_pebble)
    ca.proxy.break_(rate_limited("newOrder", "86400"))
    async with ca.control(fallback=other_pebble.directory).running() as control:
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "rate_limited")
        assert (issuance.retry_at or 0) <= now_us() + MINUTE
        assert issuance.waits[ca.proxy.directory] > now_us() + 23 * HOUR
        control.at((issuance.retry_at or 0) + SECOND)
        assert (await control.served(NAME)).issuer == other_pebble.directory


async def test_a_key_that_can_not_be_opened_is_not_waited_for(ca: World) -> None:
    ca.proxy.break_(down("finalize"))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "ca_error")
        assert issuance.key is not None
        damaged = encode(replace(issuance, key="00000000.AAAA", retry_at=None))
        await ca.store.commit([Change(Kind.ISSUANCE, NAME, damaged)])
        await until(lambda: (control.issuance(NAME) or issuance).failures == 2)
        issuance = control.issuance(NAME) or issuance
        assert (issuance.order, issuance.key) == (None, None)
        control.at((issuance.retry_at or 0) + SECOND)
        await control.served(NAME)
        assert ca.orders == 2
