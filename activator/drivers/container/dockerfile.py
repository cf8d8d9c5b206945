"""A tenant's Dockerfile, read before the engine does (law 8): what reaches beyond the tenant's own is refused.

The engine builds for all tenants as one user, with one set of images and one set of caches. So these are refused, or
made the namespace's own:

- images by their id, or by the names under which other services' are kept (`references.refusal`), in `FROM`,
  `--from=` and the `from=` of a mount;
- `ADD` of anything but files of the repository: the engine itself fetches it, from the node's own network;
- mounts of caches get an id of the namespace's: by their own they are one cache for all;
- mounts of the context, where the engine has no safe ones (`Flavour.safe_binds`).

Reading is stricter than the engines': what can be understood in two ways is refused with its line. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .references import refusal

LIMIT: Final = 256 * 1024  # bytes of a Dockerfile
_LINES: Final = 5_000
_COPIES: Final = ("COPY", "ADD")
_PLAIN: Final = (
    *("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"),
    *("MAINTAINER", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
_DIRECTIVE: Final = re.compile(r"#\s*([a-z]+)\s*=\s*(\S.*?)\s*", re.IGNORECASE)
_WORD: Final = re.compile(r"\s*([A-Za-z]+)(?:\s+|$)")
_FLAG: Final = re.compile(r"\s*(--\S+)")
_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^${}]*))?\})", re.ASCII)
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.IGNORECASE)
_HEREDOC: Final = re.compile(r"<<-?\s*[\"']?[A-Za-z_]")
_ELSEWHERE: Final = re.compile(r"[a-z][a-z0-9+.-]*://|git@|[^/\s]+\.git(?:#|$)", re.IGNORECASE)
_TWO_WAYS: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]"
)


class BadDockerfile(Exception):
    """It is not built; the text names the line and says what to do."""


@dataclass(frozen=True, slots=True)
class Checked:
    """`text` is what the engine gets. `bases`: references of the images that it starts from or copies from, in order.

    `mounts`: it has some, whose contents engines leave out of what they compare with earlier builds.
    """

    text: str
    bases: tuple[str, ...]
    mounts: bool


@dataclass(frozen=True, slots=True)
class _Instruction:
    """`flags` as they were written, in order; `begin`, `middle` and `end` of them and of the rest in the file."""

    name: str
    flags: tuple[str, ...]
    rest: str
    line: int
    begin: int = 0
    middle: int = 0
    end: int = 0

    def wrong(self, what: str) -> BadDockerfile:
        return BadDockerfile(f"line {self.line} of the Dockerfile: {what}")


@dataclass(frozen=True, slots=True)
class _Change:
    """What stands in the file from `begin` to `end` instead."""

    begin: int
    end: int
    text: str


def checked(text: str, namespace: str, *, binds: bool, ids: Mapping[str, str] = MappingProxyType({})) -> Checked:
    """`binds`: whether the engine's mounts of the context can be trusted. Raises BadDockerfile.

    `ids`: of images by reference. They stand in the text instead, so that what was looked at is what is used.
    """
    if len(text) > LIMIT or text.count("\n") > _LINES:
        raise BadDockerfile(f"the Dockerfile is larger than {LIMIT // 1024} KiB or {_LINES} lines")
    text = text.replace("\r\n", "\n")
    if "\r" in text or _TWO_WAYS.search(text):
        raise BadDockerfile("the Dockerfile has control characters or spaces that are no spaces")
    reader = _Reader(text, namespace, binds, ids)
    pieces, at = [], 0
    for instruction in _instructions(text):
        change = reader.take(instruction)
        if change is not None:
            pieces += [text[at : change.begin], change.text]
            at = change.end
    if not reader.stages:
        raise BadDockerfile("the Dockerfile has no FROM")
    return Checked("".join([*pieces, text[at:]]), tuple(dict.fromkeys(reader.bases)), reader.mounts)


class _Reader:
    """What the instructions so far have named."""

    def __init__(self, text: str, namespace: str, binds: bool, ids: Mapping[str, str]) -> None:
        self.stages: list[str] = []  # by number, "" without a name
        self.bases: list[str] = []
        self.mounts = False
        self._text = text
        self._namespace = namespace
        self._binds = binds
        self._ids = ids
        self._arguments: dict[str, str | None] = {}  # of the file, before its first FROM

    def take(self, instruction: _Instruction) -> _Change | None:
        """None: it stays as it is. Raises BadDockerfile."""
        match instruction.name:
            case "ARG" if not self.stages:
                self._argue(instruction)
            case "FROM":
                return self._begin(instruction)
            case "RUN":
                return self._mount(instruction)
            case "COPY" | "ADD":
                return self._copy(instruction)
            case "ONBUILD":
                self._put_off(instruction)
        return None

    def _argue(self, instruction: _Instruction) -> None:
        for word in instruction.rest.split():
            name, equals, value = word.partition("=")
            if name in self._arguments:
                raise instruction.wrong(f"{name} is given twice")
            self._arguments[name] = self._expanded(value.strip("\"'"), instruction) if equals else None

    def _begin(self, instruction: _Instruction) -> _Change | None:
        words = instruction.rest.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise instruction.wrong("write FROM image, or FROM image AS stage")
        base = self._expanded(words[0], instruction)
        if base.lower() not in self.stages and base.lower() != "scratch":
            base = self._use(base, instruction)
        name = words[2].lower() if len(words) == 3 else ""
        if name and not _NAME.fullmatch(name):
            raise instruction.wrong("a stage is named by letters, digits, '.', '_' and '-'")
        self.stages.append(name)
        if base == words[0]:
            return None
        begin = self._text.find(words[0], instruction.middle, instruction.end)
        if begin < 0:
            raise instruction.wrong("a name must not be broken over lines")
        return _Change(begin, begin + len(words[0]), base)

    def _copy(self, instruction: _Instruction) -> _Change | None:
        flags = []
        for flag in instruction.flags:
            name = flag.removeprefix("--from=")
            flags.append(flag if not flag.startswith("--from") else f"--from={self._from(name, instruction)}")
        if instruction.name == "ADD":
            for source in _sources(instruction):
                if "$" in source or _ELSEWHERE.match(source):
                    raise instruction.wrong("ADD takes files of the repository only; fetch others with RUN and curl")
        changed = flags != list(instruction.flags)
        return _Change(instruction.begin, instruction.middle, " ".join(flags)) if changed else None

    def _put_off(self, instruction: _Instruction) -> None:
        found = _WORD.match(instruction.rest)
        if instruction.flags or found is None:
            raise instruction.wrong("ONBUILD is followed by an instruction")
        flags, rest = _parted(instruction.rest[found.end() :])
        nested = _Instruction(found[1].upper(), flags, rest, instruction.line)
        if nested.name in _COPIES:
            self._copy(nested)
        elif nested.name not in _PLAIN:
            raise instruction.wrong(f"no {nested.name} behind ONBUILD")
        elif any(flag.startswith("--mount") for flag in flags):
            raise instruction.wrong("no --mount behind ONBUILD")

    def _mount(self, instruction: _Instruction) -> _Change | None:
        mounts = [flag for flag in instruction.flags if flag.startswith("--mount")]
        if not mounts:
            return None
        self.mounts = True
        flags = [self._mounted(flag, instruction) if flag in mounts else flag for flag in instruction.flags]
        return _Change(instruction.begin, instruction.middle, " ".join(flags))

    def _mounted(self, flag: str, instruction: _Instruction) -> str:
        """One mount, with an id of the namespace's if it is a cache."""
        told = flag.removeprefix("--mount=")
        if told == flag or any(mark in told for mark in "\"'$\\"):
            raise instruction.wrong("write --mount=type=…,… without quotes and variables")
        options = [part.partition("=")[::2] for part in told.split(",")]
        named = {key.lower(): value for key, value in options}
        kind = named.get("type", "bind").lower()
        if len(named) < len(options):
            raise instruction.wrong("an option of --mount is given twice")
        if "from" in named:
            taken = self._from(named["from"], instruction)
            options = [(key, taken if key.lower() == "from" else value) for key, value in options]
        if kind == "bind" and not self._binds:
            raise instruction.wrong("this node's engine has no safe --mount=type=bind: use COPY")
        if kind not in ("bind", "cache", "tmpfs"):
            raise instruction.wrong("of mounts there are bind, cache and tmpfs")
        if kind == "cache":
            target = next((named[key] for key in ("id", "target", "dst", "destination") if named.get(key)), "")
            options = [(key, value) for key, value in options if key.lower() != "id"]
            options.append(("id", _cache(self._namespace, target)))
        return "--mount=" + ",".join(f"{key}={value}" if value else key for key, value in options)

    def _from(self, name: str, instruction: _Instruction) -> str:
        """A stage by name or number, or an image."""
        known = name.lower() in self.stages or (name.isdecimal() and int(name[:9]) < len(self.stages))
        return name if name and known else self._use(name, instruction)

    def _use(self, name: str, instruction: _Instruction) -> str:
        """An image; its id, once that is known."""
        if reason := refusal(name):
            raise instruction.wrong(f"image '{name}' {reason}")
        self.bases.append(name)
        return self._ids.get(name, name)

    def _expanded(self, text: str, instruction: _Instruction) -> str:
        """With the arguments of the file; they have their defaults, since nothing else is given to a build."""

        def value(found: re.Match[str]) -> str:
            given = self._arguments.get(found[1] or found[2]) or found[3]
            if given is None:
                raise instruction.wrong(f"{found[0]} has no value: give its ARG, before the first FROM, a default")
            return given

        expanded = _VARIABLE.sub(value, text)
        if "$" in expanded:
            raise instruction.wrong("a variable is written $NAME, ${NAME} or ${NAME:-default} here")
        return expanded


def unsafe_trigger(triggers: Sequence[str]) -> str | None:
    """The first `ONBUILD` of an image that would do what a Dockerfile may not."""
    for trigger in triggers:
        found = _WORD.match(trigger)
        flags, _ = _parted(trigger[found.end() :]) if found else ((), "")
        name = found[1].upper() if found else ""
        if name not in ("COPY", *_PLAIN) or any(flag.startswith(("--from", "--mount")) for flag in flags):
            return trigger
    return None


def _cache(namespace: str, target: str) -> str:
    """Of the namespace, and of no other: no character that a tenant chose is in it."""
    return f"wakegate-{hashlib.sha256(json.dumps([namespace, target]).encode()).hexdigest()[:32]}"


def _sources(instruction: _Instruction) -> Sequence[str]:
    """Of COPY and ADD: all words but the last; also as a JSON array."""
    if instruction.rest.startswith("["):
        try:
            words = json.loads(instruction.rest)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise instruction.wrong("its list is not JSON")
        return [word.strip() for word in words[:-1]]
    return [word.strip("\"'") for word in instruction.rest.split()[:-1]]


def _instructions(text: str) -> Iterator[_Instruction]:
    """Comments and empty lines left out, continued lines joined. Raises BadDockerfile."""
    escape = _escape(text)
    joined, begin, first, at = "", 0, 0, 0
    for number, line in enumerate(text.split("\n"), 1):
        bare, start, at = line.strip(), at, at + len(line) + 1
        if not bare or bare.startswith("#"):
            continue  # also between continued lines
        if not joined.strip():
            joined, begin, first = "", start, number
        if bare.endswith(escape * 2):
            raise BadDockerfile(f"line {number} of the Dockerfile: it must not end in {escape * 2}")
        goes_on = bare.endswith(escape)
        joined += line.rstrip()[:-1] if goes_on else line.rstrip()
        if not goes_on:
            yield _instruction(text[: at - 1], begin, joined, first)
            joined = ""
    if joined.strip():
        yield _instruction(text, begin, joined, first)


def _instruction(text: str, begin: int, joined: str, line: int) -> _Instruction:
    """The one that stands from `begin` to the end of `text`."""
    found = _WORD.match(joined)
    if found is None:
        raise BadDockerfile(f"line {line} of the Dockerfile: it begins with no instruction")
    name = found[1].upper()
    flags, rest = _parted(joined[found.end() :])
    if name in ("RUN", *_COPIES) and _HEREDOC.search(rest):
        raise BadDockerfile(f"line {line} of the Dockerfile: no here-documents; put a script into the repository")
    start = middle = text.find(found[1], begin) + len(found[1])
    if middle < begin + len(found[1]):
        raise BadDockerfile(f"line {line} of the Dockerfile: an instruction must not be broken over lines")
    for count, flag in enumerate(flags):
        at = text.find(flag, middle)
        if at < 0:
            raise BadDockerfile(f"line {line} of the Dockerfile: a flag must not be broken over lines")
        start, middle = at if count == 0 else start, at + len(flag)
    return _Instruction(name, flags, rest, line, start, middle, len(text))


def _parted(text: str) -> tuple[tuple[str, ...], str]:
    """The flags at the beginning, and what follows them."""
    flags: list[str] = []
    at = 0
    while found := _FLAG.match(text, at):
        flags.append(found[1])
        at = found.end()
    return tuple(flags), text[at:].strip()


def _escape(text: str) -> str:
    """The parser directives at the top (`# escape=`), which end at the first other line. Raises BadDockerfile."""
    escape = "\\"
    for line in text.split("\n"):
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            break
        if found[1].lower() == "escape":
            escape = found[2]
    if escape not in ("\\", "`"):
        raise BadDockerfile("the Dockerfile's escape is neither \\ nor `")
    return escape
