"""What the client commands share: finding the API, `--json`, tables for people, errors and exit codes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wakegate.client import ClientError, Failed
from wakegate.terminal import visible, visible_json

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 200  # columns where the output is not a terminal: nothing is cut that a script may want

COLOURS = {"running": "green", "deploying": "cyan", "degraded": "yellow", "stopped": "blue", "failed": "red"}

as_json = click.option("--json", "as_json", is_flag=True, help="Print the API's answer as it is.")


def console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def calls_the_api(command: F) -> F:
    """A failed call exits 1 and says why, with `--json` as the API said it."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Failed as failed:
            if kwargs.get("as_json"):
                echo_json(failed.text)
            fail(*failed.lines())
        except ClientError as error:
            fail(str(error))

    return guarded  # type: ignore[return-value]


def fail(*lines: str) -> None:
    """Exit 1 with the reason."""
    click.echo("error: " + "\n".join(map(visible, lines)), err=True)
    sys.exit(1)


def echo_json(text: str) -> None:
    """An answer of the API as it is: the same value, harmless to a terminal."""
    click.echo(visible_json(text))


def status_text(status: str) -> Text:
    return Text(visible(status), style=COLOURS.get(status, ""))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table. Cells that are plain text are shown as they are, never as markup nor as commands to the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=not sys.stdout.isatty(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in row))
    console().print(table)


def print_facts(facts: Mapping[str, str | Text | None]) -> None:
    """Names and values, one per line; those without a value are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and str(value):
            table.add_row(name, Text(visible(value)) if isinstance(value, str) else value)
    console().print(table)
