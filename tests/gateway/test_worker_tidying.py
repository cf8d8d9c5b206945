"""Full collections: when nobody waits, never for more than a thousandth of the time, and in the end always."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
from wire import until

from gateway import tidying
from gateway.tidying import GROWTH, Look, Tidying, grown, overdue, timely, trim

DUE = Look(since=10.0, took=0.001, young=10, closed=0, quiet=True)


class Plane:
    connections = 0
    holds = False


class Loop:
    """Garbage that only a collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A second is shorter, and a test is never too busy."""
    monkeypatch.setattr(tidying, "TICK", 0.01)
    monkeypatch.setattr(tidying, "QUIET", 1e9)
    monkeypatch.setattr(tidying, "EVERY", 0.0)
    monkeypatch.setattr(tidying, "SHARE", 0.0)
    yield Plane()
    gc.unfreeze()


@pytest.mark.parametrize(
    ("look", "now"),
    [
        (DUE, True),
        (replace(DUE, quiet=False), False),
        (replace(DUE, since=9.9), False),
        (replace(DUE, young=9), False),
        (replace(DUE, young=0, closed=500), True),
        (replace(DUE, took=0.1, since=99.0), False),
        (replace(DUE, took=0.1, since=101.0), True),
    ],
)
def test_at_quiet_moments_and_seldom(look: Look, now: bool) -> None:
    assert timely(look) is now


def test_where_it_is_never_quiet_growth_decides() -> None:
    busy = replace(DUE, quiet=False)
    assert not overdue(busy)
    assert overdue(replace(busy, since=60.0))
    assert not overdue(replace(busy, since=60.0, young=9))
    assert not overdue(replace(busy, since=60.0, took=0.1))
    assert not grown(GROWTH, 0)
    assert grown(GROWTH + 1, 0)
    assert not grown(GROWTH + 1, 1000)


def old_garbage() -> weakref.ref[Loop]:
    """Of the oldest generation, which Python collects by itself no more."""
    loop = Loop()
    for _ in range(tidying.YOUNG + 2):
        gc.collect(1)
    return weakref.ref(loop)


async def test_old_cycles_are_collected_once_nobody_is_held(plane: Plane) -> None:
    plane.holds = True
    keeper = Tidying(plane)
    keeper.start()
    try:
        garbage = old_garbage()
        before = keeper.full
        plane.connections = 1
        await until(lambda: keeper._most == 1)
        assert garbage() is not None
        assert keeper.full == before
        plane.holds = False
        await until(lambda: garbage() is None)
        assert keeper.full > before
    finally:
        keeper.stop()


async def test_old_cycles_are_collected_although_it_is_never_quiet(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "BUSY_EVERY", 0.0)
    monkeypatch.setattr(tidying, "GROWTH", -1)
    plane.holds = True
    keeper = Tidying(plane)
    keeper.start()
    try:
        garbage = old_garbage()
        await until(lambda: garbage() is None)
    finally:
        keeper.stop()


async def test_closed_connections_are_a_reason(plane: Plane) -> None:
    keeper = Tidying(plane)
    keeper.start()
    try:
        plane.connections = 500
        await until(lambda: keeper._most == 500)
        before = keeper.full
        plane.connections = 0
        await until(lambda: keeper.full > before)
    finally:
        keeper.stop()


async def test_python_collects_the_oldest_again_once_it_ends(plane: Plane) -> None:
    before = gc.get_threshold()
    keeper = Tidying(plane)
    keeper.start()
    assert gc.get_threshold()[:2] == before[:2]
    assert gc.get_threshold()[2] > 1_000_000
    keeper.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() > 0


def test_memory_can_be_given_back() -> None:
    trim()
