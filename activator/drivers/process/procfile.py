"""The Procfile: which command serves a repository, which one builds it (SPEC section 5). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BYTES = 64 * 1024
NEEDED = "add a Procfile with `web: …` listening on $PORT"
IRREGULAR = "the Procfile must be a regular file"

_ENTRY = re.compile(r"([A-Za-z0-9_-]+)[ \t]*:[ \t]*(.*)")


class ProcfileError(ValueError):
    """The text is no usable Procfile; says what to change."""


@dataclass(frozen=True, slots=True)
class Procfile:
    """The two commands that Wakegate runs, each one line for `/bin/sh -c`. Other process types are left alone."""

    web: str
    build: str | None = None


def parse(content: bytes) -> Procfile:
    """Read `name: command` lines; blank lines and `#` comments are skipped. Raises `ProcfileError`."""
    commands: dict[str, str] = {}
    for number, line in enumerate(_text(content).split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        entry = _ENTRY.fullmatch(stripped)
        if entry is None:
            raise ProcfileError(f"line {number} of the Procfile is not `name: command`")
        name, command = entry[1], entry[2]
        if name in commands:
            raise ProcfileError(f"the Procfile has two lines `{name}:`")
        commands[name] = command
    return _usable(commands)


def _text(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise ProcfileError(f"the Procfile is larger than {MAX_BYTES // 1024} KiB")
    if b"\0" in content:
        raise ProcfileError("the Procfile has a NUL byte in it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProcfileError("the Procfile is not UTF-8 text") from error


def _usable(commands: dict[str, str]) -> Procfile:
    for name in ("web", "build"):
        if commands.get(name) == "":
            raise ProcfileError(f"`{name}:` in the Procfile has no command")
    if "web" not in commands:
        raise ProcfileError(NEEDED)
    return Procfile(web=commands["web"], build=commands.get("build"))
