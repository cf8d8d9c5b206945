"""Reports and wakes over a real store: levels that survive its absence, acknowledgements within milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.reporter import ANSWERED_LIMIT, COUNTED, REPEATED, WAKES_LIMIT, Ledger, Reporter
from state.store import REPORTS, WAKES, Store
from tests.conftest import Valkey

WORKER = "node/supervisor/1/incarnation"


@dataclass
class Load:
    in_flight: int
    held: int
    held_ms: int
    replicas: Mapping[str, int]


@dataclass
class Plane:
    """What there is to report, in plain view."""

    load: dict[str, Load] = field(default_factory=dict)
    counted: dict[str, Any] = field(default_factory=dict)
    revision: int = 7
    run_id: str = "run"

    def loads(self) -> Mapping[str, Load]:
        return self.load

    def counters(self) -> dict[str, Any]:
        return {"services": {i: dict(c) for i, c in self.counted.items()}, "accepted": 5}


class Ear:
    """Hears what is published."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.wakes: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, store: Store, ready: asyncio.Event) -> None:
        async for channel, data in store.subscribe(REPORTS, WAKES):
            if data == b"are you there":
                ready.set()
            elif channel == REPORTS:
                self.reports.put_nowait(json.loads(data))
            else:
                self.wakes.put_nowait(data.decode())

    async def report(self, **wanted: Any) -> dict[str, Any]:
        """The next report that says what is wanted."""
        async with asyncio.timeout(30):
            while True:
                report = await self.reports.get()
                if all(report.get(key) == value for key, value in wanted.items()):
                    return report


@contextlib.asynccontextmanager
async def hearing(store: Store) -> AsyncIterator[Ear]:
    ear, ready = Ear(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(ear.listen(store, ready))
        async with asyncio.timeout(30):
            while not ready.is_set():
                await store.publish(REPORTS, b"are you there")
                await asyncio.sleep(0.01)
        yield ear
        task.cancel()


@contextlib.asynccontextmanager
async def reporting(store: Store, plane: Plane, every: float = 60.0) -> AsyncIterator[Reporter]:
    reporter = Reporter(store, WORKER, plane, every)
    reporter.watch(plane)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reporter.run())
        yield reporter
        task.cancel()


async def test_a_report_says_revision_load_and_counters_in_one_message(store: Store) -> None:
    plane = Plane({"s": Load(3, 2, 1234, {"r": 3})}, {"s": {"requests": {"200": 9}}})
    async with hearing(store) as ear, reporting(store, plane):
        assert await ear.report() == {
            "worker": WORKER,
            "seq": 1,
            "run_id": "run",
            "revision": 7,
            "services": {"s": {"in_flight": 3, "held": 2, "held_ms": 1234, "replicas": {"r": 3}}},
            "counters": {
                "services": {"s": {"requests": {"200": 9}}},
                "accepted": 5,
                "reports_failed": 0,
                "wakes_dropped": 0,
                "first_bytes_dropped": 0,
            },
        }


async def test_reports_are_repeated(store: Store) -> None:
    async with hearing(store) as ear, reporting(store, Plane(), every=0.02):
        assert [(await ear.report())["seq"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_an_acknowledgement_is_not_waited_for(store: Store) -> None:
    plane = Plane()
    async with hearing(store) as ear, reporting(store, plane) as reporter:
        await ear.report(revision=7)
        plane.revision = 8
        reporter.hurry()
        assert "counters" not in await ear.report(revision=8)
        plane.revision = 9
        reporter.changed("s")
        await ear.report(revision=9)


async def test_many_changes_make_few_reports_and_the_last_one_is_told(store: Store) -> None:
    plane = Plane()
    async with hearing(store) as ear, reporting(store, plane) as reporter:
        for plane.revision in range(1, 301):
            reporter.hurry()
            await asyncio.sleep(0)
        report = await ear.report(revision=300)
        assert report["seq"] < 150


async def test_hurry_without_end_does_not_starve_the_counters(store: Store) -> None:
    plane = Plane(counted={"s": {"requests": {"200": 1}}})
    async with hearing(store) as ear, reporting(store, plane, every=0.1) as reporter:
        with_counters = 0
        async with asyncio.timeout(30):
            while with_counters < 3:
                reporter.hurry()
                with_counters += "counters" in await ear.report()


async def test_a_wake_goes_out_at_once_and_once(store: Store) -> None:
    async with hearing(store) as ear, reporting(store, Plane()) as reporter:
        for service in ("a", "b", "a"):
            reporter.wake(service)
        async with asyncio.timeout(30):
            assert [await ear.wakes.get(), await ear.wakes.get()] == ["a", "b"]
        reporter.wake("a")
        async with asyncio.timeout(30):
            assert await ear.wakes.get() == "a"
        assert ear.wakes.empty()


async def test_a_first_byte_is_told_at_once_and_some_times_more(store: Store) -> None:
    plane = Plane()
    async with hearing(store) as ear, reporting(store, plane, every=0.05) as reporter:
        await ear.report()
        reporter.answered("r", 20_000)
        await ear.report(first_bytes={"r": 20_000})
        found = [await ear.report() for _ in range(REPEATED + 3)]
        telling = [report for report in found if "first_bytes" in report]
        assert telling == found[: len(telling)]
        assert len(telling) in (REPEATED - 1, REPEATED)  # the first was a hurried one, or one of the full ones


async def test_first_bytes_that_can_not_wait_are_counted(store: Store) -> None:
    reporter = Reporter(store, WORKER, Plane())
    for number in range(ANSWERED_LIMIT + 2):
        reporter.answered(f"r{number}", 1)
    assert reporter.first_bytes_dropped == 2


async def test_wakes_that_can_not_wait_are_counted(store: Store) -> None:
    reporter = Reporter(store, WORKER, Plane())
    for number in range(WAKES_LIMIT + 3):
        reporter.wake(str(number))
    reporter.wake("0")
    assert reporter.wakes_dropped == 3


async def test_counters_wait_for_a_store_that_is_gone(valkey: Valkey, store: Store) -> None:
    plane = Plane(counted={"s": {"requests": {"200": 1}}})
    async with hearing(store) as ear, reporting(store, plane, every=0.02) as reporter:
        await ear.report()
        valkey.kill()
        plane.counted["s"] = {"requests": {"200": 2}}
        plane.revision = 99
        reporter.wake("s")
        async with asyncio.timeout(30):
            while reporter.failed < 3 or not reporter.wakes_dropped:
                await asyncio.sleep(0.01)
        valkey.start()
        report = await ear.report(revision=99)
        while not report.get("counters", {}).get("services"):  # the one in a hurry tells none
            report = await ear.report(revision=99)
        assert report["counters"]["services"] == {"s": {"requests": {"200": 2}}}
        assert report["counters"]["reports_failed"] >= 3


async def test_the_last_word_tells_every_counter(store: Store) -> None:
    plane = Plane(counted={str(i): {"requests": {"200": 1}} for i in range(2 * COUNTED + 1)})
    reporter = Reporter(store, WORKER, plane)
    reporter.watch(plane)
    async with hearing(store) as ear:
        assert await reporter.last()
        reports = [await ear.report() for _ in range(3)]
        assert {i for report in reports for i in report["counters"]["services"]} == plane.counted.keys()
        assert all(report["last"] is True for report in reports)


async def test_a_store_that_is_gone_does_not_keep_a_worker_from_ending(valkey: Valkey, store: Store) -> None:
    valkey.kill()
    assert not await Reporter(store, WORKER, Plane()).last()


def test_what_changed_goes_first_and_the_others_take_turns() -> None:
    ledger = Ledger(limit=20)
    services = {str(i): 0 for i in range(50)}
    ledger.told(ledger.choose(services))
    assert ledger.behind
    ledger.told(ledger.choose(services))
    ledger.told(ledger.choose(services))
    assert not ledger.behind
    services["49"] = 1
    chosen = ledger.choose(services)
    assert list(chosen) == ["49", "0"]  # the change, and the one that was told longest ago
    ledger.told(chosen)
    assert list(ledger.choose(services)) == ["1", "2"]


@given(st.lists(st.dictionaries(st.integers(0, 30).map(str), st.integers(0, 3), max_size=30), max_size=8))
def test_whatever_happens_a_reader_learns_everything_in_the_end(states: list[dict[str, int]]) -> None:
    ledger, known = Ledger(limit=10), dict[str, int]()
    for services in states:
        chosen = ledger.choose(services)
        assert len(chosen) <= 10
        ledger.told(chosen)
        known |= chosen
    last = states[-1] if states else {}
    for _ in range(3):
        chosen = ledger.choose(last)
        ledger.told(chosen)
        known |= chosen
    assert {i: known[i] for i in last} == last
