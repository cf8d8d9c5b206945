"""Accounts at a CA: one for all orders, bound to an external one where the CA wants it, made anew when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from certs.budget import MINUTE
from certs.issuer_account import KEY_FIELD
from state.ids import now_us
from state.secret_key import ACME, derive
from state.secrets import Vault
from state.store import Store
from tests.acme_faults import Fault, rate_limited, refused
from tests.certs.issuing import KEY, World, settled, until, world
from tests.pebble import Pebble

NAME, OTHER = "www.acme.test", "www.other.test"
EXTERNAL = {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}


async def test_its_key_is_sealed_and_its_contact_told(ca: World) -> None:
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await control.served(NAME)
        account = control.account()
        assert account is not None
        assert account.url is not None
        assert "PRIVATE" not in account.key
        assert "PRIVATE" in Vault(derive(KEY, ACME)).unseal("", account.directory, KEY_FIELD, account.key)
        (told,) = ca.proxy.payloads("newAccount")
        assert told["contact"] == ["mailto:ops@example.com"]


async def test_the_next_control_uses_the_same(ca: World) -> None:
    async with ca.control("one").running() as control:
        await ca.hold(NAME)
        await control.served(NAME)
    async with ca.control("two").running() as control:
        await ca.hold(OTHER)
        await control.served(OTHER)
    assert ca.proxy.counts["newAccount"] == 1


async def test_an_account_that_the_ca_wants_to_know(
    store: Store, pebbles: Callable[..., Pebble], tmp_path: Path
) -> None:
    async with world(store, pebbles(external=EXTERNAL, nonce_reject=0), tmp_path) as ca:
        async with ca.control("one").running() as control:
            await ca.hold(NAME)
            issuance = await control.failed(NAME, "account_error")
            assert "xternal" in (issuance.detail or "")
        async with ca.control("two", eab=next(iter(EXTERNAL.items()))).running() as control:
            await until(lambda: control.lease.fence)
            control.at(now_us() + 2 * MINUTE)
            await control.served(NAME)


async def test_a_refusal_is_heard_once_by_all_orders(ca: World) -> None:
    ca.proxy.break_(rate_limited("newAccount", "3600", count=9))
    async with ca.control().running() as control:
        for name in (NAME, OTHER):
            await ca.hold(name)
        for name in (NAME, OTHER):
            await control.failed(name, "rate_limited")
        await settled(control)
        assert ca.proxy.counts["newAccount"] == 1


@pytest.mark.parametrize(
    "fault",
    [Fault("newAccount", "change", changes={"status": "deactivated"}), refused("newAccount", "unauthorized", 403)],
)
async def test_one_that_was_closed_is_followed_by_another(ca: World, fault: Fault) -> None:
    ca.proxy.break_(fault)
    async with ca.control().running() as control:
        await ca.hold(NAME)
        issuance = await control.failed(NAME, "account_error")
        closed = control.account()
        control.at(max(issuance.retry_at or 0, now_us() + 2 * MINUTE))
        await control.served(NAME)
        account = control.account()
        assert account is not None
        assert closed is not None
        assert account.url is not None
        assert ca.proxy.counts["newAccount"] == 2
