"""The phases of a start: measured without a gap, taken up where an earlier control left them, counted over restarts."""

from __future__ import annotations

import json

import pytest
from samples import replica

from activator.coldstarts import PHASES, ColdStarts, Stopwatch, seconds, told, total
from state.models import ReplicaState, StartPhases

WHOLE = StartPhases(decide=1_000, schedule=2_000, start=5_000, ready=404_000, first_byte=31_000)


def test_what_was_not_there_is_left_out() -> None:
    assert seconds(WHOLE) == {"decide": 0.001, "schedule": 0.002, "start": 0.005, "ready": 0.404, "first_byte": 0.031}
    assert total(WHOLE) == pytest.approx(0.443)
    assert told(WHOLE) == "443 ms: decide 1, schedule 2, start 5, ready 404, first byte 31"
    assert told(StartPhases()) == "0 ms: "


def test_phases_follow_each_other_without_a_gap() -> None:
    intent = replica("r", ReplicaState.INTENT, phases=StartPhases(decide=1_000))
    clock = Stopwatch(intent, 100.0, intent.created_at + 2_000)
    clock.enter("start", 100.5)
    clock.enter("fetch", 100.75)
    clock.enter("start", 103.0)
    clock.enter("ready", 103.5)
    assert clock.enter("first_byte", 104.0) == StartPhases(1_000, 502_000, 2_250_000, 750_000, 500_000)


def test_another_control_goes_on_by_the_wall_clock() -> None:
    stored = StartPhases(decide=1, schedule=2, start=3)
    starting = replica("r", ReplicaState.STARTING, started_at=10_000_000, phases=stored)
    clock = Stopwatch(starting, 7.0, 12_500_000)
    assert clock.phase == "ready"
    assert clock.enter("first_byte", 7.5).ready == 3_000_000


def test_a_clock_that_was_stepped_back_gives_no_negative_phase() -> None:
    intent = replica("r", ReplicaState.INTENT, created_at=99)
    assert Stopwatch(intent, 5.0, 1).enter("start", 5.0).schedule == 0


def test_a_cold_start_counts_by_phase_and_as_a_whole() -> None:
    starts = ColdStarts()
    starts.ready(StartPhases(decide=1_000, schedule=2_000, start=5_000, ready=404_000))
    starts.answered(0.031)
    starts.failed("fetch")
    assert starts.total == 1
    assert {phase: histogram.count for phase, histogram in starts.seconds.items()} == {
        **dict.fromkeys(PHASES, 1),
        "fetch": 0,
    }
    assert starts.whole.total == pytest.approx(0.412)
    assert starts.failures == {"schedule": 0, "fetch": 1, "start": 0, "ready": 0}


def test_they_go_on_from_what_was_kept() -> None:
    before, after = ColdStarts(), ColdStarts()
    for starts in (before, after):
        if starts is after:
            after.restore(json.loads(json.dumps(before.state())))
        starts.ready(WHOLE)
        starts.failed("ready")
    assert (after.total, after.failures["ready"], after.seconds["ready"].count) == (2, 2, 2)
    assert after.whole.total == pytest.approx(2 * total(WHOLE))
    with pytest.raises(ValueError, match="other buckets"):
        after.restore({**before.state(), "seconds": {phase: [[1], 1.0] for phase in ("", *PHASES)}})
