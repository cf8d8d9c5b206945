"""How busy the GPUs of this node are, and what nodes say of that about their replicas.

Laws kept here: 2 (what a node says is a level, repeated, kept nowhere; what it does not say was not measured, which is
not the same as idle), 5 (reading what a source says and adding it up are pure) and 7 (every read has a time-out and a
size, and what fails is counted and told once).

A source (`dcgm`, `nvml`) says which GPU is how busy, the `meter` reads all of them and says how busy the replicas of
its node are, and every control keeps what was last said (`levels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Utilizations = Mapping[str, float]
"""Percent of the time that a GPU computes, by its number on the node and by its UUID. What is not in it was not
measured."""


class NotMeasured(Exception):
    """The source can't say; the text says why, for the operator."""


class Source(Protocol):
    """Knows how busy GPUs of this node are."""

    @property
    def name(self) -> str:
        """For the log and the metrics."""
        ...

    async def read(self) -> Utilizations:
        """As of now, within a few seconds. Raises NotMeasured."""
        ...

    async def close(self) -> None: ...
