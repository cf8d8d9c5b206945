"""Orders from a real CA: one for each name, however many controls there are, renewed in time, stopped by removal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from certs.acme.chain import check
from certs.acme.challenge import HTTP_01, TLS_ALPN_01
from certs.authority import DAY
from certs.budget import HOUR, MINUTE
from certs.due import HANDOVER, UPLOADED
from certs.issuer_desk import identifier
from certs.keys import key_of
from certs.renewal import renew_at
from certs.wanted import Platform
from state.certificates import Certificate
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.store import Change, Store
from tests.acme_faults import down, refused, slow
from tests.certs.issuing import NAMESPACE, World, settled, until, world
from tests.pebble import Pebble

NAME = "www.acme.test"


@pytest.mark.parametrize("kind", [HTTP_01, TLS_ALPN_01])
async def test_a_domain_that_is_held_gets_a_certificate_by_one_order(ca: World, kind: str) -> None:
    async with ca.control(reach=(kind,)).running() as control:
        await ca.hold(NAME)
        certificate = await control.served(NAME)
        key = key_of(control.vault.unseal("", NAME, "key", certificate.key))
        leaf = check(certificate.chain, key.public_key(), [NAME], now_us())
        assert certificate.names == leaf.names == (NAME,)
        assert (certificate.issuer, certificate.trusted) == (ca.proxy.directory, True)
        assert (certificate.not_before, certificate.not_after) == (leaf.not_before, leaf.not_after)
        assert certificate.namespace == NAMESPACE
        assert ca.edge.asked == [kind] * len(ca.edge.asked) != []
        assert ca.orders == 1
        assert ca.proxy.counts["newAccount"] == 1
        assert await ca.store.get(Kind.CHALLENGE, NAME) is None
        issuance = control.issuance(NAME)
        assert issuance is not None
        assert (issuance.order, issuance.key, issuance.began_at, issuance.failures) == (None, None, None, 0)
        await until(lambda: control.kinds() == ["certificate.ordered", "certificate.issued"])
        assert control.desk.counts == {"issued": 1}


async def test_two_controls_make_one_order(ca: World) -> None:
    async with ca.control("one").running() as one, ca.control("two").running() as two:
        await ca.hold(NAME)
        assert await one.served(NAME) == await two.served(NAME)
        assert ca.orders == 1
        assert ca.proxy.counts["newAccount"] == 1
        assert {control.desk.counts.total() for control in (one, two)} == {0, 1}


async def test_many_names_have_an_order_each_by_one_account(ca: World) -> None:
    names = [f"{number}.acme.test" for number in range(12)]
    async with ca.control().running() as control:
        for name in names:
            await ca.hold(name)
        for name in names:
            await control.served(name)
        assert ca.orders == len(names)
        assert ca.proxy.counts["newAccount"] == 1
        account = control.account()
        assert account is not None
        assert len(account.orders) == len(names)


@pytest.mark.parametrize("interrupted", [False, True])
async def test_on_the_last_day_of_an_uploaded_certificate_another_takes_its_place(ca: World, interrupted: bool) -> None:
    now = now_us()
    terms = (now - DAY, now + HANDOVER + HOUR)
    uploaded = Certificate((NAME,), "chain", "sealed", UPLOADED, True, *terms, namespace=NAMESPACE)
    await ca.store.commit([Change(Kind.CERTIFICATE, NAME, encode(uploaded))])
    await ca.hold(NAME)
    async with ca.control().running() as control:
        await until(lambda: control.kinds() == ["certificate.expiring"])
        await settled(control)
        assert (ca.orders, control.certificate(NAME)) == (0, uploaded)
        if interrupted:
            ca.proxy.break_(down("finalize"))
            control.at(now + HOUR + MINUTE)
            await until(lambda: ca.proxy.counts["finalize"])
    async with ca.control("next").running() as control:
        ca.proxy.mend()
        control.at(now + 2 * HOUR)
        assert (await control.served(NAME, but=uploaded)).issuer == ca.proxy.directory
        assert ca.orders == 1


@pytest.mark.parametrize("changes", [{"pointing": False}, {"held": False}])
async def test_no_order_for_what_does_not_lead_here(ca: World, changes: dict[str, bool]) -> None:
    async with ca.control().running() as control:
        await ca.hold("wrong.acme.test", **changes)
        await ca.hold(NAME)
        await control.served(NAME)
        assert [names["identifiers"] for names in ca.proxy.payloads("newOrder")] == [[{"type": "dns", "value": NAME}]]


async def test_renewal_in_time_replaces_the_certificate(ca: World) -> None:
    async with ca.control().running() as control:
        await ca.hold(NAME)
        first = await control.served(NAME)
        await until(lambda: (found := control.issuance(NAME)) and found.window is not None)
        control.at(first.not_before + (first.not_after - first.not_before) * 3 // 4)
        await control.served(NAME, but=first)
        assert [payload.get("replaces") for payload in ca.proxy.payloads("newOrder")] == [None, identifier(first)]
        await until(lambda: "certificate.renewed" in control.kinds())


async def test_a_window_that_is_over_renews_at_once_and_not_for_ever(ca: World) -> None:
    ca.proxy.renewal.share = (-0.2, -0.1)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: control.desk.counts["renewed"] == 3)
        spent = await control.served(NAME)
        await until(lambda: (found := control.issuance(NAME)) and found.window_of == identifier(spent))
        await settled(control)
        assert ca.orders == 4, "the first, and three that its CA wanted within a day"
        replaced = [payload.get("replaces") for payload in ca.proxy.payloads("newOrder")]
        assert None not in replaced[1:]


async def test_a_window_that_lies_ahead_is_waited_for(ca: World) -> None:
    ca.proxy.renewal.share = (0.1, 0.2)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        first = await control.served(NAME)
        lifetime = first.not_after - first.not_before
        await until(lambda: (found := control.issuance(NAME)) and found.window is not None)
        control.at(first.not_before + lifetime // 20)
        await settled(control)
        assert ca.orders == 1
        control.at(first.not_before + lifetime // 4)
        await control.served(NAME, but=first)


async def test_renewal_information_that_fails_leaves_the_usual_time(ca: World) -> None:
    ca.proxy.break_(down("renewalInfo", count=100))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        first = await control.served(NAME)
        await until(lambda: (found := control.issuance(NAME)) and found.window_at is not None)
        assert control.issuance(NAME).window is None  # type: ignore[union-attr] - it was there
        control.at(renew_at(first) - DAY)
        await settled(control)
        assert ca.orders == 1
        control.at(renew_at(first))
        await control.served(NAME, but=first)


async def test_what_was_replaced_already_is_ordered_without_saying_so(ca: World) -> None:
    async with ca.control().running() as control:
        await ca.hold(NAME)
        first = await control.served(NAME)
        ca.proxy.break_(refused("newOrder", "alreadyReplaced", 409))
        control.at(renew_at(first))
        await control.served(NAME, but=first)
        assert [payload.get("replaces") for payload in ca.proxy.payloads("newOrder")] == [None, identifier(first), None]


async def test_removal_while_ordering_leaves_only_that_it_was_ordered(ca: World) -> None:
    ca.proxy.break_(slow("challenge", 1.0))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: ca.proxy.counts["challenge"])
        await ca.remove(NAME)
        await until(lambda: not control.duty.busy)
        for kind in (Kind.CERTIFICATE, Kind.ISSUANCE, Kind.CHALLENGE):
            assert await ca.store.get(kind, NAME) is None
        assert control.certificate(NAME) is None
        assert len(control.spent(NAME).ordered) == 1, "nobody's, and its CA may count it"


async def test_a_domain_that_moves_while_ordering_is_ordered_for_its_new_holder(ca: World) -> None:
    ca.proxy.break_(slow("finalize", 1.0))
    async with ca.control().running() as control:
        await ca.hold(NAME, "old")
        await until(lambda: ca.proxy.counts["finalize"])
        await ca.remove(NAME, "old")
        await ca.hold(NAME, "new")
        certificate = await control.served(NAME)
        assert certificate.namespace == "new"
        assert ca.orders == 2
        assert (issuance := control.issuance(NAME)) is not None
        assert issuance.namespace == "new"
        assert len(control.spent(NAME).ordered) == 2, "its CA counts both"


async def test_a_claim_that_is_looked_at_while_ordering_loses_nothing(ca: World) -> None:
    ca.proxy.break_(slow("finalize", 1.0))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: ca.proxy.counts["finalize"])
        await ca.hold(NAME)
        await control.served(NAME)
        assert ca.orders == 1


async def test_the_host_of_the_api_gets_its_own(ca: World) -> None:
    async with ca.control(platform=Platform("apps.test", "api.test")).running() as control:
        certificate = await control.served("api.test")
        assert (certificate.names, certificate.namespace) == (("api.test",), "")
        assert control.events == []


async def test_who_does_not_lead_orders_nothing(ca: World) -> None:
    leader = Lease(ca.store, "leader", holder="other", owner="other")
    await leader.step(lambda _: None, lambda: None)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: control.mirror.get(Kind.ROUTE, NAME))
        assert ca.proxy.requests == deque()
        await leader.release()
        await control.served(NAME)
        assert ca.orders == 1


async def test_the_profile_is_asked_for_where_it_is_offered(ca: World) -> None:
    ca.proxy.meta = {"profiles": {"shortlived": "six days"}}
    async with ca.control(profile="shortlived").running() as control:
        ca.proxy.break_(refused("newOrder", "rateLimited", 429, Retry_After="1"))
        await ca.hold(NAME)
        await control.failed(NAME, "rate_limited")
    assert ca.proxy.payloads("newOrder")[0]["profile"] == "shortlived"


async def test_certificates_of_fifteen_seconds_are_renewed_again_and_again(
    store: Store, pebbles: Callable[..., Pebble], tmp_path: Path
) -> None:
    async with world(store, pebbles(validity=15), tmp_path) as ca, ca.control().running() as control:
        await ca.hold(NAME)
        await until(lambda: control.desk.counts["renewed"] == 3)
        assert control.desk.counts == {"issued": 1, "renewed": 3}
