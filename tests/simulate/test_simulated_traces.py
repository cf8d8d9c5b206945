"""What docs/autoscaling.md says is what the simulator gives, and nothing fails. Long traces are for `make simulate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from simulate import fleet, reserve
from simulate.document import COLUMNS, part, table, write_into
from simulate.drawing import draw
from simulate.runs import run
from simulate.traces import TRACES, Trace

DOCS = Path(__file__).parents[2] / "docs"
QUICK = ("on-off", "slow-start", "heavy-tail")


@pytest.mark.parametrize("trace", [t for t in TRACES if t.name in QUICK], ids=lambda trace: trace.name)
def test_the_figures_in_the_docs_are_those_of_this_code(trace: Trace) -> None:
    runs = run(trace, sampled=False)
    assert table([one.row for one in runs]) in part((DOCS / "autoscaling.md").read_text(), trace.name)
    assert {one.row.policy: one.row.failed for one in runs} == dict.fromkeys((one.row.policy for one in runs), 0)


@pytest.mark.parametrize("name", [*(trace.name for trace in TRACES), "fleet"])
def test_each_trace_has_its_picture(name: str) -> None:
    assert f"(autoscaling-{name}.png)" in part((DOCS / "autoscaling.md").read_text(), name)
    assert (DOCS / f"autoscaling-{name}.png").stat().st_size < 100_000


def test_most_of_a_fleet_sleeps_and_no_request_of_it_fails() -> None:
    [ours] = fleet.run(40, policies=("Wakegate",))
    assert ours.row.failed == 0
    assert ours.row.cold_starts > 20
    assert 0.9 < fleet.asleep(ours.samples, 40) < 0.99


def test_a_reserve_meets_a_habit_from_the_second_week_on() -> None:
    habit = next(habit for habit in reserve.HABITS if "Monday" in habit.name)
    without, reserved = reserve.run(habit, weeks=3)
    assert (without.cold_starts, reserved.cold_starts) == (3, 1)
    assert without.requests == reserved.requests
    assert without.replica_seconds < reserved.replica_seconds < without.replica_seconds + 2 * 2 * 3600
    assert "| 67 % |" in reserve.table([(without, reserved)])


def test_a_picture_is_a_small_png(tmp_path: Path) -> None:
    trace = dataclasses.replace(next(t for t in TRACES if t.name == "on-off"), seconds=900.0)
    path = tmp_path / "picture.png"
    draw(path, trace.what, [one.at for one in trace.requests()], run(trace), trace.seconds)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size < 100_000


def test_figures_are_written_between_their_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- a: begin -->\nold\n<!-- a: end -->\nbelow\n")
    write_into(page, "a", "new")
    assert page.read_text() == "above\n<!-- a: begin -->\n\nnew\n\n<!-- a: end -->\nbelow\n"
    with pytest.raises(ValueError, match="no marks"):
        write_into(page, "b", "new")
    assert "replica-seconds" in dict(COLUMNS)
