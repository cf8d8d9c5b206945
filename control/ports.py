"""What the API needs of others, in its own words. The composition root of the control process provides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from activator.logs import LogPage
from activator.logs.reader import Query
from state.kinds import Kind
from state.store import Record

T = TypeVar("T")


class Objects(Protocol):
    """The objects of the store in memory (`state.mirror.Mirror`)."""

    connected: bool
    run_id: str
    """Empty until a first snapshot is in: nothing is known before."""

    def get(self, kind: Kind, object_id: str) -> Record | None: ...
    def records(self, kind: Kind) -> Mapping[str, Record]: ...
    def decoded(self, kind: Kind, object_id: str, model: type[T]) -> T | None: ...
    async def reached(self, revision: int) -> None: ...


class Acknowledgements(Protocol):
    """Waiting until every registered worker has applied a committed revision (law 3)."""

    async def wait(self, revision: int, timeout: float | None) -> bool: ...


class Logs(Protocol):
    """The lines of replicas and builds, present and gone (`activator.logs.LogStore`)."""

    async def read(self, service_id: str, query: Query) -> LogPage: ...
    def watching(self, service_id: str, told: Callable[[], None]) -> AbstractContextManager[None]: ...
