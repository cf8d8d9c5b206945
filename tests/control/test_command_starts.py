"""`wakegate services starts` against the running API: one line for each start, with all that is known of it."""

from __future__ import annotations

import json

import pytest
from command_runner import Run, runner

from state.ids import now_us
from state.models import Event, StartPhases

READY = StartPhases(decide=1_000, schedule=2_000, start=5_000, ready=12_000_000)
ANSWERED = StartPhases(1_000, 2_000, None, 5_000, 12_000_000, 31_000)


@pytest.fixture
def run(rig) -> Run:
    return runner(rig)


async def told(rig) -> None:
    service = (await rig.create("api")).json["id"]
    for kind, replica, phases, phase in (
        ("ready", "replica-aaaaaa", READY, None),
        ("failed", "replica-bbbbbb", StartPhases(schedule=2_000, fetch=700), "fetch"),
        ("answered", "replica-aaaaaa", ANSWERED, None),
        ("ready", "replica-cccccc", StartPhases(schedule=1, start=2, ready=3), None),
        ("draining", "replica-cccccc", None, None),
    ):
        event = Event(now_us(), f"replica.{kind}", "no such commit", "d", replica, phases, phase)
        await rig.store.append_event(service, event)


async def test_a_line_for_each_start(rig, run):
    await told(rig)
    heading, first, second, third = (await run("services", "starts", "acme/api")).stdout.splitlines()
    assert heading.split()[:4] == ["TIME", "REPLICA", "DECIDE", "SCHEDULE"]
    assert " ".join(first.split()[1:]) == "aaaaaa 1.0 ms 2.0 ms - 5.0 ms 12.0 s 31.0 ms 12.0 s - -"
    assert " ".join(second.split()[1:]) == "bbbbbb - 2.0 ms 0.7 ms - - - 2.7 ms fetch no such commit"
    assert third.split()[1] == "cccccc"


async def test_the_newest_as_json(rig, run):
    await told(rig)
    items = json.loads((await run("services", "starts", "acme/api", "-n", "2", "--json")).stdout)["items"]
    assert [(item["replica"][-6:], item.get("phase")) for item in items] == [("bbbbbb", "fetch"), ("cccccc", None)]
    assert items[0]["phases"] == {"schedule_ms": 2.0, "fetch_ms": 0.7, "total_ms": 2.7}


async def test_nothing_has_started_yet(rig, run):
    await rig.create("api")
    done = await run("services", "starts", "acme/api")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)
