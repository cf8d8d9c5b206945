"""Texts of others on their way to a terminal: nothing of them is obeyed, nothing of them is lost."""

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakegate.supervisor import say
from wakegate.terminal import Formatter, visible, visible_json, visible_lines

OBEYED = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0x202A, 0x202F))]
OBEYED += [*map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u2028", "\u2029", "\u061c", "\ud800", "\udfff"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("one\r\ntwo", r"one\r\ntwo"),
        ("a\tb, größer, 漢字, \U0001f600", "a\tb, größer, 漢字, \U0001f600"),
    ],
)
def test_what_is_obeyed_is_shown(text, shown):
    assert visible(text) == shown


def test_the_last_words_of_a_process_are_shown_too():
    """At the end of the interpreter no codec is found by its name any more."""
    script = """
import logging
from wakegate.terminal import log_to_stderr
log_to_stderr("control")
class Last:
    def __del__(self, error=logging.getLogger("last").error): error("one\x1btwo")
last = Last()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "control: last: one\\x1btwo\n"


@given(st.text(st.sampled_from([*OBEYED, "a", "\\", '"', "é"])))
def test_nothing_is_left_to_obey(text):
    assert not set(visible(text)) & set(OBEYED) - {"\t"}
    assert visible_lines(text).count("\n") == text.count("\n")
    told = visible_json(json.dumps(text, ensure_ascii=False))
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # JSON's escapes make pairs one
    assert json.loads(told) == joined
    assert not set(told) & set(OBEYED)


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("n", logging.INFO, "", 1, message, arguments, exc_info)


def test_a_record_is_one_line_and_its_traceback_can_not_look_like_another():
    formatter = Formatter("control: %(name)s: %(message)s")
    assert formatter.format(record("%s", "a\ncontrol: b\x1b[2J")) == r"control: n: a\ncontrol: b\x1b[2J"
    lines = formatter.format(record("broken", error=ValueError("x\ncontrol: n: fine\x1b"))).split("\n")
    assert lines[0] == "control: n: broken"
    assert all(line.startswith("  ") for line in lines[1:])
    assert lines[-1] == r"  control: n: fine\x1b"


def test_what_ends_a_process_is_visible():
    program = (
        "import logging; from wakegate.terminal import log_to_stderr; log_to_stderr('control');"
        "logging.getLogger('n').warning('\\x1b]0;a\\x07'); raise ValueError('\\x1b[31m')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("control: n: \\x1b]0;a\\x07\n")
    assert done.stderr.endswith("ValueError: \\x1b[31m\n")


def test_the_supervisor_says_nothing_that_is_obeyed(capsys):
    say("the end of its log:\n  \x1b[2J")
    assert capsys.readouterr().out == "the end of its log:\n  \\x1b[2J\n"
