"""docs/api.md shows every operation that `/openapi.json` has, and none that it hasn't, by calls that can be tried."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCKS = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def calls() -> set[tuple[str, str]]:
    """Method and path of each call of the page."""
    found = set()
    for block in BLOCKS.findall(PAGE.read_text()):
        for line in re.sub(r"\\\n|\n(?=[ }])", " ", block).splitlines():
            for path in re.findall(r'"\$API(/[^"?]*)', line):
                method = re.search(r"-X ([A-Z]+)", line)
                body = re.search(r'--json|-d "', line)
                found.add((method[1] if method else "POST" if body else "GET", path))
    return found


async def test_every_operation_is_shown_and_no_other(rig):
    paths = (await rig.api("GET", "/openapi.json")).json["paths"]
    operations = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    shown = calls()
    patterns = {operation: re.compile(re.sub(r"\{\w+\}", "[^/]+", operation[1])) for operation in operations}

    def matches(call: tuple[str, str], operation: tuple[str, str]) -> bool:
        return call[0] == operation[0] and patterns[operation].fullmatch(call[1]) is not None

    assert [op for op in operations if not any(matches(call, op) for call in shown)] == []
    assert [call for call in shown if not any(matches(call, op) for op in operations)] == []
