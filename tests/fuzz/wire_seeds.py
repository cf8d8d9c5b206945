"""The corpora of `tests/wire` as inputs to begin with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from program import encode

WIRE = Path(__file__).resolve().parents[1] / "wire"
GET = "c GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
OK = "r HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONGEST = 2000  # bytes of what is said; longer cases are about limits that are other ones here
_STEPS = {
    "client_sends": "c ",
    "client_half_closes": "h",
    "client_leaves": "x",
    "replica_sends": "r ",
    "replica_closes": "f",
    "replica_half_closes": "f",
    "asleep": "u \x02",
    "awake": "u \x00",
}


def _cases(file: str) -> list[dict[str, Any]]:
    with (WIRE / file).open("rb") as stream:
        cases: list[dict[str, Any]] = tomllib.load(stream)["case"]
    return cases


def _said(value: str | list[str]) -> list[str]:
    """Each piece with its repetitions; empty if there is a byte that means something else in a program."""
    pieces = [value] if isinstance(value, str) else value
    out = [re.sub(r"\{([^{}]+)\*([0-9]+)\}", lambda found: found[1] * int(found[2]), piece) for piece in pieces]
    return out if all(piece.isascii() for piece in out) and sum(map(len, out)) <= LONGEST else []


def requests() -> list[list[str]]:
    return [_said(case["send"]) for file in ("requests.toml", "smuggling.toml") for case in _cases(file)]


def responses() -> list[list[str]]:
    return [_said(case["origin"]) for case in _cases("responses.toml")]


def programs() -> list[bytes]:
    """Requests with answers, answers to a request, and conversations."""
    found = [encode(*("c " + piece for piece in said), OK, OK, OK) for said in requests() if said]
    found += [encode(GET, *("r " + piece for piece in said), "f", GET, OK) for said in responses() if said]
    for case in _cases("exchanges.toml"):
        steps = [(_STEPS[key], value) for step in case["steps"] for key, value in step.items() if key in _STEPS]
        said = [(letter, _said(value)) for letter, value in steps]
        found.append(encode(*(letter + "".join(text) if letter[1:] == " " else letter for letter, text in said)))
    return found


def request_heads() -> list[bytes]:
    return [piece.encode() for said in requests() for piece in said]


def response_heads() -> list[bytes]:
    return [b"G" + piece.encode() for said in responses() for piece in said]
