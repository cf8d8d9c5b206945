"""Rows in chunks, ranges and answers: nothing is lost or told twice, whatever is merged in whatever order."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.analytics import chunks, series
from control.analytics.chunks import LEVELS, Lines, compacted, joined, level_line, means, read_lines, row_line, thinned
from control.analytics.resolution import DAY, HOUR, POINTS, TIERS, Range, choose, points
from control.contract.problem import Problem
from control.handlers.analytics import requested
from gateway.histogram import bucket, count
from state.counts import Counts

NOW = 1_700_000_000
FINE, MINUTES, HOURS = TIERS


def some(requests: int, seconds: float = 0.01) -> Counts:
    return Counts(requests=requests, bytes_in=requests * 100, duration={bucket(seconds): requests} if requests else {})


def total(rows: chunks.Rows) -> Counts:
    whole = Counts()
    for counts in rows.values():
        whole.add(counts)
    return whole


# Chunks

slots = st.integers(0, 3 * DAY // 10).map(lambda back: (NOW // 10 - back) * 10)
batches = st.lists(st.lists(st.tuples(slots, st.integers(1, 5)), max_size=12), min_size=1, max_size=5)


@given(batches)
def test_compacting_in_any_portions_gives_the_same_rows(portions: list[list[tuple[int, int]]]) -> None:
    """Late rows find their place in chunks that exist; each tier has all that is within its retention."""
    stored: dict[str, bytes] = {}
    for portion in portions:
        lines = read_lines(row_line(slot, some(requests)) for slot, requests in portion)
        stored |= compacted({n: stored[n] for n in chunks.touched(lines, NOW) if n in stored}, lines, NOW)
    everything = [pair for portion in portions for pair in portion]
    for tier in TIERS:
        found: dict[int, int] = {}
        for name in tier.chunks(NOW - 4 * DAY, NOW + 10):
            if name in stored:
                found |= {at: counts.requests for at, counts in chunks.unpack(stored[name]).items()}
        wanted: dict[int, int] = {}
        for slot, requests in everything:
            if tier.keeps(slot, NOW):
                at = slot // tier.step * tier.step
                wanted[at] = wanted.get(at, 0) + requests
        assert found == wanted


def test_lines_that_can_not_be_read_are_counted_and_the_others_count() -> None:
    told = read_lines([b"nonsense", b"[]", b"[1,2,3]", row_line(NOW, some(3)), b'{"a":1}', level_line(NOW * 1000, 2)])
    assert told.unreadable == 4
    assert (told.rows[NOW].requests, told.levels) == (3, [(NOW * 1000, 2.0)])


def test_a_chunk_that_can_not_be_read_is_begun_anew() -> None:
    lines = Lines({NOW: some(2)}, [(NOW * 1000, 1.0)])
    broken = dict.fromkeys(chunks.touched(lines, NOW), b"broken")
    put = compacted(broken, lines, NOW)
    assert set(put) == set(broken)
    assert chunks.unpack(put[FINE.chunk(NOW)])[NOW].requests == 2
    assert chunks.unpack_levels(put[LEVELS]) == [(NOW * 1000, 1.0)]
    for data in (b"broken", chunks.pack_levels([(1, 2)]), b""):
        with pytest.raises(chunks.MalformedChunk):
            chunks.unpack(data)


def test_a_chunk_expires_when_its_last_row_does() -> None:
    for tier in TIERS:
        name = tier.chunk(NOW)
        last = (NOW // tier.span + 1) * tier.span - tier.step
        assert tier.keeps(last, tier.expires(name) - tier.step)
        assert not tier.keeps(last, tier.expires(name))


def test_only_chunks_that_can_exist_are_asked_for() -> None:
    for tier in TIERS:
        names = list(tier.kept(0, 10**11, NOW))
        assert len(names) <= tier.retention // tier.span + 4
        assert {tier.chunk(NOW), tier.chunk(NOW - tier.retention)} <= set(names)
        assert list(tier.kept(NOW + DAY * 30, NOW + DAY * 60, NOW)) == []


# Levels

levels = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 4).map(float)), max_size=12).map(
    lambda changes: sorted(dict(changes).items())
)


@given(levels, st.integers(0, 4000), st.integers(1, 20), st.integers(1, 500))
def test_means_are_integrals_of_the_steps(changes: list[tuple[int, float]], start: int, count: int, step: int) -> None:
    found = means(changes, start, start + count * step, step)

    def level(at: int) -> float:
        return next((value for when, value in reversed(changes) if when <= at), 0.0)

    for place, mean in enumerate(found):
        begins = start + place * step
        assert mean == pytest.approx(sum(level(at) for at in range(begins, begins + step)) / step)


def test_levels_are_thinned_to_hourly_means_and_keep_their_last() -> None:
    hour = HOUR * 1000
    old = (NOW - 5 * DAY) // HOUR * hour
    changes: list[tuple[int, float]] = [(old, 2.0), (old + hour // 2, 0.0), (old + hour, 3.0)]
    recent = (NOW - HOUR) * 1000
    thin = thinned([*changes, (recent, 1.0)], NOW)
    assert thin == [(old, 1.0), (old + hour, 3.0), (recent, 1.0)]
    assert thinned(thin, NOW) == thin
    gone = thinned(thin, NOW + 200 * DAY)
    assert [level for _, level in gone] == [1.0]
    assert len(gone) == 1


def test_a_service_that_sleeps_and_wakes_all_the_time_is_bounded() -> None:
    flapping = [((NOW - 120 * DAY + n * 600) * 1000, float(n % 2)) for n in range(120 * DAY // 600)]
    thin = thinned(joined([], flapping), NOW)
    assert len(thin) < 90 * 24 + 2 * DAY // 600 + 10
    assert len(chunks.pack_levels(thin)) < 16_000


# Ranges


@pytest.mark.parametrize(
    ("back", "step", "tier", "served"),
    [
        (HOUR, 60, MINUTES, 60),
        (HOUR, 10, FINE, 10),
        (HOUR, 90, FINE, 90),
        (HOUR, 15, FINE, 20),
        (2 * HOUR, 10, FINE, 10),
        (3 * HOUR, 10, MINUTES, 60),
        (DAY, 60, MINUTES, 60),
        (DAY, 90, MINUTES, 120),
        (2 * DAY, 3600, HOURS, 3600),
        (3 * DAY, 600, HOURS, 3600),
        (80 * DAY, 7200, HOURS, 7200),
        (400 * DAY, 86_400, HOURS, 86_400),
        (HOUR, 5400, MINUTES, 5400),
    ],
)
def test_which_resolution_serves_which_range(back: int, step: int, tier: Any, served: int) -> None:
    found = choose(NOW - back, NOW, step, NOW)
    assert (found.tier, found.step) == (tier, served)


@given(st.integers(0, 100 * DAY), st.integers(1, 3 * DAY), st.integers(10, 2 * DAY))
def test_a_range_has_whole_steps_and_covers_what_was_asked_for(back: int, length: int, step: int) -> None:
    found = choose(NOW - back, NOW - back + length, step, NOW)
    assert found.start % found.step == found.end % found.step == found.step % found.tier.step == 0
    assert NOW - back - found.step < found.start <= NOW - back < found.end
    assert NOW - back + length <= found.end < NOW - back + length + found.step
    assert step <= found.step < step + found.tier.step
    assert found.points <= points(NOW - back, NOW - back + length, step) + 1


def test_by_default_it_is_the_last_hour_by_minute() -> None:
    found = requested({}, NOW + 0.5)
    assert (found.step, found.points, found.tier) == (60, 60, MINUTES)
    assert found.end - 60 < NOW + 1 <= found.end


def us(seconds: float) -> int:
    return round(seconds * 1_000_000)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"from": us(NOW), "to": us(NOW)}, "from"),
        ({"from": us(NOW), "to": us(NOW - 1)}, "from"),
        ({"from": us(NOW + 60)}, "from"),
        ({"from": us(NOW - POINTS * 60 - 1), "to": us(NOW)}, "step"),
        ({"from": us(NOW - 90 * DAY), "step": 10}, "step"),
    ],
)
def test_what_does_not_fit_together_is_told(given: dict[str, int], field: str) -> None:
    with pytest.raises(Problem) as problem:
        requested(given, NOW)
    assert problem.value.status == 422
    assert [error.field for error in problem.value.errors] == [field]


def test_the_longest_range_is_served() -> None:
    assert requested({"from": us(NOW - POINTS * 60), "to": us(NOW)}, NOW).points in (POINTS, POINTS + 1)
    assert requested({"to": us(NOW - DAY)}, NOW).points in (60, 61)


# Answers

ZERO = {
    "requests": 0,
    "errors": 0,
    "rate": 0,
    "p50_ms": 0,
    "p95_ms": 0,
    "p99_ms": 0,
    "bytes_in": 0,
    "bytes_out": 0,
    "in_flight": 0,
    "held": 0,
    "hold_p95_ms": 0,
    "cold_starts": 0,
    "cold_start_p50_ms": 0,
    "cold_start_p95_ms": 0,
    "cold_start_phases": {},
    "replicas": 0,
    "gpu_utilization": 0,
}


STARTS = {
    "first_byte": {bucket(0.02): 1},
    "ready": {bucket(0.4): 1, bucket(2.0): 1},
    "": {bucket(0.5): 1, bucket(3.0): 1},
}


def test_an_answer_has_every_step_and_the_whole_range() -> None:
    wanted = Range(0, 180, 60, FINE)
    rows = {
        10: Counts(5, 1, 500, 5000, 60_000, 30_000, 1, {bucket(0.1): 5}, {bucket(2.0): 1}),
        50: Counts(1, 0, 1, 1, 0, 0, 1, {bucket(1.0): 1}, {}, STARTS, 3, 9_000),
        70: Counts(gpu_looks=1, gpu_hundredths=10_000),
        130: some(2, 0.01),
        180: some(99),
    }
    told = series.answer(wanted, rows, [(30_000, 2.0), (150_000, 0.0)], 10_000)
    assert (told["from"], told["to"], told["step"]) == (
        "1970-01-01T00:00:00.000000Z",
        "1970-01-01T00:03:00.000000Z",
        60,
    )
    first, second, third = told["series"]
    assert first == {
        "time": "1970-01-01T00:00:00.000000Z",
        "requests": 6,
        "errors": 1,
        "rate": 0.1,
        "p50_ms": pytest.approx(100, rel=0.02),
        "p95_ms": pytest.approx(1000, rel=0.02),
        "p99_ms": pytest.approx(1000, rel=0.02),
        "bytes_in": 501,
        "bytes_out": 5001,
        "in_flight": 1,
        "held": 0.5,
        "hold_p95_ms": pytest.approx(2000, rel=0.02),
        "cold_starts": 2,
        "cold_start_p50_ms": pytest.approx(500, rel=0.02),
        "cold_start_p95_ms": pytest.approx(3000, rel=0.02),
        "cold_start_phases": {
            "ready": {"p50_ms": pytest.approx(400, rel=0.02), "p95_ms": pytest.approx(2000, rel=0.02)},
            "first_byte": {"p50_ms": pytest.approx(20, rel=0.02), "p95_ms": pytest.approx(20, rel=0.02)},
        },
        "replicas": 1,
        "gpu_utilization": 30,
    }
    assert second == ZERO | {"time": "1970-01-01T00:01:00.000000Z", "replicas": 2, "gpu_utilization": 100}
    assert (third["requests"], third["replicas"]) == (2, 1)
    assert (told["totals"]["requests"], told["totals"]["replicas"]) == (8, pytest.approx(4 / 3, abs=0.001))
    assert told["totals"]["gpu_utilization"] == 47.5
    assert told["totals"].keys() | {"time"} == first.keys()


def test_the_present_step_has_means_of_what_is_over() -> None:
    wanted = Range(0, 120, 60, FINE)
    told = series.answer(wanted, {60: Counts(in_flight_ms=15_000)}, [(0, 3.0)], 75)
    assert [(step["in_flight"], step["replicas"]) for step in told["series"]] == [(0, 3), (1, 3)]
    future = series.answer(Range(120, 240, 60, FINE), {}, [(0, 3.0)], 75)
    assert [step["replicas"] for step in future["series"]] == [0, 0]
    assert future["totals"] == ZERO


@given(
    st.lists(st.tuples(st.integers(0, 599), st.floats(1e-5, 500)), min_size=1, max_size=80),
    st.sampled_from([10, 30, 60, 600]),
)
def test_totals_are_those_of_the_steps_and_percentiles_within_two_percent(
    requests: list[tuple[int, float]], step: int
) -> None:
    rows: chunks.Rows = {}
    for at, seconds in requests:
        counts = Counts(requests=1)
        count(counts.duration, seconds)
        chunks.merge(rows, at // 10 * 10, counts)
    told = series.answer(Range(0, 600, step, FINE), rows, [], 600)
    assert sum(one["requests"] for one in told["series"]) == told["totals"]["requests"] == len(requests)
    values = sorted(seconds for _, seconds in requests)
    for percent in (50, 95, 99):
        exact = values[math.ceil(percent * len(values) / 100) - 1] * 1000
        assert abs(told["totals"][f"p{percent}_ms"] - exact) <= 0.02 * exact + 0.0005


def test_a_service_that_is_always_busy_takes_no_more_room_than_it_may() -> None:
    """Of 17 GiB for 10,000 services each has 1.8 MB; this one has 600 requests every minute, day and night."""
    dice = random.Random(7)

    def row(requests: int) -> Counts:
        counts = some(requests)
        counts.duration = {}
        for _ in range(min(requests, 2000)):
            count(counts.duration, dice.lognormvariate(math.log(0.05), 0.5))
        return counts

    size = 0.0
    for tier in TIERS:
        chunk = chunks.pack({n * tier.step: row(10 * tier.step) for n in range(tier.span // tier.step)})
        size += len(chunk) * (tier.retention + tier.span) / tier.span
    assert size < 600_000
