"""Host -> service, kept as small as 100,000 routes ask for: nothing is decoded or built before it is first used."""

from __future__ import annotations

from typing import Protocol

from state.models import Backend, Route


class Source(Protocol):
    """Where routes and backends come from: the worker's mirror of the store. Called on the loop, must not block."""

    def route(self, host: str) -> Route | None:
        """By host in lower case, without port and final dot."""

    def backend(self, service_id: str) -> Backend | None: ...


class Table:
    """Built with a `Source`; `Edge` does the rest."""

    def __init__(self, source: Source) -> None:
        raise NotImplementedError
