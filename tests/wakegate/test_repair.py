"""The repair of an append-only file, by bytes; the real store reads what is left (tests/e2e/test_serve_store.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakegate.errors import ServeError
from wakegate.repair import Verdict, examine, repair


def command(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments)


SELECT, SET = command(b"SELECT", b"0"), command(b"SET", b"a", b"\r\n*1\r\n")
TRANSACTION = command(b"MULTI") + SET + command(b"EXEC")


def test_a_sound_file_is_kept_whole():
    data = SELECT + b"#TS:123\r\n" + SET + TRANSACTION
    assert examine(data) == Verdict(len(data), len(data))
    assert examine(b"") == Verdict(0, 0)


@pytest.mark.parametrize(
    "damage", [b"garbage", b"*2\r\n$3\r\nSET\r\n", b"*1\r\n$x\r\n", b"*0\r\n", b"\0" * 4096, b"#TS"]
)
def test_everything_before_the_damage_is_kept(damage):
    assert examine(SELECT + SET + damage + SET).sound == len(SELECT + SET)


def test_half_a_transaction_is_not_kept():
    assert examine(SELECT + TRANSACTION + command(b"MULTI") + SET).sound == len(SELECT + TRANSACTION)


@given(st.integers(0, len(SELECT + SET + TRANSACTION)))
def test_a_cut_anywhere_leaves_whole_commands(cut):
    ends = [0, len(SELECT), len(SELECT + SET), len(SELECT + SET + TRANSACTION)]
    assert examine((SELECT + SET + TRANSACTION)[:cut]).sound == max(end for end in ends if end <= cut)


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data):
    assert 0 <= examine(data).sound <= len(data)


def test_a_directory_without_a_store_is_said(tmp_path):
    with pytest.raises(ServeError, match="holds no embedded store"):
        repair(tmp_path)
