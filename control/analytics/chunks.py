"""Rows of one service in compressed chunks, and how lines become parts of them. Pure.

A chunk is zlib over JSON by column, times as distances: what repeats is next to each other. 120 rows of 10 to 600
requests take 2 to 8 KB and are read in a millisecond. The chunk `levels` has the times at which the number of ready
replicas changed, and hourly means of what is older than the 1 min tier.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import Any, Final

from control.analytics.resolution import HOUR, TIERS, Tier
from state.counts import Counts, of_row

LEVELS: Final = "levels"
_COMPRESSION: Final = 6
_PRECISION: Final = 100  # of the mean of an hour

Rows = dict[int, Counts]
"""By the start of their time, Unix seconds."""

Levels = list[tuple[int, float]]
"""(time in ms, ready replicas from then on), ascending."""


class MalformedChunk(ValueError):
    """What is stored can't be read."""


@dataclass(slots=True)
class Lines:
    """What lines of a service say together. `unreadable` of them say nothing."""

    rows: Rows = field(default_factory=dict)
    levels: Levels = field(default_factory=list)
    unreadable: int = 0


def row_line(slot: int, counts: Counts) -> bytes:
    return json.dumps([slot, *counts.row()], separators=(",", ":")).encode()


def level_line(at: int, level: int) -> bytes:
    """`at` in ms."""
    return json.dumps([at, level], separators=(",", ":")).encode()


def read_lines(lines: Iterable[bytes]) -> Lines:
    told = Lines()
    for line in lines:
        try:
            first, *rest = json.loads(line)
            if len(rest) == 1:
                told.levels.append((int(first), float(rest[0])))
            else:
                merge(told.rows, int(first), of_row(rest))
        except (ValueError, TypeError, AttributeError):
            told.unreadable += 1
    told.levels.sort(key=lambda change: change[0])
    return told


def merge(rows: Rows, at: int, counts: Counts) -> None:
    """Add to the row of that time. The counts become the rows' own."""
    known = rows.get(at)
    if known is None:
        rows[at] = counts
    else:
        known.add(counts)


def coarser(rows: Mapping[int, Counts], tier: Tier) -> Rows:
    """The same as rows of a tier; nothing is shared with what came in."""
    found: Rows = {}
    for at, counts in rows.items():
        found.setdefault(at // tier.step * tier.step, Counts()).add(counts)
    return found


def pack(rows: Mapping[int, Counts]) -> bytes:
    times = sorted(rows)
    distances = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    columns = zip_longest(*(rows[time].row() for time in times), fillvalue={})
    return _packed([distances, *columns])


def unpack(chunk: bytes) -> Rows:
    """Raises MalformedChunk."""
    try:
        distances, *columns = _unpacked(chunk)
        rows = zip(*columns, strict=True)
        return {at: of_row(row) for at, row in zip(accumulate(distances), rows, strict=True)}
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedChunk(f"a chunk can't be read: {error!r}") from error


def pack_levels(levels: Levels) -> bytes:
    return _packed([[at, round(level, 2)] for at, level in levels])


def unpack_levels(chunk: bytes) -> Levels:
    """Raises MalformedChunk."""
    try:
        return [(int(at), float(level)) for at, level in _unpacked(chunk)]
    except (ValueError, TypeError) as error:
        raise MalformedChunk(f"levels can't be read: {error!r}") from error


def _packed(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _COMPRESSION)


def _unpacked(chunk: bytes) -> Any:
    try:
        return json.loads(zlib.decompress(chunk))
    except zlib.error as error:
        raise MalformedChunk(f"a chunk can't be read: {error}") from error


# Compaction


def touched(lines: Lines, now: int) -> list[str]:
    """The names of the chunks that lines become parts of."""
    names = {tier.chunk(at): None for tier in TIERS for at in lines.rows if tier.keeps(at, now)}
    return [*names, *([LEVELS] if lines.levels else [])]


def compacted(known: Mapping[str, bytes], lines: Lines, now: int) -> dict[str, bytes]:
    """The chunks that are `touched`, with what the lines say. `known`: those of them that exist.

    A chunk that can't be read is begun anew: what is lost is lost already. Raises nothing.
    """
    chunks: dict[str, bytes] = {}
    for tier in TIERS:
        parts: dict[str, Rows] = {}
        for at, counts in coarser({at: c for at, c in lines.rows.items() if tier.keeps(at, now)}, tier).items():
            parts.setdefault(tier.chunk(at), {})[at] = counts
        for name, rows in parts.items():
            whole = _readable(known.get(name))
            for at, counts in rows.items():
                merge(whole, at, counts)
            chunks[name] = pack(whole)
    if lines.levels:
        chunks[LEVELS] = pack_levels(thinned(joined(_readable_levels(known.get(LEVELS)), lines.levels), now))
    return chunks


def joined(known: Levels, more: Levels) -> Levels:
    """Both in order of time; what changes nothing is left out."""
    found: Levels = []
    for at, level in sorted([*known, *more], key=lambda change: change[0]):
        if not found or found[-1][1] != level:
            found.append((at, level))
    return found


def thinned(levels: Levels, now: int) -> Levels:
    """What is older than the 1 min tier as hourly means; what is older than the 1 h tier is gone."""
    fine = (now - TIERS[1].retention) // HOUR * HOUR * 1000
    start = (now - TIERS[2].retention) // HOUR * HOUR * 1000
    recent = [change for change in levels if change[0] >= fine]
    old = [change for change in levels if change[0] < fine]
    if not old:
        return recent
    hours: Levels = []
    first = max(start, old[0][0] // (HOUR * 1000) * HOUR * 1000)
    for hour, mean in zip(range(first, fine, HOUR * 1000), means(old, first, fine, HOUR * 1000), strict=True):
        hours.append((hour, round(mean * _PRECISION) / _PRECISION))
    return joined([*hours, (fine, old[-1][1])], recent)


def means(levels: Sequence[tuple[int, float]], start: int, end: int, step: int) -> list[float]:
    """The mean level in each step of [start, end), all in ms; before the first change it was 0."""
    found = [0.0] * (-(-(end - start) // step))
    for (begins, level), over in zip(levels, [*(at for at, _ in levels[1:]), end], strict=False):
        at, over = max(begins, start), min(over, end)
        while level and at < over:
            place = (at - start) // step
            upto = min(over, start + (place + 1) * step)
            found[place] += level * (upto - at) / step
            at = upto
    return found


def _readable(chunk: bytes | None) -> Rows:
    try:
        return {} if chunk is None else unpack(chunk)
    except MalformedChunk:
        return {}


def _readable_levels(chunk: bytes | None) -> Levels:
    try:
        return [] if chunk is None else unpack_levels(chunk)
    except MalformedChunk:
        return []
