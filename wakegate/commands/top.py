"""`wakegate top`: the services that work now, like the `top` of processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wakegate.client import Broken, Client, Failed, Own, find
from wakegate.commands import figures
from wakegate.commands.naming import in_namespaces
from wakegate.commands.output import as_json, calls_the_api, echo_json, note, show, status_text, table_of
from wakegate.commands.rates import STEP, Watch
from wakegate.terminal import visible

_COLUMNS: Final = (
    *("SERVICE", "STATUS", "REPLICAS", "RATE/S", "ERRORS/S", "IN FLIGHT", "HELD"),
    *("P50", "P95", "P99", "COLD STARTS", "COLD P95"),
)
_NAMESPACES: Final = 20  # of a key of every namespace that are looked at
_EDGE: Final = 4  # lines of a terminal that are not rows


@click.command()
@in_namespaces
@click.option("--interval", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print it once.")
@as_json
@calls_the_api
def top(namespace: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show live rates, replicas, held requests and latency per service.

    With --json, and where the output is no terminal, one after the other.
    """
    client = find()
    watch = Watch(client, (namespace,) if namespace else _own_namespaces(client))
    if once or as_json or not sys.stdout.isatty():
        while True:
            watch.look(None if once else interval)
            echo_json(json.dumps(_document(watch), ensure_ascii=False)) if as_json else show(_screen(watch, None))
            if once:
                return
            time.sleep(interval)
    _live(watch, interval)


def _own_namespaces(client: Client) -> tuple[str, ...]:
    own = Own.of(client)
    if not own.everywhere:
        return (own.namespace,)
    if len(own.inhabited) > _NAMESPACES:
        note(f"{_NAMESPACES} of {len(own.inhabited)} namespaces; choose another by --namespace")
    return own.inhabited[:_NAMESPACES]


def _live(watch: Watch, interval: float) -> None:
    """Until interrupted; an API that is gone is waited for, with what was known last."""
    trouble, watch.patience = "", 0.0
    with Live(auto_refresh=False, screen=True, console=Console()) as live:
        while True:
            try:
                watch.look(interval)
                trouble = ""
            except (Broken, Failed) as error:
                if isinstance(error, Failed) and not error.passing:
                    raise
                trouble = "; ".join(error.lines()) if isinstance(error, Failed) else str(error)
            live.update(_screen(watch, live.console.size.height, trouble), refresh=True)
            time.sleep(interval)


def _document(watch: Watch) -> dict[str, Any]:
    """For scripts: `errors` and `cold_starts` are counts of a step."""
    return {"time": _now(), "step": STEP, "total": watch.total, "services": watch.rows()}


def _screen(watch: Watch, height: int | None, trouble: str = "") -> Group:
    """A line about all, and a row for each that has room."""
    rows = watch.rows()
    shown = rows if height is None else rows[: max(1, height - _EDGE)]
    lines = [_sum(rows, len(shown), watch.total)]
    if trouble:
        lines.append(Text(visible(trouble), style="red"))
    return Group(*lines, _table(shown))


def _sum(rows: list[dict[str, Any]], shown: int, total: int) -> Text:
    def of(name: str) -> float:
        return sum(row[name] or 0 for row in rows)

    ready = sum(row["replicas"]["ready"] for row in rows)
    hidden = f", {shown} shown" if shown < total else ""
    return Text(
        f"{_now()[:19]}Z  {total} services{hidden}, {ready} replicas ready, {figures.rate(of('rate'))} requests/s, "
        f"{figures.count(of('in_flight'))} in flight, {figures.count(of('held'))} held"
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    return table_of(_COLUMNS, map(_cells, rows), right=_COLUMNS[2:])


def _cells(row: Mapping[str, Any]) -> list[Any]:
    replicas = row["replicas"]
    errors = row["errors"]
    return [
        f"{row['namespace']}/{row['name']}",
        status_text(row["status"]),
        f"{replicas['ready']}/{replicas['desired']}",
        figures.rate(row["rate"]),
        figures.rate(None if errors is None else errors / STEP),
        figures.count(row["in_flight"]),
        figures.count(row["held"]),
        *(figures.milliseconds(row[name] if row["rate"] else None) for name in figures.LATENCIES),
        figures.count(row["cold_starts"]),
        figures.milliseconds(row["cold_start_p95_ms"] if row["cold_starts"] else None),
    ]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
