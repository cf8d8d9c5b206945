"""What is left behind goes, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

from certs.budget import DUPLICATES, FAILED_VALIDATIONS, HOUR, NAMESPACE_ORDERS
from certs.issuer_sweep import STALE, Sweeper
from certs.spending import of_name, of_namespace
from state.certificates import Certificate, Challenge, Issuance, Spent
from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.store import Change, Store
from tests.certs.issuing import KINDS, NAMESPACE, Bare

PLATFORM = frozenset({"apps.test", "*.apps.test"})


async def swept(store: Store, now: int) -> int:
    """By a leader whose mirror is up to date."""
    lease, mirror = Lease(store, "leader", holder="one", owner="one"), Mirror(store, KINDS)
    await lease.step(lambda _: None, lambda: None)
    await mirror._resync()
    assert lease.fence is not None
    return await Sweeper(store, mirror, PLATFORM).sweep(lease.fence, now)


async def put(store: Store, kind: Kind, **records: object) -> None:
    await store.commit([Change(kind, name.replace("_", "."), encode(value)) for name, value in records.items()])


async def left(store: Store, kind: Kind) -> set[str]:
    return {name async for name, _ in store.scan(kind)}


async def test_certificates_that_are_over_and_whose_names_nobody_holds(store: Store) -> None:
    now = now_us()
    over = Certificate(("x",), "chain", "sealed", "uploaded", True, 0, now, namespace=NAMESPACE)
    own = replace(over, namespace="", issuer="internal", trusted=False)
    await Bare(store).hold("held.test")
    await put(
        store,
        Kind.CERTIFICATE,
        held_test=over,
        gone_test=over,
        others_test=replace(over, namespace="other"),
        lasting_test=replace(over, not_after=now + HOUR),
        apps_test=own,
        former_test=own,
    )
    await Bare(store).hold("others.test")
    assert await swept(store, now) == 3
    assert await left(store, Kind.CERTIFICATE) == {"held.test", "lasting.test", "apps.test"}


async def test_challenges_that_no_order_is_about(store: Store) -> None:
    now = now_us()
    old, new = Challenge((), now - STALE - 1), Challenge((), now - 1)
    await put(store, Kind.CHALLENGE, old_test=old, new_test=new, ordering_test=old)
    await Bare(store).hold("ordering.test")
    await put(store, Kind.ISSUANCE, ordering_test=Issuance(("ordering.test",), NAMESPACE, began_at=now - 1))
    assert await swept(store, now) == 1
    assert await left(store, Kind.CHALLENGE) == {"new.test", "ordering.test"}


async def test_orders_that_nobody_goes_on_with_lose_their_keys(store: Store) -> None:
    now = now_us()
    stuck = Issuance(("x",), NAMESPACE, order="https://ca.test/1", key="sealed", began_at=now - STALE - 1, failures=2)
    bare = Bare(store)
    await bare.hold("pointing.test")
    await bare.hold("away.test", pointing=False)
    own = replace(stuck, namespace="", names=("y",))
    await put(
        store,
        Kind.ISSUANCE,
        pointing_test=stuck,
        away_test=stuck,
        gone_test=replace(stuck, began_at=None),
        apps_test=own,
        former_test=own,
    )
    assert await swept(store, now) == 3
    assert await left(store, Kind.ISSUANCE) == {"pointing.test", "away.test", "apps.test"}
    record = await store.get(Kind.ISSUANCE, "away.test")
    assert record is not None
    assert record.value == encode(replace(stuck, order=None, key=None, began_at=None))
    assert await swept(store, now) == 0


async def test_what_was_spent_of_budgets_stays_as_long_as_it_counts(store: Store) -> None:
    now = now_us()
    over = {
        of_name("old.test"): Spent((now - DUPLICATES.span,), (now - FAILED_VALIDATIONS.span,)),
        of_namespace("old"): Spent((now - NAMESPACE_ORDERS.span,)),
        of_name("none.test"): Spent(),
    }
    counts = {
        of_name("ordered.test"): Spent((now - DUPLICATES.span + HOUR,)),
        of_name("failed.test"): Spent((), (now - HOUR // 2,)),
        of_namespace("acme"): Spent((now - NAMESPACE_ORDERS.span, now - HOUR)),
    }
    await store.commit([Change(Kind.BUDGET, i, encode(spent)) for i, spent in (over | counts).items()])
    assert await swept(store, now) == len(over)
    assert await left(store, Kind.BUDGET) == set(counts)
