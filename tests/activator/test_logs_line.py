"""Cutting raw bytes into lines, and their form on disk."""

from hypothesis import given
from hypothesis import strategies as st

from activator.logs.line import MAX_TEXT, Piece, Stream, decode, encoder, entry_pattern, pieces


def test_an_entry() -> None:
    entry = encoder(Stream.STDERR, "r1", "d1")(1_700_000_000_123_456, Piece(b"a b  c", 9))
    assert entry == b"1700000000123456 e r1 d1 9 a b  c\n"
    [fields] = entry_pattern().findall(entry)
    line = decode(fields)
    assert (line.time, line.stream, line.replica, line.deployment, line.line, line.partial) == (
        1_700_000_000_123_456,
        "stderr",
        "r1",
        "d1",
        "a b  c",
        False,
    )


def test_lines_and_what_is_kept_back() -> None:
    assert list(pieces(b"one\r\n\ntwo", 100)) == [Piece(b"one", 105), Piece(b"", 106)]
    assert list(pieces(b"one\n\ntwo", 100, final=True))[-1] == Piece(b"two", 108)


def test_a_long_line_is_cut_between_characters() -> None:
    text = ("x" * (MAX_TEXT - 1) + "é" + "y" * 10).encode()
    first, second = pieces(text + b"\n", 0)
    assert (first.text, first.partial, first.end) == (b"x" * (MAX_TEXT - 1), True, MAX_TEXT - 1)
    assert (second.text.decode(), second.partial) == ("é" + "y" * 10, False)
    assert [piece.end for piece in pieces(text, 0)] == [MAX_TEXT - 1]


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"") + b"\n"), max_size=20), st.integers(0, 900))
def test_no_byte_is_lost_wherever_it_is_cut(lines: list[bytes], cut: int) -> None:
    data = b"".join(lines)
    first = list(pieces(data[:cut], 0))
    end = first[-1].end if first else 0
    both = [*first, *pieces(data[end:], end, final=True)]
    assert [piece.text for piece in both] == [line[:-1].removesuffix(b"\r") for line in lines]
    assert not both or both[-1].end == len(data)


@given(st.binary(max_size=200).filter(lambda b: b"\n" not in b), st.sampled_from(Stream), st.booleans())
def test_any_bytes_come_back_as_text(text: bytes, stream: Stream, partial: bool) -> None:
    entry = encoder(stream, None, "d")(1_700_000_000_000_000, Piece(text, 5, partial))
    [fields] = entry_pattern().findall(entry)
    line = decode(fields)
    assert line.line == text.decode("utf-8", "replace")
    assert (line.stream, line.replica, line.partial) == (stream, None, partial)
