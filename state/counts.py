"""What a service did in a span of time, as numbers that add up; and how workers send such numbers.

A `Counts` merges with another by addition, whatever worker, node or time they come from; nothing in it is an average.
A `Window` is what one worker counted for its services in one slot of 10 s of its own wall clock. It is numbered per
worker incarnation, from 1, and what is in it is final once the worker has delivered it.

Wire form of a window: one line of JSON about it, then the services as JSON, compressed (`z` true) or not. A row is
`[requests, errors, bytes in, bytes out, in flight ms, held ms, cold starts, [duration], [hold], {phase: [seconds]},
[GPU looks, GPU hundredths]]`, histograms as bucket, count, distance to the next bucket, its count, …; the last two are
left out where they and what follows them are empty.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from state.buckets import Histogram, add

SLOT: Final = 10  # seconds
_COMPRESSION: Final = 1  # zlib's level: once per window, on a worker's loop


class MalformedWindow(ValueError):
    """The bytes are no window."""


@dataclass(slots=True)
class Counts:
    """All additive. `in_flight_ms` and `held_ms` are integrals over time: requests times milliseconds.

    `gpu_hundredths`: how busy the GPUs of its replicas were at `gpu_looks` looks, in hundredths of a percent, added up.
    """

    requests: int = 0
    errors: int = 0  # of them, those with a status of 500 or more
    bytes_in: int = 0
    bytes_out: int = 0
    in_flight_ms: int = 0
    held_ms: int = 0
    cold_starts: int = 0
    duration: Histogram = field(default_factory=dict)
    hold: Histogram = field(default_factory=dict)
    starts: dict[str, Histogram] = field(default_factory=dict)  # of the cold starts, by phase; "": until ready
    gpu_looks: int = 0
    gpu_hundredths: int = 0

    def add(self, more: Counts) -> None:
        self.requests += more.requests
        self.errors += more.errors
        self.bytes_in += more.bytes_in
        self.bytes_out += more.bytes_out
        self.in_flight_ms += more.in_flight_ms
        self.held_ms += more.held_ms
        self.cold_starts += more.cold_starts
        add(self.duration, more.duration)
        add(self.hold, more.hold)
        for phase, histogram in more.starts.items():
            add(self.starts.setdefault(phase, {}), histogram)
        self.gpu_looks += more.gpu_looks
        self.gpu_hundredths += more.gpu_hundredths

    def row(self) -> list[Any]:
        """Plain JSON."""
        starts = {phase: pairs(histogram) for phase, histogram in self.starts.items()}
        gpu = [self.gpu_looks, self.gpu_hundredths] if self.gpu_looks else []
        return [
            self.requests,
            self.errors,
            self.bytes_in,
            self.bytes_out,
            self.in_flight_ms,
            self.held_ms,
            self.cold_starts,
            pairs(self.duration),
            pairs(self.hold),
            *((starts, gpu) if gpu else (starts,) if starts else ()),
        ]


def of_row(row: Sequence[Any]) -> Counts:
    """The inverse of `Counts.row`. Raises ValueError, TypeError, AttributeError."""
    requests, errors, bytes_in, bytes_out, in_flight_ms, held_ms, cold_starts, duration, hold, *more = row
    starts, gpu = [*more, {}, ()][: max(2, len(more))]
    looks, hundredths = gpu or (0, 0)
    scalars = (requests, errors, bytes_in, bytes_out, in_flight_ms, held_ms, cold_starts)
    if not all(type(number) is int for number in (*scalars, looks, hundredths)):
        raise TypeError("a row of anything but whole numbers")
    by_phase = {phase: unpaired(flat) for phase, flat in starts.items()}
    return Counts(*scalars, unpaired(duration), unpaired(hold), by_phase, looks, hundredths)


def pairs(histogram: Mapping[int, int]) -> list[int]:
    """A histogram as a flat list: first bucket, its count, distance to the next, its count, …"""
    flat: list[int] = []
    last = 0
    for index in sorted(histogram):
        flat += (index - last, histogram[index])
        last = index
    return flat


def unpaired(flat: Sequence[int]) -> Histogram:
    """The inverse of `pairs`. Raises TypeError, ValueError."""
    return dict(zip(accumulate(flat[::2]), flat[1::2], strict=True))


def slot_of(seconds: float) -> int:
    """The start of the slot that a time (Unix, seconds) is in."""
    return int(seconds // SLOT) * SLOT


@dataclass(frozen=True, slots=True)
class Header:
    """Of a window. `slot` is its start in Unix seconds; `delivered`: this worker's windows up to that are stored."""

    worker: str
    number: int
    slot: int
    delivered: int = 0
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """`rows` by service id."""

    header: Header
    rows: Mapping[str, Counts]


def encode_window(header: Header, rows: Iterable[tuple[str, str]]) -> bytes:
    """`rows`: service id and `Counts.row` as JSON text; ids need no escaping."""
    head = {"w": header.worker, "n": header.number, "s": header.slot, "d": header.delivered, "z": header.compressed}
    body = ("{" + ",".join([f'"{service}":{text}' for service, text in rows]) + "}").encode()
    line = json.dumps(head, separators=(",", ":")).encode()
    return line + b"\n" + (zlib.compress(body, _COMPRESSION) if header.compressed else body)


def read_header(data: bytes) -> Header:
    """Without a look at the services. Raises MalformedWindow."""
    try:
        head = json.loads(data[: data.index(b"\n")])
        slot = _whole(head["s"])
        if not isinstance(head["w"], str) or slot % SLOT or slot < 0:
            raise ValueError("no worker, or no slot")
        return Header(head["w"], _whole(head["n"]), slot, _whole(head["d"]), head["z"] is True)
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedWindow(f"a worker's window can't be read: {error!r}") from error


def decode_window(data: bytes, only: str | None = None) -> Window:
    """`only`: of this service alone. Raises MalformedWindow."""
    header = read_header(data)
    try:
        body = data[data.index(b"\n") + 1 :]
        services = json.loads(zlib.decompress(body) if header.compressed else body)
        chosen = services if only is None else {only: services[only]} if only in services else {}
        return Window(header, {service: of_row(row) for service, row in chosen.items()})
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise MalformedWindow(f"a worker's window can't be read: {error!r}") from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, found {value!r}")
    return value
