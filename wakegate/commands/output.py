"""What the client commands share: `--json`, tables for people, errors and exit codes.

Laws kept here: what others wrote is shown and never obeyed (`wakegate.terminal`); what a script reads goes to the
standard output, everything else to the standard error; without a terminal nothing is coloured, wrapped or cut.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from wakegate.client import ClientError, Failed
from wakegate.terminal import visible, visible_json

F = TypeVar("F", bound=Callable[..., Any])
Cell = str | Text

FAILED: Final = 1
INTERRUPTED: Final = 130  # as shells say of a program that Ctrl-C ended

_UNBOUNDED: Final = 100_000  # columns where the output is not a terminal: nothing is cut that a script may want

COLOURS: Final = {
    "running": "green",
    "active": "green",
    "deploying": "cyan",
    "pending": "cyan",
    "building": "cyan",
    "starting": "cyan",
    "verified": "cyan",
    "issuing": "cyan",
    "degraded": "yellow",
    "pending_dns": "yellow",
    "pending_ownership": "yellow",
    "moved": "yellow",
    "cancelled": "yellow",
    "stopped": "blue",
    "failed": "red",
}

as_json = click.option("--json", "as_json", is_flag=True, help="Print the API's answer as it is.")


def calls_the_api(command: F) -> F:
    """A failed call exits 1 and says why, with `--json` as the API said it."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        show_whatever_comes()
        try:
            return command(*args, **kwargs)
        except Failed as failed:
            if kwargs.get("as_json"):
                echo_json(failed.text)
            fail(*failed.lines())
        except ClientError as error:
            fail(str(error))

    return guarded  # type: ignore[return-value]


def show_whatever_comes() -> None:
    """A terminal of few characters gets escapes for the others, not an error of ours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def fail(*lines: str) -> NoReturn:
    """Exit 1 with the reason."""
    click.echo("error: " + "\n".join(map(visible, lines)), err=True)
    sys.exit(FAILED)


def note(text: str) -> None:
    """A line for people beside the output."""
    click.echo(visible(text), err=True)


def echo_json(text: str) -> None:
    """An answer of the API as it is: the same value, harmless to a terminal."""
    click.echo(visible_json(text))


def status_text(status: str) -> Text:
    return Text(visible(status), style=COLOURS.get(status, ""))


def cell(value: Cell | int | float | None) -> Text:
    """A value as it is, never as markup nor as commands to the terminal; nothing is a dash."""
    return value if isinstance(value, Text) else Text(visible("-" if value is None else str(value)))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> Table:
    """A table for people; columns of numbers (`right`) end at one line."""
    table, numbers = Table(box=None, pad_edge=False, header_style="bold"), set(right)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    show(table_of(columns, rows, right=right))


def print_facts(facts: Mapping[str, Cell | None]) -> None:
    """Names and values, one per line; those without a value are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and str(value):
            table.add_row(cell(name), cell(value))
    show(table)


def show(what: RenderableType) -> None:
    """Print; click knows what to do about a reader that has left, rich does not."""
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=_UNBOUNDED)
    with console.capture() as capture:
        console.print(what)
    lines = capture.get().splitlines()
    click.echo("\n".join(line if terminal else line.rstrip() for line in lines), color=True)
