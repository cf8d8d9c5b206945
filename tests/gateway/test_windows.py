"""A worker's counters in windows: whatever happens between the looks, every count is in exactly one window."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.histogram import count
from gateway.windows import SERVICES, WAITING, Windows
from state.counts import Counts, decode_window

WORKER = "node/supervisor/1/a"


@dataclass
class Book:
    id: str
    requests: dict[int, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    duration: dict[int, int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)
    in_flight: int = 0
    room: list[object] = field(default_factory=list)

    def end(self, status: int = 200, seconds: float = 0.01, hold: float | None = None) -> None:
        """A request is over."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self.bytes_in += 100
        self.bytes_out += 1000
        count(self.duration, seconds)
        if hold is not None:
            count(self.hold, hold)


def delivered(windows: Windows, limit: int = 10**9) -> list[tuple[int, int, dict[str, Counts]]]:
    """Number, slot and rows of what waits, which is delivered so."""
    found: list[tuple[int, int, dict[str, Counts]]] = []
    while len(found) < limit and (oldest := windows.oldest()) is not None:
        number, data = oldest
        window = decode_window(data)
        assert window.header.number == number
        found.append((number, window.header.slot, dict(window.rows)))
        windows.delivered(number)
    return found


async def test_what_happened_between_two_looks_is_of_the_slot_that_was_open() -> None:
    windows, book = Windows(WORKER), Book("s")
    await windows.sample([book], 1000.0, 0.0)
    book.end(200)
    book.end(503, hold=0.5)
    await windows.sample([book], 1009.0, 9.0)
    assert windows.oldest() is None
    [open_window] = windows.open()
    assert decode_window(open_window).rows["s"].requests == 2
    book.end(502)
    await windows.sample([book], 1010.0, 10.0)
    book.end(200)
    await windows.sample([book], 1011.0, 11.0)
    [(number, slot, rows)] = delivered(windows)
    assert (number, slot) == (1, 1000)
    counts = rows["s"]
    assert (counts.requests, counts.errors, counts.bytes_in, counts.bytes_out) == (3, 2, 300, 3000)
    assert (sum(counts.duration.values()), sum(counts.hold.values())) == (3, 1)
    [open_window] = windows.open()
    header = decode_window(open_window).header
    assert (header.number, header.slot, header.delivered) == (2, 1010, 1)


async def test_what_is_in_flight_and_held_is_an_integral_over_time() -> None:
    windows, book = Windows(WORKER), Book("s", in_flight=3, room=[object(), object()])
    for second in range(6):
        await windows.sample([book], 1000.0 + second, float(second))
    await windows.close([book], 1006.0, 6.0)
    [(_, _, rows)] = delivered(windows)
    assert (rows["s"].in_flight_ms, rows["s"].held_ms, rows["s"].requests) == (18_000, 12_000, 0)


async def test_services_without_traffic_and_requests_without_a_service_are_left_out() -> None:
    windows, nobody, quiet = Windows(WORKER), Book(""), Book("quiet")
    nobody.end(404)
    await windows.close([nobody, quiet], 1000.0, 0.0)
    assert windows.oldest() is None
    assert windows.open() == []


async def test_a_service_that_left_and_came_back_begins_anew() -> None:
    windows, book = Windows(WORKER), Book("s")
    book.end()
    await windows.sample([book], 1000.0, 0.0)
    await windows.sample([], 1001.0, 1.0)
    again = Book("s")
    again.end()
    again.end()
    await windows.close([again], 1002.0, 2.0)
    assert delivered(windows)[0][2]["s"].requests == 3


async def test_a_clock_that_is_set_back_makes_another_window() -> None:
    windows, book = Windows(WORKER), Book("s")
    for at in (1000.0, 1011.0, 900.0, 1021.0):
        book.end()
        await windows.sample([book], at, 0.0)
    await windows.close([book], 1021.0, 0.0)
    assert [(slot, rows["s"].requests) for _, slot, rows in delivered(windows)] == [(1000, 2), (1010, 1), (900, 1)]


async def test_many_services_are_told_in_several_windows_of_one_slot() -> None:
    windows, books = Windows(WORKER), [Book(f"s{number}") for number in range(2 * SERVICES + 1)]
    for book in books:
        book.end()
    await windows.sample(books, 1000.0, 0.0)
    parts = [decode_window(data) for data in windows.open()]
    assert [(part.header.number, len(part.rows)) for part in parts] == [(1, SERVICES), (2, SERVICES), (3, 1)]
    await windows.close(books, 1001.0, 1.0)
    closed = delivered(windows)
    assert [(number, slot, len(rows)) for number, slot, rows in closed] == [
        (1, 1000, SERVICES),
        (2, 1000, SERVICES),
        (3, 1000, 1),
    ]
    assert [set(rows) for _, _, rows in closed] == [set(part.rows) for part in parts]


async def test_what_waits_too_long_gets_coarser_and_nothing_is_lost() -> None:
    """With the store gone for six hours: bounded, and every count is there."""
    windows, book = Windows(WORKER), Book("s")
    looks = 6 * 360
    for look in range(looks):
        book.end(seconds=0.001 * (1 + look % 50))
        await windows.sample([book], 1_700_000_000.0 + 10 * look, 10.0 * look)
    await windows.close([book], 1_700_000_000.0 + 10 * looks, 10.0 * looks)
    found = delivered(windows)
    assert len(found) <= WAITING
    assert sum(rows["s"].requests for _, _, rows in found) == looks
    assert [number for number, _, _ in found] == sorted({number for number, _, _ in found})
    assert [slot for _, slot, _ in found] == sorted({slot for _, slot, _ in found})
    assert windows.merged > 0


async def test_what_was_tried_is_never_changed() -> None:
    windows, book = Windows(WORKER), Book("s")
    for look in range(3 * WAITING):
        book.end()
        await windows.sample([book], 1000.0 + 10 * look, 0.0)
        if look == 2:
            tried = windows.oldest()
    assert windows.oldest() == tried


async def test_services_that_wait_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.windows.ROWS", 500)
    windows, books = Windows(WORKER), [Book(f"s{number}") for number in range(100)]
    for look in range(7):
        for book in books:
            book.end()
        await windows.sample(books, 1000.0 + 10 * look, 0.0)
    found = delivered(windows)
    assert sum(len(rows) for _, _, rows in found) <= 500
    assert sum(counts.requests for _, _, rows in found for counts in rows.values()) == 7 * len(books)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(0, 2), st.sampled_from([200, 404, 500])),
        st.tuples(st.just("look"), st.integers(0, 25), st.just(0)),
        st.tuples(st.just("deliver"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("try"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_any_interleaving_tells_every_request_once(history: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        windows, books = Windows(WORKER), [Book(f"s{number}") for number in range(3)]
        now, told = 1000.0, list[tuple[int, int, dict[str, Counts]]]()
        for what, number, status in history:
            if what == "end":
                books[number].end(status)
            elif what == "look":
                now += number
                await windows.sample(books, now, now)
            elif what == "deliver":
                told += delivered(windows, number)
            else:
                windows.oldest()
        await windows.close(books, now, now)
        told += delivered(windows)
        assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
        for book in books:
            total = Counts()
            for _, _, rows in told:
                total.add(rows.get(book.id, Counts()))
            assert total.requests == sum(book.requests.values())
            assert total.errors == book.requests.get(500, 0)
            assert (total.bytes_in, total.duration) == (book.bytes_in, book.duration)

    asyncio.run(run())
