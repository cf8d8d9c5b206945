"""What `wakegate top` knows: the services of some namespaces, and the newest figures of each.

Law kept here: a key has 600 calls a minute for everything that it does; looking on takes less than half of them. The
API's figures have steps of 10 s, so a service is asked again only after that, and later where there are too many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from wakegate.client import Client, Failed
from wakegate.commands.listing import PAGE, read_all
from wakegate.commands.naming import Target

STEP: Final = 10  # seconds, the finest that the API has
MOST: Final = 200  # services that are looked at
FIGURES: Final = (
    *("rate", "errors", "in_flight", "held", "p50_ms", "p95_ms", "p99_ms"),
    *("cold_starts", "cold_start_p95_ms"),
)

_ASKS: Final = 3.0  # services per second
_LISTS: Final = 1.0  # pages of a list per second
_BACK: Final = 3  # steps looked at: the newest is not complete

Key = tuple[str, str]


@dataclass(slots=True)
class Watch:
    """The services of `namespaces` as they were when last asked for; `total` counts all, looked at or not.

    `patience`: seconds that each call waits for an API that is gone or limits the rate.
    """

    client: Client
    namespaces: Sequence[str]
    patience: float = 60.0
    clock: Callable[[], float] = time.monotonic
    services: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    figures: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    asked: dict[Key, float] = field(default_factory=dict)
    total: int = 0
    _list_at: float = 0.0

    def look(self, seconds: float | None) -> None:
        """Read again what is due within a rate of calls that is fair for `seconds`; None: everything.

        Raises ClientError, Failed.
        """
        now = self.clock()
        if now >= self._list_at:
            self._list_at = now + self._list() / _LISTS
        for key in to_ask(self.services, self.asked, now)[: None if seconds is None else max(1, int(seconds * _ASKS))]:
            self.asked[key] = now
            if (found := self._newest(*key)) is not None:
                self.figures[key] = found

    def rows(self) -> list[dict[str, Any]]:
        """One per service, the busiest first: what is listed of it, and its figures (None: not known yet)."""
        rows = [_row(service, self.figures.get(key, {})) for key, service in self.services.items()]
        return sorted(rows, key=lambda row: (-(row["rate"] or 0), row["namespace"], row["name"]))

    def _list(self) -> int:
        """How many pages it took."""
        found: dict[Key, Mapping[str, Any]] = {}
        total = pages = 0
        for namespace in self.namespaces:
            body = read_all(self.client, namespace, most=MOST - len(found), patience=self.patience)
            found |= {(namespace, service["name"]): service for service in body["items"]}
            total += body["total"]
            pages += max(1, -(-len(body["items"]) // PAGE))
        self.services, self.total = found, total
        self.figures = {key: value for key, value in self.figures.items() if key in found}
        self.asked = {key: value for key, value in self.asked.items() if key in found}
        return pages

    def _newest(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The last complete step; None once the service is gone."""
        target, now = Target(self.client, namespace, name), datetime.now(UTC)
        begin = (now - timedelta(seconds=STEP * _BACK)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        query = {"from": begin, "step": STEP}
        try:
            series = target.read("analytics", query=query, patience=self.patience).body["series"]
        except Failed as failed:
            if failed.status != 404:
                raise
            return None
        return last_complete(series, now)


def to_ask(services: Mapping[Key, Mapping[str, Any]], asked: Mapping[Key, float], now: float) -> list[Key]:
    """Whose figures are due: first those that were read the longest ago, and of these who runs. Pure."""
    never = now - STEP
    due = [key for key in services if asked.get(key, never) <= never]
    return sorted(due, key=lambda key: (asked.get(key, 0.0), not any(services[key]["replicas"].values()), key))


def last_complete(series: Sequence[Mapping[str, Any]], now: datetime) -> Mapping[str, Any] | None:
    """The newest step that is over; the newest of all if none is. Pure."""
    over = [point for point in series if datetime.fromisoformat(point["time"]) + timedelta(seconds=STEP) <= now]
    return over[-1] if over else series[-1] if series else None


def _row(service: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    listed = {name: service[name] for name in ("namespace", "name", "status", "replicas")}
    return {**listed, **{name: figures.get(name) for name in FIGURES}}
