"""The figures as tables, and where they stand in docs/autoscaling.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from simulate.results import Row

COLUMNS: Final[tuple[tuple[str, Callable[[Row], str]], ...]] = (
    ("held", lambda row: f"{100 * row.held:.1f} %"),
    ("p50", lambda row: f"{row.p50:.2f} s"),
    ("p95", lambda row: f"{row.p95:.2f} s"),
    ("p99", lambda row: f"{row.p99:.2f} s"),
    ("longest", lambda row: f"{row.longest:.1f} s"),
    ("failed", lambda row: f"{row.failed:,}"),
    ("cold starts", lambda row: f"{row.cold_starts:,}"),
    ("starts", lambda row: f"{row.starts:,}"),
    ("replica-seconds", lambda row: f"{row.replica_seconds:,.0f}"),
)


def table(rows: Sequence[Row]) -> str:
    """In Markdown, a line for each algorithm."""
    lines = [
        f"| of {rows[0].requests:,} requests | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
        *(f"| {row.policy} | " + " | ".join(cell(row) for _, cell in COLUMNS) + " |" for row in rows),
    ]
    return "\n".join(lines)


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"


def part(text: str, name: str) -> str:
    """What stands between the marks of `name`. Raises ValueError without them."""
    begin, end = marks(name)
    _before, begun, rest = text.partition(begin)
    inside, ended, _after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"there are no marks {begin.strip()} and {end}")
    return inside


def write_into(path: Path, name: str, content: str) -> None:
    """Replace it. Raises ValueError without marks, OSError."""
    text = path.read_text()
    begin, end = marks(name)
    path.write_text(text.replace(begin + part(text, name) + end, f"{begin}\n{content}\n\n{end}"))
