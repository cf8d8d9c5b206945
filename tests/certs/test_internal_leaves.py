"""Custom domains without ACME: the internal CA signs for them, and what a holder has is never touched."""

from __future__ import annotations

import pytest

from certs.authority import DAY, Pair, make_root, signed_by, term
from certs.internal import AUTHORITY
from certs.renewal import renew_at
from state.certificates import Authority, Certificate
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.store import Change, Store
from tests.certs.issuing import NAMESPACE, Bare, Control, settled, until

NAME = "www.acme.test"


@pytest.fixture
def bare(store: Store) -> Bare:
    return Bare(store)


async def put_root(control: Control) -> Pair:
    root = make_root(now_us())
    counts = term(root.certificate)
    key = control.vault.seal("", AUTHORITY, "key", root.key)
    stored = Authority(root.certificate, key, counts.not_before, counts.not_after)
    await control.store.commit([Change(Kind.META, AUTHORITY, encode(stored))])
    return root


async def test_a_domain_that_is_held_is_signed_for_and_renewed(bare: Bare) -> None:
    async with bare.control(acme=False).running() as control:
        await bare.hold(NAME)
        root = await put_root(control)
        first = await control.served(NAME)
        assert signed_by(first.chain, root.certificate)
        assert (first.names, first.issuer, first.trusted) == ((NAME,), "internal", False)
        assert first.namespace == NAMESPACE
        assert "PRIVATE KEY" in control.vault.unseal("", NAME, "key", first.key)
        assert await bare.store.get(Kind.ISSUANCE, NAME) is None
        control.at(renew_at(first))
        second = await control.served(NAME, but=first)
        assert second.not_after > first.not_after


@pytest.mark.parametrize("changes", [{"pointing": False}, {"held": False}])
async def test_nothing_is_signed_for_what_does_not_lead_here(bare: Bare, changes: dict[str, bool]) -> None:
    async with bare.control(acme=False).running() as control:
        await put_root(control)
        await bare.hold("wrong.acme.test", **changes)
        await bare.hold(NAME)
        await control.served(NAME)
        assert control.certificate("wrong.acme.test") is None


async def test_another_root_signs_anew(bare: Bare) -> None:
    async with bare.control(acme=False).running() as control:
        await bare.hold(NAME)
        await put_root(control)
        first = await control.served(NAME)
        root = await put_root(control)
        second = await control.served(NAME, but=first)
        assert signed_by(second.chain, root.certificate)


async def test_a_removed_domain_loses_it_and_gets_none(bare: Bare) -> None:
    async with bare.control(acme=False).running() as control:
        await bare.hold(NAME)
        await put_root(control)
        await control.served(NAME)
        await bare.remove(NAME)
        await until(lambda: control.certificate(NAME) is None)
        await settled(control)
        assert control.certificate(NAME) is None


async def test_an_uploaded_certificate_is_not_touched_and_its_owner_is_warned(bare: Bare) -> None:
    async with bare.control(acme=False).running() as control:
        await put_root(control)
        now = now_us()
        uploaded = Certificate((NAME,), "chain", "sealed", "uploaded", True, now, now + 30 * DAY, namespace=NAMESPACE)
        await bare.store.commit([Change(Kind.CERTIFICATE, NAME, encode(uploaded))])
        await bare.hold(NAME)
        await until(lambda: control.mirror.get(Kind.DOMAIN, f"{NAMESPACE}/{NAME}"))
        await settled(control)
        assert control.events == []
        for left, warnings in ((13, 1), (12, 1), (3, 2), (2, 2)):
            control.at(uploaded.not_after - left * DAY + 1)
            await until(lambda count=warnings: len(control.events) == count)
            await settled(control)
            assert control.kinds() == ["certificate.expiring"] * warnings
        assert control.certificate(NAME) == uploaded
        control.at(uploaded.not_after)
        assert (await control.served(NAME, but=uploaded)).issuer == "internal"


async def test_a_warning_is_given_once_whoever_leads(bare: Bare) -> None:
    now = now_us()
    uploaded = Certificate((NAME,), "chain", "sealed", "uploaded", True, now, now + 10 * DAY, namespace=NAMESPACE)
    await bare.store.commit([Change(Kind.CERTIFICATE, NAME, encode(uploaded))])
    await bare.hold(NAME)
    async with bare.control("one", acme=False).running() as control:
        await until(lambda: control.events)
    async with bare.control("two", acme=False).running() as control:
        await until(lambda: control.lease.fence)
        await settled(control)
        assert control.events == []


async def test_what_a_ca_certified_is_left_alone_until_it_ends(bare: Bare) -> None:
    now = now_us()
    ordered = Certificate((NAME,), "chain", "sealed", "https://ca.test", True, now, now + DAY, namespace=NAMESPACE)
    await bare.store.commit([Change(Kind.CERTIFICATE, NAME, encode(ordered))])
    async with bare.control(acme=False).running() as control:
        await put_root(control)
        await bare.hold(NAME)
        control.at(ordered.not_after - 1_000_000_000)
        await settled(control)
        assert control.certificate(NAME) == ordered
        control.at(ordered.not_after)
        assert (await control.served(NAME, but=ordered)).issuer == "internal"
        assert control.duty.left()[NAME] > 0
        assert not control.duty.trusted(NAME)
