"""How many replicas of each service are ready, as changes in time; and cold starts.

What is stored of the replicas says both, so that any leader can put it down. Who was ready when it was put down last is
stored beside the lines, in one commit with them: a new leader, or one whose commit got no answer, compares that with
what there is and goes on from there, so that nothing is told twice. A cold start is told when a service gets ready
replicas of which none was ready before, and none is still. Pure: times are arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from control.analytics.chunks import level_line, row_line
from control.ports import Objects
from state.codec import DecodeError
from state.counts import Counts, slot_of
from state.kinds import Kind
from state.models import Replica, ReplicaState

_PENDING: Final = 100_000  # changes that wait to be put down
_DELETED: Final = 1000  # services that are remembered too long
_NOBODY: Final[frozenset[str]] = frozenset()


class ReadyReplicas:
    """The ids of the ready replicas by service. `changed` is told of everything that the mirror applies."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._service: dict[str, str] = {}  # by ready replica
        self._ready: dict[str, frozenset[str]] = {}

    def __call__(self, service: str) -> frozenset[str]:
        return self._ready.get(service, _NOBODY)

    def services(self) -> set[str]:
        """Those that have any."""
        return set(self._ready)

    def changed(self, touched: Sequence[tuple[Kind, str]]) -> set[str]:
        """The services that have others than before."""
        services = set()
        for kind, replica in touched:
            if kind is not Kind.REPLICA:
                continue
            before, after = self._service.get(replica), self._ready_for(replica)
            if before == after:
                continue
            if before is not None:
                del self._service[replica]
                self._set(before, self(before) - {replica})
                services.add(before)
            if after is not None:
                self._service[replica] = after
                self._set(after, self(after) | {replica})
                services.add(after)
        return services

    def _ready_for(self, replica_id: str) -> str | None:
        try:
            replica = self._objects.decoded(Kind.REPLICA, replica_id, Replica)
        except DecodeError:
            return None
        return replica.service if replica is not None and replica.state is ReplicaState.READY else None

    def _set(self, service: str, replicas: frozenset[str]) -> None:
        if replicas:
            self._ready[service] = replicas
        else:
            self._ready.pop(service, None)


class ReplicaLevels:
    """`begin` with each tenure, then `changed`; what it puts down is taken once a second."""

    def __init__(self, ready: ReadyReplicas) -> None:
        self.dropped = 0  # changes that had no room
        self._ready = ready
        self._known: dict[str, frozenset[str]] | None = None  # as put down last; None: not leading
        self._last: dict[str, frozenset[str]] = {}  # who was ready when somebody last was, as far as we led
        self._lines: list[tuple[str, bytes]] = []
        self._changed: dict[str, frozenset[str]] = {}

    def begin(self, stored: Mapping[str, frozenset[str]], looked_at: float, now: float) -> None:
        """`stored`: who was ready when that was looked at last. Unix seconds.

        Whoever was and is not any more has gone at that moment as far as we know: the node may have been down since.
        """
        self.end()
        self._known = dict(stored)
        self._last.update(stored)
        for service, replicas in stored.items():
            if not replicas & self._ready(service):
                self._put(service, _NOBODY, min(looked_at, now))
        self.changed({*self._ready.services(), *stored}, now)

    def end(self) -> None:
        """Somebody else leads, or it is not known what was stored."""
        self._known = None
        self._lines, self._changed = [], {}

    def changed(self, services: Iterable[str], now: float) -> None:
        """They have other ready replicas than before."""
        if self._known is None:
            return
        for service in services:
            ready = self._ready(service)
            if ready != self._known.get(service, _NOBODY):
                self._put(service, ready, now)

    def keep(self, services: Collection[str]) -> None:
        """There are no others any more."""
        if len(self._last) > len(services) + _DELETED:
            self._last = {service: ready for service, ready in self._last.items() if service in services}

    def take(self) -> tuple[dict[str, list[bytes]], dict[str, frozenset[str]]]:
        """What changed since it was last asked, by service: lines, and who is ready."""
        lines: dict[str, list[bytes]] = {}
        for service, line in self._lines:
            lines.setdefault(service, []).append(line)
        changed, self._lines, self._changed = self._changed, [], {}
        return lines, changed

    def _put(self, service: str, ready: frozenset[str], now: float) -> None:
        if self._known is None or len(self._lines) >= _PENDING:
            self.dropped += 1
            return
        before = self._known.pop(service, _NOBODY)
        if ready:
            self._known[service] = ready
        self._changed[service] = ready
        if len(before) != len(ready):
            self._lines.append((service, level_line(round(now * 1000), len(ready))))
        if ready and not ready & self._last.get(service, _NOBODY):
            self._lines.append((service, row_line(slot_of(now), Counts(cold_starts=1))))
        if ready:
            self._last[service] = ready
