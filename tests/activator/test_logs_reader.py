"""Reading a log in any way is reading a list: whatever was written, rotated, restarted or torn in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activator.logs import LogLimits, LogLine, LogStore, Query, Stream, reader
from activator.logs.line import Piece
from activator.logs.store import Origin, segments

START = 1_700_000_000_000_000
DAY = 86_400_000_000


@dataclass
class Clock:
    now: int = START

    def __call__(self) -> int:
        return self.now


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Read in blocks of so many bytes: what is found must not depend on where they end."""
    before = reader._BLOCK, reader._PROBE
    reader._BLOCK = reader._PROBE = size
    try:
        yield
    finally:
        reader._BLOCK, reader._PROBE = before


ORIGINS = [
    Origin(stream, replica, deployment)
    for stream in (Stream.STDOUT, Stream.STDERR)
    for replica in ("r1", "r2")
    for deployment in ("d1", "d2")
] + [Origin(Stream.BUILD, None, "d2")]

TEXTS = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" r1 ")) | st.sampled_from(
    [b"", b"\0" * 20, b"1700000000000009 o r1 d1 5 no entry", b"# {", b" r2 ", b"\xff\xfe", b"x" * 700]
)
WRITES = st.tuples(
    st.sampled_from(ORIGINS), st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6), st.integers(-3, 9)
)
STEPS = st.lists(WRITES | st.sampled_from(["restart", "tear"]), max_size=40)
MOMENTS = st.none() | st.integers(-2, 300).map(lambda n: START + n)


@dataclass
class Log:
    """The real log of a service beside the list of what was written to it."""

    root: Path
    limits: LogLimits
    clock: Clock = field(default_factory=Clock)
    lines: list[LogLine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = LogStore(self.root, self.limits, self.clock)
        self._end = 0

    def write(self, origin: Origin, pieces: list[tuple[bytes, bool]], wait: int) -> None:
        self.clock.now += wait
        moment = self.lines[-1].time if self.lines else 0
        cut = []
        for text, partial in pieces:
            self._end += 1
            moment = max(self.clock.now, moment + 1)
            cut.append(Piece(text, self._end, partial))
            found = text.decode("utf-8", "replace")
            self.lines.append(LogLine(moment, origin.stream, origin.replica, origin.deployment, found, partial))
        self.store.service("svc").append(origin, cut)

    def restart(self) -> None:
        self.store = LogStore(self.root, self.limits, self.clock)

    def tear(self) -> None:
        """As a kill in the middle of a write leaves it."""
        if self.lines:
            with open(segments(self.root / "svc")[-1], "ab") as file:
                file.write(b"1700000000900000 o r1 d1 9 half of a li")

    def matching(self, query: Query) -> list[LogLine]:
        low = -1 if query.since is None else query.since
        high = START + DAY if query.until is None else query.until
        return [line for line in self.lines if low < line.time <= high and query.matches(line)]


QUERIES = st.builds(
    Query,
    limit=st.integers(1, 12),
    since=MOMENTS,
    until=MOMENTS,
    replica=st.sampled_from([None, "r1", "r2", "r", "r1 d1", "r1 d1 5", "r1\n", "", ".*", "-", "\udcff"]),
    deployment=st.sampled_from([None, "d1", "d2"]),
    stream=st.sampled_from([None, *Stream]),
)


@settings(max_examples=80)
@given(STEPS, st.lists(QUERIES, min_size=1, max_size=4), st.sampled_from([40, 300, 262_144]), st.integers(150, 3000))
def test_any_query_is_that_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list, queries: list[Query], block: int, segment: int
) -> None:
    log = Log(tmp_path_factory.mktemp("logs"), LogLimits(segment=segment, total=1 << 30))
    with blocks_of(block):
        for step in steps:
            if isinstance(step, str):
                log.restart() if step == "restart" else log.tear()
                log.restart()
            else:
                log.write(*step)
        for query in queries:
            expected = log.matching(query)
            page = log.store.read_now("svc", query)
            assert [*page.items] == expected[-query.limit :]
            assert page.truncated == (len(expected) > query.limit)


@settings(max_examples=50)
@given(STEPS, QUERIES, st.sampled_from([40, 262_144]), st.integers(150, 3000))
def test_pages_that_follow_each_other_have_no_gap_and_no_double(
    tmp_path_factory: pytest.TempPathFactory, steps: list, query: Query, block: int, segment: int
) -> None:
    """Also when lines are written, segments begun and control restarted between the pages."""
    log = Log(tmp_path_factory.mktemp("logs"), LogLimits(segment=segment, total=1 << 30))
    seen: list[LogLine] = []
    place = 0
    with blocks_of(block):
        for step in [*steps, "restart"]:
            if isinstance(step, str):
                log.restart()
            else:
                log.write(*step)
            page = log.store.read_now("svc", forward(query, place))
            assert not page.truncated
            assert len(page.items) <= query.limit
            seen += page.items
            place = page.next
        while (page := log.store.read_now("svc", forward(query, place))).items:
            seen += page.items
            place = page.next
    wanted = Query(replica=query.replica, deployment=query.deployment, stream=query.stream)
    assert seen == log.matching(wanted)
    if log.lines:
        assert place == log.lines[-1].time  # behind what did not match, too: the next page is cheap


def forward(query: Query, place: int) -> Query:
    return Query(query.limit, place, None, query.replica, query.deployment, query.stream, forward=True)


def test_a_place_whose_lines_are_dropped_meanwhile_is_told(tmp_path: Path) -> None:
    log = Log(tmp_path, LogLimits(segment=1000, total=4000))
    for n in range(200):
        log.write(ORIGINS[0], [(b"line %d" % n, False)], 1)
    left = log.store.read_now("svc", Query(limit=1000)).items
    assert left == tuple(log.lines[-len(left) :])
    page = log.store.read_now("svc", forward(Query(limit=10), log.lines[0].time))
    assert (page.items, page.truncated) == (left[:10], True)
    edge = log.lines[-len(left) - 1].time  # the last line that is gone: nothing behind it is missing
    page = log.store.read_now("svc", forward(Query(limit=1000), edge))
    assert (page.items, page.truncated) == (left, False)
    assert log.store.read_now("svc", forward(Query(limit=1000), edge - 1)).truncated


def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    log = Log(tmp_path, LogLimits())
    log.write(ORIGINS[0], [(b"x" * 300, False)] * 10, 1)
    page = log.store.read_now("svc", Query(limit=10, room=1000))
    assert (page.items, page.truncated) == (tuple(log.lines[-3:]), True)
    page = log.store.read_now("svc", replace(forward(Query(limit=10), 0), room=1000))
    assert (page.items, page.truncated, page.next, page.more) == (
        tuple(log.lines[:3]),
        False,
        log.lines[2].time,
        True,
    )
    log.write(ORIGINS[0], [(b"y" * 5000, False)], 1)
    assert log.store.read_now("svc", Query(limit=10, room=1000)).items == (log.lines[-1],)  # one at least


def test_lines_go_by_age(tmp_path: Path) -> None:
    log = Log(tmp_path, LogLimits(age=10 * 86_400, segment_age=86_400))
    for day in range(30):
        log.clock.now = START + day * DAY
        log.write(ORIGINS[day % 2], [(b"day %d" % day, False)], 0)
    assert len(segments(tmp_path / "svc")) <= 12
    left = log.store.read_now("svc", Query(limit=100)).items
    assert left == tuple(log.lines[-len(left) :])
    assert 10 <= len(left) <= 12


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_last_lines_of_who_says_no_more_go_too_and_what_was_taken_stays_known(
    tmp_path: Path, restarted: bool
) -> None:
    log = Log(tmp_path, LogLimits(age=86_400))
    log.write(ORIGINS[0], [(b"last words", False)], 0)
    log.clock.now += 3 * DAY
    for file in segments(tmp_path / "svc"):
        os.utime(file, (START / 1e6, START / 1e6))
    if restarted:
        log.restart()
    await log.store.expire()
    assert log.store.read_now("svc", Query()).items == ()
    log.restart()
    assert log.store.service("svc").taken(ORIGINS[0]) == 1
    log.clock.now -= 2 * DAY  # the wall clock is stepped back: a time is a place all the same
    log.write(ORIGINS[0], [(b"again", False)], 0)
    [line] = log.store.read_now("svc", Query()).items
    assert (line.line, line.time) == ("again", START + 3 * DAY)
    await log.store.expire()
    assert len(log.store.read_now("svc", Query()).items) == 1


def test_damage_in_a_segment_costs_only_what_is_damaged(tmp_path: Path) -> None:
    log = Log(tmp_path, LogLimits())
    log.write(ORIGINS[0], [(b"one", False), (b"two", False), (b"three", False)], 0)
    [path] = segments(tmp_path / "svc")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"two", b"\0\0\n") + b"\0" * 4096 + b"\n")
    log.restart()
    log.write(ORIGINS[0], [(b"four", False)], 1)
    assert [line.line for line in log.store.read_now("svc", Query()).items] == ["one", "\0\0", "three", "four"]
    assert log.store.service("svc").taken(ORIGINS[0]) == 4
    path.write_bytes(b"# {not json\n" + data.partition(b"\n")[2])
    log.restart()
    assert log.store.service("svc").taken(ORIGINS[0]) == 3
