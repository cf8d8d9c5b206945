"""`wakegate services starts`: how long the last starts of a service took, by phase, and why some failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from wakegate.commands import figures
from wakegate.commands.naming import Target, on_lines
from wakegate.commands.output import Cell, as_json, echo_json, print_rows

_PHASES: Final = ("decide", "schedule", "fetch", "start", "ready", "first_byte", "total")
_COLUMNS: Final = ("TIME", "REPLICA", *(phase.replace("_", " ").upper() for phase in _PHASES), "FAILED IN", "REASON")
_EVENTS: Final = 1000  # all that are kept
_REPLICA: Final = 6  # characters, the last ones, that tell replicas apart


@click.command()
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="The newest starts.")
@as_json
@on_lines
def starts(target: Target, limit: int, as_json: bool) -> None:
    """Show how long the last starts took, by phase, and why some failed. (-n is not the namespace here.)

    With --json, the last event of each: what it says of its phases is all that is known.
    """
    events = target.read("events", query={"kind": "replica", "limit": _EVENTS}).body["items"]
    found = newest(events)[-limit:]
    if as_json:
        echo_json(json.dumps({"items": found}, ensure_ascii=False))
    else:
        print_rows(_COLUMNS, map(_row, found), right=_COLUMNS[2:-2])


def newest(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each replica the last event that tells phases, in the order in which they were ready or failed. Pure."""
    starts: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if "phases" in event:
            starts[event["replica"]] = event  # it keeps its place
    return list(starts.values())


def _row(event: Mapping[str, Any]) -> list[Cell | None]:
    taken = [figures.milliseconds(event["phases"].get(f"{phase}_ms")) for phase in _PHASES]
    failed = event.get("phase")
    return [event["time"], event["replica"][-_REPLICA:], *taken, failed, event["reason"] if failed else None]
