"""`wakegate services logs` and `events`: what a service wrote, and what happened to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click

from wakegate.commands.naming import Target, on_lines
from wakegate.commands.output import as_json, echo_json, note, print_rows
from wakegate.commands.spans import moment
from wakegate.commands.suggestions import choices
from wakegate.follow import follow
from wakegate.terminal import visible

_STREAMS: Final = ("stdout", "stderr", "build")
_REPLICA: Final = 6  # characters, the last ones, that tell replicas apart


def _filters(what: str, most: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Which lines or events, and whether to go on."""
    newest = f"The newest {what}, up to {most}. (-n is not the namespace here.)"
    since = "Only after this time (2026-03-18T12:00:00Z) or for this long (10m)."
    options = (
        click.option("--limit", "-n", type=int, default=100, show_default=True, help=newest),
        click.option("--since", metavar="WHEN", callback=moment, help=since),
        click.option("--until", metavar="WHEN", callback=moment, help="Only up to this time, or so long ago."),
        click.option("--replica", metavar="ID", help="Only of this replica."),
        click.option("--deployment", metavar="ID", help="Only of this deployment."),
        click.option("--follow", "-f", is_flag=True, help="Go on with what is new until interrupted."),
    )

    def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return filtered


@click.command()
@_filters("lines", 10_000)
@click.option("--stream", help=f"Only of this: {', '.join(_STREAMS)}.", shell_complete=choices(*_STREAMS))
@as_json
@on_lines
def logs(target: Target, follow: bool, as_json: bool, **query: Any) -> None:
    """Show the lines that replicas and builds wrote."""
    if follow:
        _go_on(target, "logs", query, _line, as_json=as_json)
        return
    answer = target.read("logs", query=query)
    echo_json(answer.text) if as_json else _print_lines(map(_line, answer.body["items"]))


@click.command()
@_filters("events", 1000)
@click.option("--kind", help="Only these: `replica.ready`, or `replica` for all of that sort.")
@as_json
@on_lines
def events(target: Target, follow: bool, as_json: bool, **query: Any) -> None:
    """Show what happened to a service, and why."""
    if follow:
        _go_on(target, "events", query, _event, as_json=as_json)
        return
    answer = target.read("events", query=query)
    if as_json:
        echo_json(answer.text)
    else:
        print_rows(("TIME", "EVENT", "REASON"), [[e["time"], e["kind"], e["reason"]] for e in answer.body["items"]])


def _go_on(
    target: Target, what: str, query: Mapping[str, Any], text: Callable[[Mapping[str, Any]], str], *, as_json: bool
) -> None:
    """Print each item as it comes: a line for people, or the API's own as a line of JSON."""
    for message in follow(target.client, target.path(what), query, note):
        echo_json(message.data) if as_json else _print_lines([text(json.loads(message.data))])


def _print_lines(lines: Iterable[str]) -> None:
    """All at once: a terminal is slow to be told ten thousand times."""
    if told := "".join(visible(line) + "\n" for line in lines):
        click.echo(told, nl=False)


def _line(item: Mapping[str, Any]) -> str:
    replica = (item["replica"] or "-" * _REPLICA)[-_REPLICA:]
    return f"{item['time']} {replica} {item['stream']:6} {item['line']}"


def _event(item: Mapping[str, Any]) -> str:
    return f"{item['time']}  {item['kind']}  {item['reason']}"
