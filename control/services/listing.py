"""The services of each namespace in the order of the list (SPEC section 2, List), and those of each status.

No request walks over all services of a namespace. Places are kept by the changes; a status
is looked at only when a list by status asks for it, and again only after a part of that service has changed.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

K = TypeVar("K")

_SLICE: Final = 200  # statuses looked at between two turns of the loop: some 10 ms

Place = tuple[int, str]
"""`created_at` and the id."""


class Listing:
    """`status_of` says a service's status now, from memory; None if it can't be told."""

    def __init__(self, status_of: Callable[[str], str | None]) -> None:
        self._status_of = status_of
        self._places: dict[str, tuple[str, Place]] = {}  # by service: its namespace and place
        self._all: defaultdict[str, list[Place]] = defaultdict(list)  # by namespace, sorted
        self._with: defaultdict[tuple[str, str], list[Place]] = defaultdict(list)  # by namespace and status, sorted
        self._status: dict[str, str] = {}  # by service: the one that it is listed with
        self._stirred: defaultdict[str, set[str]] = defaultdict(set)  # by namespace: services to be looked at

    def put(self, namespace: str, service_id: str, created_at: int) -> None:
        """There is such a service, new or changed."""
        if service_id not in self._places:
            self._places[service_id] = namespace, (created_at, service_id)
            bisect.insort(self._all[namespace], (created_at, service_id))
        self.stir(service_id)

    def drop(self, service_id: str) -> None:
        """It is listed no more."""
        if known := self._places.pop(service_id, None):
            namespace, place = known
            self._unlist(namespace, place)
            _remove(self._all, namespace, place)
            if namespace in self._stirred:
                self._stirred[namespace].discard(service_id)

    def stir(self, service_id: str) -> None:
        """A part of it has changed, and with it perhaps its status."""
        if known := self._places.get(service_id):
            self._stirred[known[0]].add(service_id)

    def stir_all(self) -> None:
        """What the status of every service depends on has changed."""
        for namespace, places in self._all.items():
            self._stirred[namespace].update(service_id for _, service_id in places)

    def namespaces(self) -> set[str]:
        """Those with a service."""
        return set(self._all)

    def count(self, namespace: str) -> int:
        return len(self._all.get(namespace, ()))

    def inhabited(self, namespace: str) -> bool:
        """Whether it has a service."""
        return namespace in self._all

    async def page(self, namespace: str, status: str | None, start: int, stop: int) -> tuple[list[str], int]:
        """The services at these places among those of a namespace, or among those with a status; and how many it has.

        Statuses that are not known are looked at in slices, with turns of the loop between: after a start all are.
        """
        if status is None:
            found: Sequence[Place] = self._all.get(namespace, ())
        else:
            await self._settle(namespace)
            found = self._with.get((namespace, status), ())
        return [service_id for _, service_id in found[start:stop]], len(found)

    async def _settle(self, namespace: str) -> None:
        while stirred := self._stirred.get(namespace):
            for _ in range(min(_SLICE, len(stirred))):
                self._look(namespace, stirred.pop())
            if not stirred:
                del self._stirred[namespace]
                return
            await asyncio.sleep(0)

    def _look(self, namespace: str, service_id: str) -> None:
        status = self._status_of(service_id)
        if status == self._status.get(service_id):
            return
        place = self._places[service_id][1]
        self._unlist(namespace, place)
        if status is not None:
            self._status[service_id] = status
            bisect.insort(self._with[namespace, status], place)

    def _unlist(self, namespace: str, place: Place) -> None:
        if status := self._status.pop(place[1], None):
            _remove(self._with, (namespace, status), place)


def _remove(lists: dict[K, list[Place]], key: K, place: Place) -> None:
    """Take a place out of a sorted list, and the list away with its last one."""
    places = lists[key]
    del places[bisect.bisect_left(places, place)]
    if not places:
        del lists[key]
