"""A service's traffic, latency and replicas over time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from control.analytics.resolution import HOUR, LEAST_STEP, POINTS, Range, choose, points
from control.analytics.shapes import AnalyticsView
from control.contract import query, times
from control.contract.answers import answer
from control.contract.operations import operation
from control.contract.problem import FieldError, unprocessable
from control.credentials.access import Access

_STEP: Final = 60  # seconds
_SECOND: Final = 1_000_000  # microseconds
_LONGEST: Final = 366 * 86_400  # seconds: a step of a year is the longest
_EARLIEST: Final = 0
_LATEST: Final = times.parse("2999-12-31T00:00:00Z")


def _time(text: str) -> int:
    """Microseconds. Raises ValueError."""
    at = times.parse(text)
    if not _EARLIEST <= at <= _LATEST:
        raise ValueError("must be between 1970 and 2999")
    return at


_AT: Final = query.Reader(_time, query.timestamp.schema)
_READ: Final[Mapping[str, query.Reader]] = {"from": _AT, "to": _AT, "step": query.whole(LEAST_STEP, _LONGEST)}


class Readable(Protocol):
    """`control.analytics.collector.Analytics`. Raises StoreError."""

    async def read(self, service: str, wanted: Range, now: int) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class AnalyticsHandlers:
    access: Access
    analytics: Readable

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{namespace}/service/{name}/analytics", self.read)]

    @operation(
        "Read analytics", needs="read", query=_READ, answers={200: AnalyticsView}, fails=(422, 503), asks_store=True
    )
    async def read(self, request: web.Request) -> web.Response:
        """Requests, errors, latency and replicas by step, and over the whole range; by default the last hour by minute.

        Rows of 10 s are kept for 2 hours, of a minute for 2 days, of an hour for 90 days. The answer's `from`, `to` and
        `step` are those that are served: whole steps, longer ones where finer rows are not kept any more.
        """
        service_id = self.access.service_id(request)
        now = time.time()
        wanted = requested(query.parameters(request, _READ), now)
        return answer(await self.analytics.read(service_id, wanted, int(now)))


def requested(given: Mapping[str, Any], now: float) -> Range:
    """What the parameters ask for. `now`: Unix seconds. Raises Problem 422."""
    step = given.get("step", _STEP)
    end = given.get("to")
    if end is None and "from" not in given:
        end = -(-int(now) // step) * step * _SECOND  # whole steps, the present one included
    elif end is None:
        end = int(now * _SECOND)
    start = given.get("from", end - HOUR * _SECOND)
    if start >= end:
        limit = "to" if "to" in given else "the present"
        raise unprocessable([FieldError("from", f"must be before {limit}")])
    first, last = start // _SECOND, -(-end // _SECOND)
    if points(first, last, step) > POINTS:
        least = max(LEAST_STEP, -(-(last - first) // POINTS))
        message = f"makes more than {POINTS} points: a step of {least} or more would do"
        raise unprocessable([FieldError("step", message)])
    return choose(first, last, step, int(now))
