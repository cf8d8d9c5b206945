"""The results as tables for people and as JSON for machines."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.load import WORKS

COLUMNS = (
    ("CPU µs/request", lambda row: f"{row['cpu_us']:.1f}"),
    ("in the kernel", lambda row: f"{row['cpu_system_us']:.1f}"),
    ("/ nginx", lambda row: _ratio(row, "nginx")),
    ("/ HAProxy", lambda row: _ratio(row, "haproxy")),
    ("/ Envoy", lambda row: _ratio(row, "envoy")),
    ("/ Caddy", lambda row: _ratio(row, "caddy")),
    ("requests/s", lambda row: f"{row['requests_per_second']:,.0f}"),
    ("p50 ms", lambda row: _ms(row["p50_us"])),
    ("p99 ms", lambda row: _ms(row["p99_us"])),
    ("upstream connections", lambda row: str(row["upstream_connections"])),
    ("log lines / requests", lambda row: f"{row['log_lines']:,} / {row['requests']:,}"),
    ("errors", lambda row: str(row["errors"])),
)


def throughput_table(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """A Markdown table per kind of load."""
    parts = []
    for work in dict.fromkeys(row["work"] for row in rows):
        title = WORKS[work].title if work in WORKS else work
        lines = [f"**{title}**", "", "| proxy | " + " | ".join(name for name, _ in COLUMNS) + " |"]
        lines.append("|---|" + "---:|" * len(COLUMNS))
        for row in rows:
            if row["work"] == work:
                cells = [
                    f"{row['proxy']} {versions.get(row['proxy'], '')}".strip(),
                    *(cell(row) for _, cell in COLUMNS),
                ]
                lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _ratio(row: Mapping[str, Any], to: str) -> str:
    found = row["ratio_to"].get(to)
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else "-"


def _ms(value: object) -> str:
    assert isinstance(value, int | float)
    return f"{value / 1000:.2f}"


def _kib(value: object) -> str:
    assert isinstance(value, int | float)
    return f"{value / 1024:.2f} KiB"


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Count, smallest, quartiles, p90, p99 and largest of `values` (nearest rank)."""
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    shares = {"p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}
    return {"n": len(ordered), "min": ordered[0], **{name: rank(s) for name, s in shares.items()}, "max": ordered[-1]}


def distribution_table(title: str, unit: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    names = ("n", "min", "p25", "p50", "p75", "p90", "p99", "max")
    lines = [f"| {title} ({unit}) | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for name, row in rows.items():
        cells = [f"{row[key]:.0f}" if key == "n" else f"{row[key]:.1f}" for key in names]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = ["| memory of the workers | what | each, USS | each, RSS |", "|---|---|---:|---:|"]
    lines += [
        f"| {row['proxy']} | {row['count']:,} {row['what']} | {_kib(row['uss_each'])} | {_kib(row['rss_each'])} |"
        for row in rows
    ]
    return "\n".join(lines)


MARKS = ("<!-- figures: begin -->\n", "<!-- figures: end -->")


def write_into(path: Path, results: Mapping[str, Any], tables: Sequence[str]) -> None:
    """Replace what stands between `MARKS` in a file by the machine and the tables. ValueError without marks."""
    about = results["machine"]
    speed = f" at {about['mhz'] / 1000:.1f} GHz" if about["mhz"] else ""
    intro = (
        f"{about['time'][:10]}, {about['cpus']} CPUs ({about['cpu']}{speed}), Linux {about['kernel']}, Python"
        f" {about['python']}; each proxy on one core, wrk and the backend on the other; other work on the machine at"
        f" the start: {results['other_work']:.1f} cores. Medians of interleaved rounds; ratios with their extremes."
    )
    before, begin, rest = path.read_text().partition(MARKS[0])
    _old, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise ValueError(f"{path} has no marks for the figures")
    path.write_text(before + begin + "\n" + "\n\n".join([intro, *tables]) + "\n\n" + end + after)


def save(results: Mapping[str, object], directory: Path) -> Path:
    """Write `results` as JSON; the path carries the time."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path
