"""The Procfile's parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.drivers.process.procfile import MAX_BYTES, NEEDED, Procfile, ProcfileError, parse


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"web: python3 app.py", Procfile("python3 app.py")),
        (b"web:app\n", Procfile("app")),
        (b"\xef\xbb\xbf# hello\r\n\r\nweb : a: b # c\r\nbuild:\tmake\r\nworker: x\r\n", Procfile("a: b # c", "make")),
        ("web: ./röst --port $PORT\n".encode(), Procfile("./röst --port $PORT")),
    ],
)
def test_said(content: bytes, expected: Procfile) -> None:
    assert parse(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NEEDED),
        (b"build: make\n", NEEDED),
        (b"web:\n", "`web:` in the Procfile has no command"),
        (b"web: a\nbuild:  \n", "`build:` in the Procfile has no command"),
        (b"web: a\nweb: b\n", "the Procfile has two lines `web:`"),
        (b"web: a\nnonsense\n", "line 2 of the Procfile is not `name: command`"),
        (b"web: \xff\n", "the Procfile is not UTF-8 text"),
        (b"web: a\0b\n", "the Procfile has a NUL byte in it"),
        (b"#" * (MAX_BYTES + 1), "the Procfile is larger than 64 KiB"),
    ],
)
def test_mistakes(content: bytes, message: str) -> None:
    with pytest.raises(ProcfileError) as caught:
        parse(content)
    assert str(caught.value) == message


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_say_why(content: bytes) -> None:
    try:
        said = parse(content).web
    except ProcfileError as why:
        said = str(why)
    assert said.strip()


@given(st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), min_size=1).map(str.strip).filter(bool))
def test_a_command_is_kept_as_it_is(command: str) -> None:
    assert parse(f"web: {command}\nbuild: {command}\n".encode()) == Procfile(command, command)
