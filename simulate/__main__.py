"""`python -m simulate`: play the traces, print the tables, draw the pictures, write both into docs/."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from simulate import fleet, reserve
from simulate.document import table, write_into
from simulate.drawing import draw
from simulate.runs import Run, run
from simulate.traces import HOUR, TRACES

DOCS = Path(__file__).resolve().parent.parent / "docs"
FLEET = "fleet"
RESERVE = "reserve"


def arguments() -> argparse.Namespace:
    names = [*(trace.name for trace in TRACES), FLEET, RESERVE]
    parser = argparse.ArgumentParser(prog="python -m simulate", description=__doc__)
    parser.add_argument("--only", default=",".join(names), help=f"comma-separated traces of {','.join(names)}")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where autoscaling.md is and the pictures go")
    chosen = parser.parse_args()
    chosen.only = [name for name in chosen.only.split(",") if name]
    if unknown := set(chosen.only) - set(names):
        parser.error(f"--only: no such trace: {', '.join(sorted(unknown))}")
    return chosen


def played(names: list[str]) -> Iterator[tuple[str, str, list[float], list[Run], float]]:
    """Name, title, arrivals, runs and seconds of each trace."""
    for trace in TRACES:
        if trace.name in names:
            yield trace.name, trace.what, [one.at for one in trace.requests()], run(trace), trace.seconds
    if FLEET in names:
        arrivals = [one.at for one in chain.from_iterable(trace.requests() for trace in fleet.traces())]
        runs = fleet.run()
        title = f"{fleet.SERVICES:,} services, {100 * fleet.asleep(runs[0].samples):.0f} % asleep"
        yield FLEET, title, arrivals, runs, HOUR


def main() -> None:
    chosen = arguments()
    for name, title, arrivals, runs, seconds in played(chosen.only):
        picture = chosen.docs / f"autoscaling-{name}.png"
        draw(picture, title, arrivals, runs, seconds)
        figures = table([one.row for one in runs])
        write_into(chosen.docs / "autoscaling.md", name, f"![{title}]({picture.name})\n\n{figures}")
        print(f"{name}: {title}\n\n{figures}\n")
    if RESERVE in chosen.only:
        figures = reserve.table([reserve.run(habit) for habit in reserve.HABITS])
        write_into(chosen.docs / "autoscaling.md", RESERVE, figures)
        print(f"{RESERVE}:\n\n{figures}")


if __name__ == "__main__":
    main()
