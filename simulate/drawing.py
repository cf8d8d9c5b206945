"""Replicas, held requests and waiting times of the algorithms, one below the other, as a PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulate.runs import Run
from simulate.world import Sample

BINS: Final = 360  # per picture: what is finer can't be seen
_COLOURS: Final = ("#0b6e4f", "#74c69d", "#c1121f")
_MEASURES: Final[tuple[tuple[str, Callable[[Sample], float]], ...]] = (
    ("replicas", lambda sample: float(sample.replicas)),
    ("held", lambda sample: float(sample.held)),
    ("longest wait, s", lambda sample: sample.waited),
)


def draw(path: Path, title: str, arrivals: Iterable[float], runs: Sequence[Run], seconds: float) -> None:
    """`arrivals` are seconds. Raises OSError if `path` can't be written."""
    unit, name = (3600.0, "hours") if seconds > 7200 else (60.0, "minutes")
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        axes: list[Axes] = list(figure.subplots(4, 1, sharex=True))
        width = seconds / BINS
        axes[0].fill_between(_times(seconds, unit), _rates(arrivals, width), step="post", color="#adb5bd")
        axes[0].set_ylabel("requests/s")
        for axis, (label, measure) in zip(axes[1:], _MEASURES, strict=True):
            for run, colour in zip(runs, _COLOURS, strict=False):
                values = list(_most(((s.at, measure(s)) for s in run.samples), width))
                axis.step(_times(seconds, unit), values, where="post", color=colour, label=run.row.policy, linewidth=1)
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        axes[1].legend(frameon=False, ncols=len(runs))
        axes[0].set_title(title, loc="left")
        axes[-1].set_xlabel(name)
        axes[-1].set_xlim(0, seconds / unit)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _times(seconds: float, unit: float) -> list[float]:
    return [number * seconds / BINS / unit for number in range(BINS)]


def _rates(arrivals: Iterable[float], width: float) -> list[float]:
    counts = [0] * BINS
    for at in arrivals:
        counts[min(BINS - 1, int(at / width))] += 1
    return [count / width for count in counts]


def _most(points: Iterable[tuple[float, float]], width: float) -> Iterator[float]:
    """The largest value of each bin; a service that is asleep tells nothing, which is 0."""
    found = [0.0] * BINS
    for at, value in points:
        place = min(BINS - 1, int(at / width))
        found[place] = max(found[place], value)
    yield from found
