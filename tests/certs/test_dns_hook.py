"""The program that sets TXT records: what it is given, and what becomes of one that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certs.dns_hook import DnsHook, HookFailed

NAME, VALUE = "_acme-challenge.apps.test", "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"


def hook(place: Path, text: str, timeout: float = 30.0) -> DnsHook:
    program = place / "hook"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return DnsHook(program, timeout)


async def test_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAKEGATE_SECRET_KEY", "secret")
    called = hook(tmp_path, f'echo "$@" >>{tmp_path}/calls; env >{tmp_path}/environment')
    await called.add(NAME, VALUE)
    await called.remove(NAME, VALUE)
    assert (tmp_path / "calls").read_text().splitlines() == [f"add {NAME} {VALUE}", f"remove {NAME} {VALUE}"]
    given = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert given.keys() - {"PWD", "_", "SHLVL", "OLDPWD"} == {
        *("PATH", "LANG", "WAKEGATE_ACME_ACTION", "WAKEGATE_ACME_NAME", "WAKEGATE_ACME_VALUE")
    }
    assert given["WAKEGATE_ACME_NAME"] == NAME


async def test_its_output_is_told_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match=r"(?s)status 3: .*no such zone$") as caught:
        await hook(tmp_path, "yes | head -c 100000; echo; echo no such zone >&2; exit 3").add(NAME, VALUE)
    assert len(str(caught.value)) < 3000


async def test_one_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(HookFailed, match="not done within"):
        await hook(tmp_path, f"sleep 1000 & echo $! >{child}; wait", timeout=1.0).add(NAME, VALUE)
    number = int(child.read_text())
    state = Path(f"/proc/{number}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("text", [None, "not a program"])
async def test_what_can_not_be_run(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "hook"
    if text is not None:
        file.write_text(text)
        os.chmod(file, 0o644)
    with pytest.raises(HookFailed, match="hook add"):
        await DnsHook(file).add(NAME, VALUE)
