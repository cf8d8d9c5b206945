"""Counts add up, and come through their wire form as they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.counts import (
    Counts,
    Header,
    MalformedWindow,
    decode_window,
    encode_window,
    of_row,
    pairs,
    read_header,
    slot_of,
    unpaired,
)

histograms = st.dictionaries(st.integers(-400, 400), st.integers(1, 10**9), max_size=20)
numbers = st.integers(0, 2**53)
starts = st.dictionaries(st.sampled_from(["", "ready", "first_byte"]), histograms)
counts = st.builds(Counts, *[numbers] * 7, histograms, histograms, starts, st.integers(1, 99), numbers)


@given(histograms)
def test_histograms_come_back(histogram: dict[int, int]) -> None:
    assert unpaired(pairs(histogram)) == histogram


@given(st.dictionaries(st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=1), counts, max_size=5), st.booleans())
def test_a_window_comes_back(rows: dict[str, Counts], compressed: bool) -> None:
    header = Header("node/supervisor/1/incarnation", 7, 1_700_000_000, 6, compressed)
    data = encode_window(header, [(service, json.dumps(row.row())) for service, row in rows.items()])
    assert read_header(data) == header
    assert decode_window(data).rows == rows
    for service, row in rows.items():
        assert decode_window(data, only=service).rows == {service: row}
    assert decode_window(data, only="nobody").rows == {}


@given(st.lists(counts, min_size=1, max_size=4))
def test_adding_is_the_same_in_any_order(parts: list[Counts]) -> None:
    forward, backward = Counts(), Counts()
    for part in parts:
        forward.add(part)
    for part in reversed(parts):
        backward.add(of_row(json.loads(json.dumps(part.row()))))
    assert forward == backward


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"{}\n{}",
        b"[]\n{}",
        b'{"w":"a","n":1,"s":7,"d":0,"z":false}\n{}',  # no slot begins there
        b'{"w":"a","n":1.0,"s":10,"d":0,"z":false}\n{}',
        b'{"w":1,"n":1,"s":10,"d":0,"z":false}\n{}',
        b'{"w":"a","n":1,"s":10,"d":0,"z":false}\n[]',
        b'{"w":"a","n":1,"s":10,"d":0,"z":false}\n{"s":[1,2]}',
        b'{"w":"a","n":1,"s":10,"d":0,"z":false}\n{"s":[1,2,3,4,5,6,true,[],[]]}',
        b'{"w":"a","n":1,"s":10,"d":0,"z":false}\n{"s":[1,2,3,4,5,6,7,[1],[]]}',
        b'{"w":"a","n":1,"s":10,"d":0,"z":true}\n{"s":[1,2]}',
        b"\xff\n{}",
    ],
)
def test_what_is_no_window_is_told(data: bytes) -> None:
    with pytest.raises(MalformedWindow):
        decode_window(data)


def test_slots_are_of_ten_seconds() -> None:
    assert [slot_of(at) for at in (0.0, 9.99, 10.0, 1_700_000_009.9)] == [0, 0, 10, 1_700_000_000]
