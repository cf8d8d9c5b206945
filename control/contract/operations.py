"""What an operation of the API is, declared beside the handler that does it.

Who may call, and which parameters, bodies and answers there are: `/openapi.json` (`control.contract.openapi`) shows it,
and the door (`control.door`) asks it whether a request needs a key.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from control.contract.query import Reader

F = TypeVar("F", bound=Callable[..., Any])

_declared: Final[dict[Any, Operation]] = {}


@dataclass(frozen=True, slots=True)
class Content:
    """An answer's body that is not JSON."""

    type: str


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """Declared once, with its handler, and equal to itself only.

    `answers`: by status the shape of a JSON body (a TypedDict), other `Content`, or None for an empty one.

    `needs`: the scope of the caller's key; None: no key at all. `fails`: the statuses of problems, but for those that
    follow from the rest. `headers`: the fields of a success. `streams`: the shape of one server-sent event, where a
    caller can choose to follow. `if_match`: a write that honours it. `asks_store`: a read that needs the store,
    unlike the others.
    """

    name: str
    summary: str
    description: str
    group: str
    needs: str | None
    query: Mapping[str, Reader]
    body: type[BaseModel] | None
    body_required: bool
    answers: Mapping[int, Any]
    fails: Sequence[int]
    headers: Sequence[str]
    streams: Any
    if_match: bool
    asks_store: bool


def operation(
    summary: str,
    *,
    needs: str | None,
    answers: Mapping[int, Any],
    query: Mapping[str, Reader] | None = None,
    body: type[BaseModel] | None = None,
    body_required: bool = True,
    fails: Sequence[int] = (),
    headers: Sequence[str] = (),
    streams: Any = None,
    if_match: bool = False,
    asks_store: bool = False,
) -> Callable[[F], F]:
    """Declare the handler that follows; its docstring is the description, for people who call the API."""

    def declare(handler: F) -> F:
        _declared[handler] = Operation(
            name=handler.__qualname__,
            summary=summary,
            description=inspect.getdoc(handler) or "",
            group=handler.__module__.rpartition(".")[2],
            needs=needs,
            query=query or {},
            body=body,
            body_required=body_required,
            answers=answers,
            fails=fails,
            headers=headers,
            streams=streams,
            if_match=if_match,
            asks_store=asks_store,
        )
        return handler

    return declare


def declared(handler: Any) -> Operation | None:
    """What was declared for a handler, bound or not."""
    return _declared.get(inspect.unwrap(getattr(handler, "__func__", handler)))
