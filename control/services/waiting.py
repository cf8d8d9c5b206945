"""Calls that wait for something to become true of what the mirror has.

Law 7: only so many wait at once, of one key, one namespace and all; the others are told so before they write anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from control.contract import query
from control.contract.problem import FieldError, bad_request
from control.limits.shares import Bounds, Shares
from state.kinds import Kind
from state.models import ApiKey

PARAMETERS: Final[Mapping[str, query.Reader]] = {"wait": query.one_of("running"), "timeout": query.whole(1, 3600)}
_PATIENCE: Final = 600.0  # seconds, unless the caller says how many
BOUNDS: Final = Bounds(key=32, namespace=128, node=1000)


def patience(given: Mapping[str, Any]) -> float | None:
    """For how many seconds a caller waits; None: not at all. Raises Problem 400."""
    if "wait" in given:
        return float(given.get("timeout", _PATIENCE))
    if "timeout" in given:
        raise bad_request([FieldError("timeout", "only with wait")])
    return None


class Waiting:
    """`changed` is told of everything that the mirror applies."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self._places = Shares("calls that wait", bounds, seconds=1)
        self._waiters: dict[tuple[Kind, str], set[asyncio.Event]] = {}
        self._closed = False

    def changed(self, touched: Iterable[tuple[Kind, str]]) -> None:
        if not self._waiters:
            return
        for key in touched:
            for waiter in self._waiters.get(key, ()):
                waiter.set()

    def close(self) -> None:
        """Nobody waits any longer: the process ends."""
        self._closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.set()

    @contextlib.contextmanager
    def place(self, caller: ApiKey, patience: float | None) -> Iterator[None]:
        """A place among those that wait; None needs none. Raises Problem 429 beyond a share of them, 503 beyond all."""
        with contextlib.nullcontext() if patience is None else self._places.held(caller):
            yield

    async def until(self, key: tuple[Kind, str], condition: Callable[[], bool], timeout: float) -> None:
        """Until `condition` holds, looked at whenever `key` changes; for `timeout` seconds at most."""
        changed = asyncio.Event()
        waiters = self._waiters.setdefault(key, set())
        waiters.add(changed)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while not (self._closed or condition()):
                        changed.clear()
                        await changed.wait()
        finally:
            waiters.discard(changed)
            if not waiters:
                self._waiters.pop(key, None)
