"""Writing and reading a service's log: times, segments, crashes, a full disk, pages."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activator.logs import LogLimits, LogStore, Stream
from activator.logs.line import Piece, pieces
from activator.logs.reader import Query
from activator.logs.store import Origin, segments

START = 1_700_000_000_000_000
OUT = Origin(Stream.STDOUT, "r1", "d1")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def texts(store: LogStore, **query: object) -> list[str]:
    return [line.line for line in store.read_now("svc", Query(**query)).items]  # type: ignore[arg-type]


def write(store: LogStore, *lines: str, origin: Origin = OUT) -> None:
    at = store.service("svc").taken(origin)
    store.service("svc").append(origin, pieces("".join(f"{line}\n" for line in lines).encode(), at))


def test_times_always_rise(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    write(store, "a", "b")
    clock.now -= 3_600_000_000  # the wall clock is stepped back
    write(store, "c")
    clock.now += 7_200_000_000
    write(store, "d")
    times = [line.time - START for line in store.read_now("svc", Query()).items]
    assert times == [0, 1, 2, 3_600_000_000]
    again = LogStore(tmp_path / "logs", clock=lambda: START)
    write(again, "e")
    assert again.read_now("svc", Query(limit=1)).items[0].time == START + 3_600_000_001


def test_pages(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    write(store, *(f"line {n}" for n in range(10)))
    store.append("svc", "d2", ["compiling"])
    write(store, "oops", origin=Origin(Stream.STDERR, "r2", "d2"))
    page = store.read_now("svc", Query(limit=3))
    assert [line.line for line in page.items] == ["line 9", "compiling", "oops"]
    assert page.truncated
    assert page.next == START + 11
    assert store.read_now("svc", Query(since=page.next)).items == ()
    assert store.read_now("svc", Query(since=page.next)).next == page.next
    assert not store.read_now("svc", Query(limit=12)).truncated
    assert texts(store, since=START + 7) == ["line 8", "line 9", "compiling", "oops"]
    assert texts(store, since=START + 2, until=START + 4) == ["line 3", "line 4"]
    assert texts(store, limit=2, until=START + 4) == ["line 3", "line 4"]
    assert texts(store, replica="r2") == ["oops"]
    assert texts(store, deployment="d2") == ["compiling", "oops"]
    assert texts(store, stream=Stream.BUILD) == ["compiling"]
    assert texts(store, replica="r1", stream=Stream.STDERR) == []
    assert LogStore(tmp_path / "logs").read_now("unknown", Query()).items == ()


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.text("abé ", max_size=30)), max_size=60),
    st.integers(1, 20),
    st.none() | st.integers(-2, 200),
    st.none() | st.integers(-2, 200),
    st.integers(100, 2000),
)
def test_pages_are_those_of_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[int, str]],
    limit: int,
    since: int | None,
    until: int | None,
    segment: int,
) -> None:
    clock = Clock()
    store = LogStore(tmp_path_factory.mktemp("logs"), LogLimits(segment=segment, total=1 << 30), clock)
    model: list[tuple[int, str]] = []
    for wait, text in entries:
        clock.now += wait
        write(store, text)
        model.append((max(clock.now, model[-1][0] + 1) if model else clock.now, text))
    low, high = START + since if since is not None else None, START + until if until is not None else None
    matching = [(t, x) for t, x in model if (low is None or t > low) and (high is None or t <= high)]
    page = store.read_now("svc", Query(limit=limit, since=low, until=high))
    assert [(line.time, line.line) for line in page.items] == matching[-limit:]
    assert page.truncated == (len(matching) > limit)


def test_long_entries_across_blocks(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    lines = [f"{n} " + "x" * (n * 977 % 16_000) for n in range(200)]
    for line in lines:
        clock.now += 1000
        write(store, line)
    assert texts(store, limit=1000) == lines
    for n in (0, 1, 50, 120, 198):
        assert texts(store, limit=3, until=START + (n + 1) * 1000) == lines[max(0, n - 2) : n + 1]


def test_the_oldest_segments_are_dropped(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", LogLimits(segment=1000, total=5000), clock)
    for n in range(500):
        write(store, f"line {n}")
    files = segments(tmp_path / "logs" / "svc")
    assert sum(path.stat().st_size for path in files) <= 5000
    left = texts(store, limit=1000)
    assert left == [f"line {n}" for n in range(500 - len(left), 500)]
    assert len(left) > 50


def test_a_torn_line_is_cut_off(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    write(store, "whole", "torn")
    path = segments(tmp_path / "logs" / "svc")[0]
    os.truncate(path, path.stat().st_size - 3)
    assert texts(store) == ["whole"]
    again = LogStore(tmp_path / "logs", clock=clock)
    assert again.service("svc").taken(OUT) == len("whole\n")
    write(again, "torn")
    assert texts(again) == ["whole", "torn"]


def test_a_segment_without_its_header_is_none(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    write(store, "a")
    (tmp_path / "logs" / "svc" / f"{START + 5}.log").write_bytes(b"# {")
    again = LogStore(tmp_path / "logs", clock=clock)
    assert again.service("svc").taken(OUT) == 2
    assert texts(again) == ["a"]


@given(st.integers(1, 120), st.integers(80, 400))
@settings(max_examples=25)
def test_what_was_taken_is_known_after_any_restart(
    tmp_path_factory: pytest.TempPathFactory, count: int, segment: int
) -> None:
    root = tmp_path_factory.mktemp("logs")
    quiet = Origin(Stream.STDERR, "quiet", "d1")
    write(LogStore(root, LogLimits(segment=segment)), "once", origin=quiet)
    for n in range(count):
        store = LogStore(root, LogLimits(segment=segment))  # a new control each time
        write(store, f"line {n}")
    again = LogStore(root).service("svc")
    assert again.taken(quiet) == len("once\n")
    assert again.taken(OUT) == sum(len(f"line {n}\n") for n in range(count))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond `size` fail part-way, as on a full disk (EFBIG for ENOSPC)."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_does_not_fit_is_not_there_by_half(tmp_path: Path, clock: Clock) -> None:
    store = LogStore(tmp_path / "logs", clock=clock)
    write(store, "before")
    with file_size_limit(200), pytest.raises(OSError):
        write(store, "x" * 50, "y" * 50, "z" * 50)
    assert texts(store) == ["before"]
    assert store.service("svc").taken(OUT) == len("before\n")
    store.build_log("svc", "d1")(["a build line"])
    with file_size_limit(200):
        store.build_log("svc", "d1")(["x" * 200])  # told, not raised
    write(store, "after")
    assert texts(store) == ["before", "a build line", "after"]


async def test_removed(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs")
    write(store, "a")
    await store.remove("svc")
    assert (await store.read("svc", Query())).items == ()
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_large_log_is_read_from_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """48 MiB here; what a page costs does not depend on what lies before it, so the clock is only for the eye."""
    store = LogStore(tmp_path / "logs", LogLimits(total=1 << 30))
    line = b"x" * 60
    for n in range(200):
        store.service("svc").append(OUT, [Piece(b"%06d %b" % (n * 2000 + k, line), k) for k in range(2000)])
    begin = time.perf_counter()
    page = store.read_now("svc", Query(limit=10_000))
    took = time.perf_counter() - begin
    assert (page.items[0].line[:6], page.items[-1].line[:6], page.truncated) == ("390000", "399999", True)
    begin = time.perf_counter()
    middle = store.read_now("svc", Query(limit=100, until=page.items[0].time - 200_000))
    took_middle = time.perf_counter() - begin
    assert len(middle.items) == 100
    with capsys.disabled():
        print(f"\n10,000 of 400,000 lines: {took * 1000:.0f} ms; 100 from the middle: {took_middle * 1000:.1f} ms")
