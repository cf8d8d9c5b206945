"""Numbers as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LATENCIES: Final = ("p50_ms", "p95_ms", "p99_ms")  # of an answer of the API
_BARS: Final = "▁▂▃▄▅▆▇█"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def rate(value: float | None) -> str:
    """Per second: three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    """From milliseconds; seconds from ten thousand on."""
    if value is None:
        return "-"
    return f"{value / 1000:.1f} s" if value >= 10_000 else f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def size(value: float | None) -> str:
    """From bytes, with binary units."""
    if value is None:
        return "-"
    unit = 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def count(value: float | None) -> str:
    return "-" if value is None else f"{value:g}" if value != int(value) else f"{int(value)}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The course of the values in `width` characters at most; the highest of those that share one counts."""
    known = [0.0 if value is None else float(value) for value in values]
    groups = max(1, -(-len(known) // max(1, width)))
    tops = [max(known[at : at + groups]) for at in range(0, len(known), groups)]
    highest = max(tops, default=0.0)
    if highest <= 0:
        return _BARS[0] * len(tops)
    return "".join(_BARS[round(top / highest * (len(_BARS) - 1))] for top in tops)
