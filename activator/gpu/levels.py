"""What nodes say of their replicas' GPUs: a level (law 2) of which the newest counts, and only for a while. Pure.

A node that is silent, or leaves a replica out, has not measured it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from activator.gpu import Utilizations

_BYTES: Final = 1 << 20  # of one message
_DIGITS: Final = 2


class MalformedLevel(ValueError):
    """The message is none."""


@dataclass(frozen=True, slots=True)
class Level:
    """Of one node. `replicas`: percent, by id."""

    node: str
    replicas: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> bytes:
        rounded = {replica: round(percent, _DIGITS) for replica, percent in self.replicas.items()}
        return json.dumps({"node": self.node, "replicas": rounded}, separators=(",", ":")).encode()


def decode(data: bytes) -> Level:
    """Raises MalformedLevel."""
    try:
        if len(data) > _BYTES:
            raise ValueError("it is too long")
        raw: Any = json.loads(data)
        replicas = {str(replica): float(percent) for replica, percent in raw["replicas"].items()}
        if not all(0 <= percent <= 100 for percent in replicas.values()):
            raise ValueError("no percent")
        return Level(str(raw["node"]), replicas)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedLevel(f"what a node says of its GPUs can't be read: {error!r}") from error


def utilization(gpus: Collection[str], measured: Utilizations) -> float | None:
    """Of a replica: the mean over those of its GPUs that were measured."""
    return mean(measured[gpu] for gpu in gpus if gpu in measured)


def mean(values: Iterable[float]) -> float | None:
    """None: of nothing."""
    known = list(values)
    return sum(known) / len(known) if known else None


class Levels:
    """The newest level of each node; one that is `patience` seconds old does not count."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._of: dict[str, tuple[float, Mapping[str, float]]] = {}

    def take(self, level: Level, now: float) -> None:
        """Whoever calls bounds the nodes."""
        self._of[level.node] = (now, level.replicas)

    def keep(self, nodes: Collection[str]) -> None:
        """There are no others any more."""
        self._of = {node: level for node, level in self._of.items() if node in nodes}

    def all(self, now: float) -> Iterator[tuple[str, str, float]]:
        """Node, replica and percent of everything that counts."""
        for node, (at, replicas) in self._of.items():
            if now - at < self._patience:
                yield from ((node, replica, percent) for replica, percent in replicas.items())

    def of(self, node: str, replica: str, now: float) -> float | None:
        """Percent that the GPUs of a replica of that node are busy; None: not measured."""
        at, replicas = self._of.get(node, (float("-inf"), {}))
        return replicas.get(replica) if now - at < self._patience else None
