"""Times as people give them: as the API takes them, or as a span before now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """A callback of an option: `10m` becomes the time ten minutes ago; the API judges everything else."""
    return given if given is None else before(given, datetime.now(UTC))


def before(text: str, now: datetime) -> str:
    """Raises click.BadParameter for a span that reaches back beyond the calendar."""
    match = _SPAN.fullmatch(text)
    if match is None:
        return text
    try:
        at = now - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter("is too long ago") from None
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
