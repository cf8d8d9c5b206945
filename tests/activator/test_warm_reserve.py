"""A replica is kept while requests are expected, and none of that is taken for requests. Real store, real processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plane import QUICK, Plane, states, until

from activator.forecast import WEEK, expected, hour_of
from state.codec import decode, encode
from state.ids import now_us
from state.kinds import Kind
from state.models import History, ReplicaState, Scale, Scaling
from state.store import Change, Conflict

ALWAYS = "2" * WEEK  # a week ago, each hour


async def remember(plane: Plane, service: str, weeks: str, **fields: Any) -> None:
    """As if it had had requests in these hours; with `fields` of its scale."""
    now = hour_of(now_us())
    while True:
        record = await plane.store.get(Kind.SCALE, service)
        assert record is not None
        scale = replace(decode(Scale, record.value), history=History(now - WEEK, now + 1, weeks), **fields)
        try:
            await plane.store.commit([Change(Kind.SCALE, service, encode(scale), record.version)])
        except Conflict:
            continue
        return


async def test_it_is_woken_for_requests_that_are_expected_and_sleeps_after_them(plane: Plane) -> None:
    plane.repository()
    control, worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1, warm_reserve=True))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    await remember(plane, service, ALWAYS)
    await until(lambda: states(control.view(service)) == [ReplicaState.READY], what=lambda: control.view(service))
    woke = [event.reason for event in await plane.events(service) if event.kind == "service.woke"]
    assert woke == ["requests are expected: in most weeks there were some in this hour"]
    assert (await worker.request(service))[0] == 200
    assert len(plane.starts()) == 2
    await remember(plane, service, "0" * WEEK)
    await until(lambda: states(control.view(service)) == [], what=lambda: control.view(service))


async def test_without_the_option_history_wakes_nobody(plane: Plane) -> None:
    plane.repository()
    control, _worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await remember(plane, service, ALWAYS)
    await until(lambda: states(control.view(service)) == [])


async def test_requests_are_remembered_and_a_reserve_is_not_one(plane: Plane) -> None:
    plane.repository()
    control = plane.control(settings=replace(QUICK, activity_interval=0.2))
    worker = await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=2, warm_reserve=True))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])

    def history() -> History | None:
        view = control.view(service)
        return None if view is None else view.scale.history

    await until(lambda: control.view(service).scale.active_at is not None)  # type: ignore[union-attr]
    assert history() is None
    began = hour_of(now_us())
    assert (await worker.request(service, "/slow/1"))[0] == 200
    await until(lambda: history() is not None)
    learned = history()
    assert learned is not None
    assert began <= learned.hour <= hour_of(now_us())
    assert expected(learned, learned.hour + WEEK)
    assert learned.start_ms is not None
    assert learned.start_ms > 0


async def test_what_its_owner_put_to_sleep_is_not_reserved(plane: Plane) -> None:
    plane.repository()
    control, _worker = plane.control(), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=3600, warm_reserve=True))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await remember(plane, service, ALWAYS, desired=0, asleep=True)
    await until(lambda: states(control.view(service)) == [])
    assert len(plane.starts()) == 1
