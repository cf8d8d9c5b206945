"""Chunked coding: any split of the bytes gives the same content; whatever is broken is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http1.chunked import ChunkError, Decoder, chunk, last_chunk


def decode(data: bytes, sizes: list[int]) -> tuple[bytes, Decoder]:
    decoder = Decoder()
    out = b""
    at = 0
    while at < len(data) and not decoder.done:
        size = sizes.pop() if sizes else len(data)
        out += decoder.feed(data[at : at + size])
        at += size
    return out, decoder


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(1, 20)), st.booleans())
def test_split_anywhere(pieces: list[bytes], sizes: list[int], trailer: bool) -> None:
    trailers = [b"X-Sum: 1"] if trailer else []
    data = b"".join(chunk(piece) for piece in pieces) + last_chunk(trailers)
    out, decoder = decode(data, sizes)
    assert out == b"".join(pieces)
    assert decoder.done
    assert decoder.trailers == trailers
    assert decoder.rest == b""


def test_what_follows_is_left_alone() -> None:
    out, decoder = decode(b"1;a=b\r\nx\r\n0;c\r\n\r\nGET /", [])
    assert (out, decoder.done, decoder.rest) == (b"x", True, b"GET /")


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\n",
        b"1\nx\n",
        b"1\rx",
        b"1;a\nb\r\n",
        b"1;\x00\r\n",
        b"1\r\nxy",
        b"1\r\nx\n",
        b"1\r\nx\rY",
        b"1\r\nx0\r\n\r\n",
        b"1000000000000000\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: x\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: a\nb\r\n\r\n",
        b"0\r\nX: " + b"a" * 20000,
        b"1;" + b"a" * 2000,
        (b"1;" + b"a" * 900 + b"\r\nx\r\n") * 30,
    ],
)
def test_refused(data: bytes) -> None:
    for sizes in ([], [1] * len(data)):
        with pytest.raises(ChunkError):
            decode(data, list(sizes))
