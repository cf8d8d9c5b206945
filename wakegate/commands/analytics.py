"""`wakegate services analytics`: traffic, latency and replicas of a service over time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from wakegate.commands import figures
from wakegate.commands.naming import Target, on_service
from wakegate.commands.output import as_json, echo_json, print_facts, print_rows
from wakegate.commands.spans import moment

_Figure = Callable[[float | None], str]

_SHOWN: Final[tuple[tuple[str, str, _Figure], ...]] = (
    ("REQUESTS", "requests", figures.count),
    ("ERRORS", "errors", figures.count),
    ("RATE/S", "rate", figures.rate),
    ("P50", "p50_ms", figures.milliseconds),
    ("P95", "p95_ms", figures.milliseconds),
    ("P99", "p99_ms", figures.milliseconds),
    ("IN", "bytes_in", figures.size),
    ("OUT", "bytes_out", figures.size),
    ("IN FLIGHT", "in_flight", figures.count),
    ("HELD", "held", figures.count),
    ("HOLD P95", "hold_p95_ms", figures.milliseconds),
    ("COLD STARTS", "cold_starts", figures.count),
    ("COLD P95", "cold_start_p95_ms", figures.milliseconds),
    ("REPLICAS", "replicas", figures.count),
    ("GPU %", "gpu_utilization", figures.count),
)
_DRAWN: Final[tuple[tuple[str, str, _Figure], ...]] = (
    ("rate/s", "rate", figures.rate),
    ("errors", "errors", figures.count),
    ("p95", "p95_ms", figures.milliseconds),
    ("in flight", "in_flight", figures.count),
    ("held", "held", figures.count),
    ("replicas", "replicas", figures.count),
)
_COLD: Final = ("cold_start_p95_ms",)
_BESIDE: Final = 32  # columns that the name and the highest value of a sparkline take
_SECONDS: Final = len("2026-03-18T12:00:00")


@click.command()
@click.option("--from", "from_", metavar="WHEN", callback=moment, help="A time, or a span before now [default: 1h].")
@click.option("--to", metavar="WHEN", callback=moment, help="A time, or a span before now [default: now].")
@click.option("--step", type=int, help="Seconds of one row, 10 or more [default: 60].")
@click.option("--sparkline", is_flag=True, help="Draw the course instead of listing the steps.")
@as_json
@on_service
def analytics(
    target: Target, from_: str | None, to: str | None, step: int | None, sparkline: bool, as_json: bool
) -> None:
    """Show requests, errors, latency and replicas over time."""
    answer = target.read("analytics", query={"from": from_, "to": to, "step": step})
    if as_json:
        echo_json(answer.text)
    elif sparkline:
        _draw(answer.body)
    else:
        _list(answer.body)


def _list(body: Mapping[str, Any]) -> None:
    columns = ["TIME", *(title for title, _, _ in _SHOWN)]
    rows = [[_short(point["time"]), *_figures(point)] for point in body["series"]]
    print_rows(columns, [*rows, ["TOTAL", *_figures(body["totals"])]], right=columns[1:])


def _figures(point: Mapping[str, Any]) -> Sequence[str]:
    """A latency of no requests is none, nor of no starts."""
    none = (*(figures.LATENCIES if not point["requests"] else ()), *(_COLD if not point["cold_starts"] else ()))
    known = {**point, **dict.fromkeys(none)}
    return [figure(known.get(name)) for _, name, figure in _SHOWN]


def _draw(body: Mapping[str, Any]) -> None:
    width = max(10, shutil.get_terminal_size().columns - _BESIDE)
    facts = {"from": _short(body["from"]), "to": _short(body["to"])}
    for title, name, figure in _DRAWN:
        values = [point.get(name) for point in body["series"]]
        highest = max((value for value in values if value is not None), default=None)
        facts[title] = f"{figures.sparkline(values, width)}  up to {figure(highest)}"
    totals = body["totals"]
    facts["total"] = f"{figures.count(totals['requests'])} requests, {figures.count(totals['errors'])} errors"
    if totals.get("cold_starts"):
        facts["cold starts"] = _cold_starts(totals)
    print_facts(facts)


def _cold_starts(totals: Mapping[str, Any]) -> str:
    """How many, and how long 95 % of them took at most, as a whole and by phase."""
    phases = totals["cold_start_phases"].items()
    slowest = [f"{phase.replace('_', ' ')} {figures.milliseconds(seconds['p95_ms'])}" for phase, seconds in phases]
    whole = figures.milliseconds(totals["cold_start_p95_ms"])
    return f"{figures.count(totals['cold_starts'])}, ready after {whole} at p95" + "".join(f", {s}" for s in slowest)


def _short(time: str) -> str:
    """A time to the second: steps are seconds."""
    return time[:_SECONDS] + "Z" if time[_SECONDS:].startswith(".") else time
