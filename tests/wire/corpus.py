"""The corpora beside this file, read: README.md says what their keys mean.

Bytes are written as TOML strings, one character per byte (Latin-1), CR and LF as escapes. `{X: y\\r\\n*99}` is its
first part 99 times.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_REPEATED = re.compile(rb"\{([^{}]+)\*([0-9]+)\}")

HOST = "app.test"  # the one service behind the edge
PLAIN = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"


def unescaped(text: str) -> bytes:
    """The bytes that a string of a corpus stands for."""
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text.encode("latin-1"))


def _pieces(value: str | list[str]) -> tuple[bytes, ...]:
    return tuple(unescaped(text) for text in ([value] if isinstance(value, str) else value))


@dataclass(frozen=True, slots=True)
class RequestCase:
    """What a client sends, what a replica and the client must get, and what becomes of a request `behind` it."""

    name: str
    send: tuple[bytes, ...]
    origin: tuple[bytes, ...]
    client: tuple[int, ...]
    behind: str
    why: str
    source: str
    settings: dict[str, Any]
    has: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ResponseCase:
    """What a replica answers, and what the client must get."""

    name: str
    request: bytes
    origin: tuple[bytes, ...]
    then: str
    client: bytes
    ends: str
    reuse: bool
    times: int
    ways: tuple[str, ...]
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class ExchangeCase:
    """A conversation, step by step: who does what, in which order."""

    name: str
    steps: tuple[tuple[str, bytes], ...]
    why: str
    settings: dict[str, Any] = field(default_factory=dict)


def _cases(file: str) -> list[dict[str, Any]]:
    with (HERE / file).open("rb") as stream:
        cases: list[dict[str, Any]] = tomllib.load(stream)["case"]
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names), "names are unique"
    return cases


def requests(file: str) -> list[RequestCase]:
    found = []
    for case in _cases(file):
        unknown = set(case) - {"name", "send", "origin", "client", "behind", "why", "source", "settings", "has"}
        assert not unknown, (case["name"], unknown)
        client = tuple(case.get("client", (400,)))
        refused = bool(client) and client[-1] >= 400
        found.append(
            RequestCase(
                case["name"],
                _pieces(case["send"]),
                _pieces(case.get("origin", [])),
                client,
                case.get("behind", "refused" if refused else "answered"),
                case["why"],
                case.get("source", ""),
                case.get("settings", {}),
                _pieces(case.get("has", [])),
            )
        )
    return found


def responses(file: str = "responses.toml") -> list[ResponseCase]:
    found = []
    for case in _cases(file):
        keys = {"name", "request", "origin", "then", "client", "ends", "reuse", "times", "ways", "why", "source"}
        assert not set(case) - keys, (case["name"], set(case) - keys)
        found.append(
            ResponseCase(
                case["name"],
                unescaped(case.get("request", PLAIN)),
                _pieces(case["origin"]),
                case.get("then", "stay"),
                unescaped(case["client"]),
                case.get("ends", "open"),
                case.get("reuse", False),
                case.get("times", 1),
                tuple(case.get("ways", ("whole", "bytes", "pieces"))),
                case["why"],
                case.get("source", ""),
            )
        )
    return found


def exchanges(file: str = "exchanges.toml") -> list[ExchangeCase]:
    found = []
    for case in _cases(file):
        steps = []
        for step in case["steps"]:
            ((actor, text),) = step.items()
            steps.append((actor, unescaped(text)))
        found.append(ExchangeCase(case["name"], tuple(steps), case["why"], case.get("settings", {})))
    return found
