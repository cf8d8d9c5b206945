"""Taking over an engine's log: nothing lost or doubled wherever it was cut, at times told to the second or finer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activator.drivers.container.follow import Checkpoint, Taking, pieces


def frame(stream: int, moment: str, text: bytes) -> bytes:
    body = moment.encode() + b" " + text
    return bytes((stream, 0, 0, 0)) + len(body).to_bytes(4) + body


def second(number: int, fraction: str = "") -> str:
    return f"2026-11-24T02:{number // 60:02}:{number % 60:02}{fraction}Z"


def files(directory: Path) -> None:
    for name in ("stdout", "stderr"):
        (directory / name).touch()


def taken(directory: Path) -> tuple[bytes, bytes]:
    return (directory / "stdout").read_bytes(), (directory / "stderr").read_bytes()


def since(log: list[tuple[int, int, bytes]], checkpoint: Checkpoint, base: int) -> bytes:
    """What an engine answers: all of its log from the second that it is asked for."""
    return b"".join(frame(stream, second(at), text) for stream, at, text in log if base + at >= checkpoint.since)


BASE = 1_795_485_600  # 02:00:00 of that day


def test_pieces_are_whole_or_wait() -> None:
    data = frame(1, second(0), b"one\n") + frame(2, second(1), b"two\n")
    for cut in range(len(data)):
        first, rest = pieces(data[:cut])
        second_part, left = pieces(rest + data[cut:])
        assert [number for number, _ in first + second_part] == [1, 2]
        assert left == b""
    with pytest.raises(OSError, match="no log"):
        pieces(b"HTTP/1.1 200")


def test_streams_and_lines_come_apart_and_partial_ones_together(tmp_path: Path) -> None:
    files(tmp_path)
    taking = Taking.open(tmp_path, Checkpoint())
    taking.take(frame(1, second(0, ".123456789"), b"out ") + frame(2, second(0, ".2"), b"err\n"))
    taking.take(frame(1, second(0, ".3"), b"put\n") + frame(1, second(1), b"\xff bytes\n"))
    taking.close()
    assert taken(tmp_path) == (b"out put\n\xff bytes\n", b"err\n")


def test_what_came_before_a_cut_is_not_taken_again(tmp_path: Path) -> None:
    files(tmp_path)
    log = [(1, at // 3, f"line {at}\n".encode()) for at in range(30)]
    answer = since(log, Checkpoint(), BASE)
    first = Taking.open(tmp_path, Checkpoint())
    first.take(answer[: len(answer) // 2])
    kept = first.checkpoint()
    first.take(answer[len(answer) // 2 :][:100])  # on disk, but after the checkpoint that was recorded
    first.close()
    again = Taking.open(tmp_path, kept)
    again.take(since(log, kept, BASE))
    again.close()
    assert taken(tmp_path)[0] == b"".join(text for _, _, text in log)


def test_a_log_that_the_engine_began_anew_is_gone_on_with(tmp_path: Path) -> None:
    files(tmp_path)
    first = Taking.open(tmp_path, Checkpoint())
    first.take(since([(1, 0, b"old\n"), (1, 1, b"older\n")], Checkpoint(), BASE))
    kept = first.checkpoint()
    first.close()
    again = Taking.open(tmp_path, kept)
    again.take(since([(1, 50, b"new\n")], kept, BASE))
    assert again.checkpoint().sizes[1] == len(b"old\nolder\nnew\n")
    again.close()
    assert taken(tmp_path)[0] == b"old\nolder\nnew\n"


def test_checkpoints_survive_the_disk() -> None:
    checkpoint = Checkpoint(5, 2, 7, {1: 10, 2: 20})
    assert Checkpoint.decode(checkpoint.encode()) == checkpoint
    for damaged in (None, b"", b"{", b"[1,2]", b"3"):
        assert Checkpoint.decode(damaged) == Checkpoint()


lines = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.integers(0, 3), st.binary(max_size=5)),
    max_size=25,
)


@settings(max_examples=200)
@given(lines, st.lists(st.integers(0, 400), max_size=4), st.booleans())
def test_killed_anywhere_nothing_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, bytes]],
    cuts: list[int],
    recorded: bool,
) -> None:
    """Each life takes some bytes of the answer and dies, with its last checkpoint on disk or one before."""
    directory = tmp_path_factory.mktemp("follow")
    files(directory)
    moments = itertools.accumulate(step for _, step, _ in steps)
    log = [(stream, at, text + b"\n") for (stream, _, text), at in zip(steps, moments, strict=True)]
    checkpoint = Checkpoint()
    for cut in cuts:
        taking = Taking.open(directory, checkpoint)
        answer = since(log, checkpoint, BASE)[:cut]
        taking.take(answer[: cut // 2])
        middle = taking.checkpoint()
        taking.take(answer[cut // 2 :])
        checkpoint = taking.checkpoint() if recorded else middle
        taking.close()
    last = Taking.open(directory, checkpoint)
    last.take(since(log, checkpoint, BASE))
    last.close()
    assert taken(directory) == tuple(b"".join(text for number, _, text in log if number == each) for each in (1, 2))
