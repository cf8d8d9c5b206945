"""What of a tenant's Dockerfile reaches the engine, and what is refused before."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.drivers.container.dockerfile import BadDockerfile, checked, unsafe_trigger

PLAIN = """\
# syntax=docker/dockerfile:1
ARG VERSION=3.12
FROM --platform=linux/amd64 docker.io/library/python:$VERSION AS build
RUN apt-get update && \\
    # a comment between

    apt-get install -y git
ADD ./files /files
ADD ["a b", "/files/"]
FROM scratch
COPY --from=build --chown=1:1 /files /files
COPY --from=0 /etc/os-release /
CMD ["/bin/sh", "-c", "cat <<EOF"]
"""


def sent(text: str, **settings: object) -> str:
    return checked(text, "acme", **{"binds": True, **settings}).text  # type: ignore[arg-type]


def refusal(text: str, **settings: object) -> str:
    with pytest.raises(BadDockerfile) as caught:
        sent(text, **settings)
    return str(caught.value)


def test_a_usual_one_reaches_the_engine_as_it_is_but_for_its_variables() -> None:
    found = checked(PLAIN, "acme", binds=False)
    assert found.bases == ("docker.io/library/python:3.12",)
    assert not found.mounts
    assert found.text == PLAIN.replace("python:$VERSION", "python:3.12")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("d7", "could be the id of one: write docker.io/library/d7"),
        ("d7f", "could be the id"),
        ("f" * 64, "could be the id"),
        ("sha256:" + "f" * 64, "could be an id"),
        ("localhost/wakegate-b50355/vic/svc:abc", "belongs to a service"),
        ("LOCALHOST/wakegate-b50355/vic/svc:abc", "belongs to a service"),
        ("wakegate-b50355/vic/svc:abc", "belongs to a service"),
        ("oci:etc", "a place on the node"),
        ("dir:etc", "a place on the node"),
        ("docker-archive:/etc/x.tar", "is no reference"),
        ("docker://d7", "is no reference"),
        ("$NOTHING", "$NOTHING has no value"),
        ("${ARG%x}", "a variable is written"),
        ("a" * 600, "is no reference"),
    ],
)
@pytest.mark.parametrize(
    "line",
    ["FROM {}\n", "FROM scratch\nCOPY --from={} / /x\n", "FROM scratch\nRUN --mount=type=cache,from={},target=/x x\n"],
)
def test_images_of_others_are_refused(line: str, name: str, why: str) -> None:
    said = refusal(line.format(name))
    assert said.startswith(f"line {line.count(chr(10))} of the Dockerfile: ")
    assert "FROM scratch" in line or why in said


def test_an_id_behind_an_argument_is_an_id() -> None:
    assert "could be the id" in refusal("ARG A=d\nARG B=${A}7\nFROM ${B}\n")
    assert "could be the id" in refusal("FROM ${B:-d7}\n")
    assert "given twice" in refusal("ARG A=alpine\nARG A=d7\nFROM $A\n")
    assert "could be the id" in refusal('ARG A="d7"\nFROM $A\n')


def test_what_is_broken_over_lines_is_read_as_engines_do() -> None:
    assert "could be the id" in refusal("FROM \\\nd7\n")
    assert "must not be broken over lines" in refusal("FR\\\nOM d7\n")
    assert "could be the id" in refusal("# escape=`\nFROM `\nd7\n")
    assert "a flag must not be broken" in refusal("FROM scratch\nCOPY --fr\\\nom=d7 / /x\n")
    assert "must not end in" in refusal("FROM scratch\nRUN x \\\\\nFROM d7\n")
    assert "control characters" in refusal("FROM scratch\n# a\rFROM d7\n")
    assert "control characters" in refusal("FROM scratch\nRUN a\u2028FROM d7\n")
    assert "could be the id" in refusal("FROM scratch\nRUN a \\\n# comment\n\n b\nFROM d7\n")


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1/metrics", "HTTPS://x/y", "git@x:y", "$URL", "x.git", "git://x/y", '"http://x"']
)
def test_the_engine_fetches_nothing(source: str) -> None:
    assert "ADD takes files of the repository only" in refusal(f"FROM scratch\nADD --chown=1 {source} /x\n")
    assert "ADD takes files of the repository only" in refusal(f"FROM scratch\nONBUILD ADD a {source} /x\n")
    quoted = source.strip('"')
    assert "ADD takes files of the repository only" in refusal(f'FROM scratch\nadd ["a", "{quoted}", "/x"]\n')


def test_caches_are_the_namespace_s_own() -> None:
    text = "FROM scratch\nRUN --network=default --mount=type=cache,target=/c,sharing=locked pip install x\n"
    own, other = (checked(text, name, binds=False) for name in ("acme", "evil"))
    assert own.mounts
    ids = [re.findall(r"id=(wakegate-[0-9a-f]{32})", found.text) for found in (own, other)]
    assert len(ids[0]) == len(ids[1]) == 1
    assert ids[0] != ids[1]
    assert own.text == text.replace("sharing=locked", f"sharing=locked,id={ids[0][0]}")
    named = "FROM scratch\nRUN --mount=type=cache,id=../../etc,target=/c \\\n  --mount=type=tmpfs,target=/t x\n"
    assert re.search(r"--mount=type=cache,target=/c,id=wakegate-\w+ --mount=type=tmpfs,target=/t x\n", sent(named))


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("--mount=type=bind,target=/src", "no safe --mount=type=bind"),
        ("--mount=target=/src", "no safe --mount=type=bind"),
        ("--mount=type=secret,id=x", "of mounts there are"),
        ("--mount=type=ssh", "of mounts there are"),
        ("--mount=type=$T,target=/src", "without quotes and variables"),
        ('--mount=type=cache,"target=/x"', "without quotes and variables"),
        ("--mount type=cache", "write --mount=type="),
        ("--mount=type=cache,id=a,id=b", "given twice"),
        ("--mount=type=cache,from=d7,target=/x", "could be the id"),
    ],
)
def test_other_mounts_are_refused(mount: str, why: str) -> None:
    assert why in refusal(f"FROM scratch\nRUN {mount} x\n", binds=False)
    assert "no --mount behind ONBUILD" in refusal("FROM scratch\nONBUILD RUN --mount=type=cache,target=/x x\n")


def test_what_was_looked_at_is_what_is_used() -> None:
    text = "FROM a:1 AS one\nFROM one\nCOPY --from=b:2 / /\nRUN --mount=type=bind,from=b:2,target=/x x\n"
    known = {"a:1": "1" * 64, "b:2": "2" * 64}
    found = checked(text, "acme", binds=True, ids=known)
    assert found.bases == ("a:1", "b:2")
    assert found.text == text.replace("a:1", "1" * 64).replace("b:2", "2" * 64)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no FROM"),
        ("RUN x\n", "has no FROM"),
        ("FROM a b\n", "write FROM image"),
        ("FROM scratch\n!x\n", "begins with no instruction"),
        ("FROM scratch\nONBUILD\n", "ONBUILD is followed by"),
        ("FROM scratch\nONBUILD ONBUILD ADD http://x /\n", "no ONBUILD behind ONBUILD"),
        ("FROM scratch\nRUN <<EOF\nFROM d7\nEOF\n", "no here-documents"),
        ("# escape=x\nFROM scratch\n", "escape is neither"),
        ("FROM scratch\nADD [1] /x\n", "its list is not JSON"),
        ("FROM scratch\n" + "RUN x\n" * 6000, "is larger than"),
    ],
)
def test_what_can_t_be_read_says_why(text: str, why: str) -> None:
    assert why in refusal(text)


def test_triggers_of_images_are_held_to_the_same() -> None:
    assert unsafe_trigger(["COPY . /app", "RUN pip install -r /app/requirements.txt"]) is None
    for trigger in (
        "ADD http://x /",
        "add . /",
        "COPY --from=d7 / /",
        "RUN --mount=type=cache,target=/x x",
        "!",
        "ONBUILD x",
    ):
        assert unsafe_trigger(["ARG x", trigger]) == trigger


@given(st.text(alphabet="FROM ADCPYRUN\n\\`#-=d7/:$\"'[]{}<\t", max_size=200), st.booleans())
def test_whatever_it_is_it_is_checked_or_refused(text: str, binds: bool) -> None:
    try:
        found = checked(text, "acme", binds=binds)
    except BadDockerfile:
        return
    again = checked(found.text, "acme", binds=binds)
    assert again.bases == found.bases
    assert again.text == found.text
