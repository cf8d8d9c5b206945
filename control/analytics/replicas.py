"""How many replicas of each service are ready, as changes in time; and cold starts.

What is stored of the replicas says both, so that any leader can put it down. Who was ready when it was put down last is
stored beside the lines, in one commit with them: a new leader, or one whose commit got no answer, compares that with
what there is and goes on from there, so that nothing is told twice. A cold start is told when a service gets ready
replicas of which none was ready before, and none is still, and the start of one ended a wake; its phases with it, but
for the first byte, which comes later: a replica is put down under another mark once that is known. Pure: times are
arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from activator import coldstarts
from control.analytics.chunks import level_line, row_line
from control.ports import Objects
from state.buckets import bucket
from state.codec import DecodeError
from state.counts import Counts, slot_of
from state.kinds import Kind
from state.models import Replica, ReplicaState, StartPhases

_PENDING: Final = 100_000  # changes that wait to be put down
_DELETED: Final = 1000  # services that are remembered too long
_NOBODY: Final[frozenset[str]] = frozenset()
_ANSWERED: Final = "!"  # behind the id of a replica whose first byte is known


class ReadyReplicas:
    """The marks of the ready replicas by service: their ids, with a sign behind those whose first byte is known.

    `changed` is told of everything that the mirror applies.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._marks: dict[str, tuple[str, str]] = {}  # service and mark, by ready replica
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
            before, after = self._marks.get(replica), self._mark(replica)
            if before == after:
                continue
            if before is not None:
                service, mark = self._marks.pop(replica)
                self._set(service, self(service) - {mark})
                services.add(service)
            if after is not None:
                service, mark = self._marks[replica] = after
                self._set(service, self(service) | {mark})
                services.add(service)
        return services

    def cold_start(self, replica_id: str) -> StartPhases | None:
        """The phases of what ended a wake; None: it did not, or is not known any more."""
        replica = self._replica(replica_id)
        return replica.phases if replica is not None and replica.cold else None

    def _mark(self, replica_id: str) -> tuple[str, str] | None:
        replica = self._replica(replica_id)
        if replica is None or replica.state is not ReplicaState.READY:
            return None
        return replica.service, replica_id if replica.phases.first_byte is None else replica_id + _ANSWERED

    def _replica(self, replica_id: str) -> Replica | None:
        try:
            return self._objects.decoded(Kind.REPLICA, replica_id, Replica)
        except DecodeError:
            return None

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
        self._answered: dict[str, frozenset[str]] = {}  # whose first byte was put down
        self._lines: list[tuple[str, bytes]] = []
        self._changed: dict[str, frozenset[str]] = {}

    def begin(self, stored: Mapping[str, frozenset[str]], looked_at: float, now: float) -> None:
        """`stored`: who was ready when that was looked at last. Unix seconds.

        Whoever was and is not any more has gone at that moment as far as we know: the node may have been down since.
        """
        self.end()
        self._known = dict(stored)
        self._last.update({service: _ids(replicas) for service, replicas in stored.items()})
        self._answered = {service: told for service, marks in stored.items() if (told := _answered(marks))}
        for service, replicas in stored.items():
            if not _ids(replicas) & _ids(self._ready(service)):
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
            self._answered = {service: told for service, told in self._answered.items() if service in services}

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
        if (counts := self._starts(service, before, ready)) is not None:
            self._lines.append((service, row_line(slot_of(now), counts)))
        if ready:
            self._last[service] = _ids(ready)

    def _starts(self, service: str, before: frozenset[str], ready: frozenset[str]) -> Counts | None:
        """What is new of cold starts: one that is over, a first byte, or both."""
        last, counts = self._last.get(service, _NOBODY), None
        if ready and not _ids(ready) & last:
            cold = next(filter(None, map(self._ready.cold_start, sorted(_ids(ready)))), None)
            counts = None if cold is None else _counted(cold)
        told = self._answered.pop(service, _NOBODY)
        for replica in _ids(ready - before) - told:
            phases = self._ready.cold_start(replica)
            if phases is not None and phases.first_byte is not None:
                counts = counts or Counts()
                counts.starts["first_byte"] = {bucket(phases.first_byte / 1e6): 1}
        told = frozenset(filter(self._ready.cold_start, told | _answered(ready)))  # one that is gone can't come back
        if told:
            self._answered[service] = told
        return counts


def _ids(marks: frozenset[str]) -> frozenset[str]:
    return frozenset(mark.removesuffix(_ANSWERED) for mark in marks)


def _answered(marks: frozenset[str]) -> frozenset[str]:
    return _ids(frozenset(mark for mark in marks if mark.endswith(_ANSWERED)))


def _counted(phases: StartPhases) -> Counts:
    """A cold start, with its phases but for the first byte; "" is all of them."""
    known = replace(phases, first_byte=None)
    taken = {"": coldstarts.total(known), **coldstarts.seconds(known)}
    return Counts(cold_starts=1, starts={phase: {bucket(seconds): 1} for phase, seconds in taken.items()})
