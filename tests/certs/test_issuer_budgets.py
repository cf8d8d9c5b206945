"""Budgets of names and namespaces: no removal, other namespace or restart gives one back."""

from __future__ import annotations

from certs import setbacks
from certs.acme.challenge import HTTP_01, TLS_ALPN_01
from certs.budget import DUPLICATES, FAILED_VALIDATIONS, HOUR, NAMESPACE_ORDERS
from certs.setbacks import Setback
from certs.spending import of_namespace
from state.certificates import Issuance, Spent
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.store import Change
from tests.acme_faults import down, refused, slow
from tests.certs.issuing import NAMESPACE, Control, World, until

NAME = "www.acme.test"
SECOND = 1_000_000


async def removed(ca: World, control: Control, namespace: str = NAMESPACE) -> None:
    """By its owner, and control knows."""
    await ca.remove(NAME, namespace)
    await until(lambda: not (control.duty.busy or control.issuance(NAME) or control.certificate(NAME)))


async def refused_and_removed(ca: World, control: Control, reason: str, namespace: str = NAMESPACE) -> None:
    await ca.hold(NAME, namespace)
    await control.failed(NAME, reason)
    await removed(ca, control, namespace)


async def test_failed_validations_stay_within_the_budget(ca: World) -> None:
    async with ca.control().running() as control:
        ca.edge.silent |= {HTTP_01, TLS_ALPN_01}
        await ca.hold(NAME)
        began = now_us()
        for failures in range(1, 5):
            await until(lambda count=failures: (control.issuance(NAME) or Issuance(())).failures == count)
            control.at((control.issuance(NAME) or Issuance(())).retry_at or 0)
        issuance = await control.failed(NAME, "budget_exhausted")
        assert (issuance.retry_at or 0) >= began + HOUR
        assert ca.orders == 4


async def test_a_domain_that_is_removed_and_added_again_has_the_same_budget(ca: World) -> None:
    async with ca.control().running() as control:
        for _ in range(DUPLICATES.most):
            await ca.hold(NAME)
            await control.served(NAME)
            await removed(ca, control)
        for _ in range(2):
            await refused_and_removed(ca, control, "budget_exhausted")
            await refused_and_removed(ca, control, "budget_exhausted", "other")
            control.forbidden = lambda _: Setback(setbacks.CAA_FORBIDDEN, "CAA of acme.test says other.test")
            await refused_and_removed(ca, control, "budget_exhausted")
            control.forbidden = lambda _: None
    async with ca.control("two").running() as control:
        await refused_and_removed(ca, control, "budget_exhausted")
    assert ca.orders == DUPLICATES.most


async def test_a_setback_before_the_order_forgets_nothing(ca: World) -> None:
    async with ca.control().running() as control:
        await ca.hold(NAME)
        await control.served(NAME)
        before = control.spent(NAME)
        assert (len(before.ordered), before.failed) == (1, ())
        await removed(ca, control)
        control.forbidden = lambda _: Setback(setbacks.CAA_FORBIDDEN, "CAA of acme.test says other.test")
        await refused_and_removed(ca, control, "caa_forbidden")
        assert control.spent(NAME) == before


async def test_validations_that_failed_are_counted_over_removals_and_restarts(ca: World) -> None:
    ca.edge.silent |= {HTTP_01, TLS_ALPN_01}
    for turn in range(FAILED_VALIDATIONS.most):
        async with ca.control(f"control-{turn}").running() as control:
            await refused_and_removed(ca, control, "challenge_failed")
    ca.edge.silent.clear()
    async with ca.control("last").running() as control:
        await refused_and_removed(ca, control, "budget_exhausted")
        await ca.hold(NAME, "other")
        issuance = await control.failed(NAME, "budget_exhausted")
        assert ca.orders == FAILED_VALIDATIONS.most
        control.at((issuance.retry_at or 0) + SECOND)
        await control.served(NAME)


async def test_an_order_that_is_removed_while_it_is_validated_counts(ca: World) -> None:
    ca.proxy.break_(slow("challenge", 1.0, DUPLICATES.most))
    async with ca.control().running() as control:
        for count in range(1, DUPLICATES.most + 1):
            await ca.hold(NAME)
            await until(lambda count=count: len(control.spent(NAME).ordered) == count)
            assert len(control.spent(NAME).failed) == count, "nobody will hear how its validation went"
            await removed(ca, control)
        await ca.hold(NAME)
        await control.failed(NAME, "budget_exhausted")


async def test_an_order_that_was_finalized_counts_whoever_drops_it(ca: World) -> None:
    ca.proxy.break_(down("certificate"))
    async with ca.control().running() as control:
        await ca.hold(NAME)
        assert (await control.failed(NAME, "ca_error")).order is not None
    ca.proxy.break_(refused("certificate", "malformed", 404))
    async with ca.control("two").running() as control:
        await until(lambda: control.issuance(NAME))
        control.at(((control.issuance(NAME) or Issuance(())).retry_at or 0) + SECOND)
        await until(lambda: (control.issuance(NAME) or Issuance(())).failures == 2)
        assert (control.issuance(NAME) or Issuance(())).order is None
        assert len(control.spent(NAME).ordered) == 1


async def test_one_namespace_leaves_orders_for_the_others_and_a_restart_gives_it_none(ca: World) -> None:
    spent = Spent((now_us(),) * (NAMESPACE_ORDERS.most - 2))
    await ca.store.commit([Change(Kind.BUDGET, of_namespace("flood"), encode(spent))])
    names = [f"{number}.flood.test" for number in range(4)]
    async with ca.control().running() as control:
        for name in names:
            await ca.hold(name, "flood")
        exhausted = lambda name: (control.issuance(name) or Issuance(())).reason == "budget_exhausted"  # noqa: E731
        await until(lambda: all(control.certificate(name) or exhausted(name) for name in names))
        assert sum(map(exhausted, names)) == 2, "of four at once"
    async with ca.control("two").running() as control:
        await ca.hold("www.flood.test", "flood")
        await control.failed("www.flood.test", "budget_exhausted")
        await ca.hold(NAME)
        await control.served(NAME)
        assert ca.orders == 3
