"""All that is stored of one service at one revision, and the commit that leads from one such view to another.

Laws kept here: 6 (every change is compare-and-set) and 3 (the backend, which workers follow, is rewritten in the same
commit as the replicas that it is derived from). The backend's version is what orders the writers of a service: whoever
changes its replicas, deployments or scale expects the backend that he looked at, so that two of them can't both act
on the same look, and no replica is ever started twice for one reason.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from activator import backends
from state.codec import DecodeError, encode
from state.kinds import Kind
from state.mirror import Mirror
from state.models import Backend, Deployment, Node, Replica, ReplicaState, Scale, Service
from state.store import ABSENT, Change

KINDS: Final = (Kind.SERVICE, Kind.DEPLOYMENT, Kind.REPLICA, Kind.SCALE, Kind.BACKEND, Kind.NODE)
"""What the control side of activation reads from the mirror."""

log = logging.getLogger(__name__)

M = TypeVar("M", Deployment, Replica)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """A service with its deployments and replicas by id. `versions` are those of the records that it was read from."""

    service: Service
    deployments: Mapping[str, Deployment]
    replicas: Mapping[str, Replica]
    scale: Scale
    backend: Backend | None = None
    versions: Mapping[tuple[Kind, str], int] = field(default_factory=dict, repr=False, compare=False)

    def put(self, *values: Replica | Deployment | Scale | Service) -> View:
        """The view with these in place of what had their id."""
        view = self
        for value in values:
            match value:
                case Replica():
                    view = replace(view, replicas={**view.replicas, value.id: value})
                case Deployment():
                    view = replace(view, deployments={**view.deployments, value.id: value})
                case Scale():
                    view = replace(view, scale=value)
                case Service():
                    view = replace(view, service=value)
        return view

    def without(self, replica_id: str) -> View:
        return replace(self, replicas={i: r for i, r in self.replicas.items() if i != replica_id})

    def without_deployments(self, ids: Iterable[str]) -> View:
        gone = set(ids)
        return replace(self, deployments={i: d for i, d in self.deployments.items() if i not in gone})

    def of(self, deployment: Deployment | None) -> list[Replica]:
        """A deployment's replicas, oldest first."""
        if deployment is None:
            return []
        return sorted((r for r in self.replicas.values() if r.deployment == deployment.id), key=lambda r: r.id)

    @property
    def serving(self) -> Deployment | None:
        return backends.serving(self.service, self.deployments)

    @property
    def latest(self) -> Deployment | None:
        return self.deployments.get(self.service.latest)

    def derived(self) -> Backend:
        return backends.derive(self.service, self.deployments, self.replicas.values(), self.scale)

    def version(self, kind: Kind, object_id: str) -> int:
        return self.versions.get((kind, object_id), ABSENT)


def changes(before: View, after: View | None, *, ordered: bool = True) -> list[Change]:
    """The commit that turns `before` into `after` (None = nothing is left of the service); empty if they are the same.

    A backend that no longer says what is stored counts as a difference. `ordered=False` is for steps that nobody else
    takes (an agent's with its own replica) and that change nothing for others: the backend is then left alone if it
    would stay the same, so that workers have nothing to apply.
    """
    if after is None:
        return [Change(kind, object_id, None, version) for (kind, object_id), version in before.versions.items()]
    found = [*_differences(before, after)]
    backend = after.derived()
    if (found and ordered) or backend != before.backend:
        service = before.service.id
        found.append(Change(Kind.BACKEND, service, encode(backend), before.version(Kind.BACKEND, service)))
    return found


def _differences(before: View, after: View) -> Iterator[Change]:
    for kind, old, new in (
        (Kind.SERVICE, {before.service.id: before.service}, {after.service.id: after.service}),
        (Kind.SCALE, {before.service.id: before.scale}, {after.service.id: after.scale}),
        (Kind.DEPLOYMENT, before.deployments, after.deployments),
        (Kind.REPLICA, before.replicas, after.replicas),
    ):
        yield from _difference(before, kind, old, new)


def _difference(before: View, kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for object_id, value in new.items():
        if old.get(object_id) != value:
            yield Change(kind, object_id, encode(value), before.version(kind, object_id))
    for object_id in old.keys() - new.keys():
        yield Change(kind, object_id, None, before.version(kind, object_id))


class Catalog:
    """The mirror's objects by service. `changed` keeps it; it is told of everything that the mirror applies.

    What can't be read (of a newer version, or damaged) counts as absent and is logged once per version: one object
    must not stop the services of all others.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._members: dict[Kind, dict[str, set[str]]] = {Kind.DEPLOYMENT: {}, Kind.REPLICA: {}}
        self._owners: dict[tuple[Kind, str], str] = {}
        self._unreadable: dict[tuple[Kind, str], int] = {}
        self._where: dict[str, str] = {}  # by replica: its node
        self.per_node: Counter[str] = Counter()
        """How many replicas each node has."""

    def changed(self, touched: Iterable[tuple[Kind, str]]) -> tuple[set[str], set[str]]:
        """The services and the replicas that these changes are about."""
        services: set[str] = set()
        replicas: set[str] = set()
        for kind, object_id in touched:
            if self._unreadable and self.mirror.get(kind, object_id) is None:
                self._unreadable.pop((kind, object_id), None)
            if kind in self._members:
                if kind is Kind.REPLICA:
                    replicas.add(object_id)
                    self._locate(object_id)
                owner = self._index(kind, object_id)
                if owner is not None:
                    services.add(owner)
            elif kind in KINDS and kind is not Kind.NODE:
                services.add(object_id)
        return services, replicas

    def service(self, service_id: str) -> Service | None:
        return self._decoded(Kind.SERVICE, service_id, Service)

    def deployment(self, deployment_id: str) -> Deployment | None:
        return self._decoded(Kind.DEPLOYMENT, deployment_id, Deployment)

    def replica(self, replica_id: str) -> Replica | None:
        return self._decoded(Kind.REPLICA, replica_id, Replica)

    def nodes(self) -> dict[str, Node]:
        """Those that have said what they offer, also lost ones."""
        found = ((node_id, self._decoded(Kind.NODE, node_id, Node)) for node_id in self.mirror.records(Kind.NODE))
        return {node_id: node for node_id, node in found if node is not None}

    def unreadable(self, kind: Kind) -> set[str]:
        """The ids of those that are stored and can't be read."""
        return {
            i
            for (of_kind, i), version in self._unreadable.items()
            if of_kind is kind and (record := self.mirror.get(kind, i)) is not None and record.version == version
        }

    def replica_ids(self, service_id: str) -> frozenset[str]:
        return frozenset(self._members[Kind.REPLICA].get(service_id, ()))

    def deployments_of(self, service_id: str) -> list[Deployment]:
        return list(self._all(Kind.DEPLOYMENT, service_id, Deployment).values())

    def replicas(self) -> Iterator[Replica]:
        for replica_id in self.mirror.records(Kind.REPLICA):
            replica = self.replica(replica_id)
            if replica is not None:
                yield replica

    def deployments(self) -> Iterator[Deployment]:
        for deployment_id in self.mirror.records(Kind.DEPLOYMENT):
            deployment = self.deployment(deployment_id)
            if deployment is not None:
                yield deployment

    def view(self, service_id: str) -> View | None:
        """None: there is no such service, or the copy is not consistent at this moment (a change will come).

        While the mirror reads everything anew it may hold parts of a later revision; the backend tells, since it
        changes with every part that matters.
        """
        service = self.service(service_id)
        record = self.mirror.get(Kind.BACKEND, service_id)
        if service is None or (record is not None and record.version > self.mirror.revision):
            return None
        versions: dict[tuple[Kind, str], int] = {}
        for kind in (Kind.SERVICE, Kind.SCALE, Kind.BACKEND):
            self._note(versions, kind, (service_id,))
        for kind, members in self._members.items():
            self._note(versions, kind, members.get(service_id, ()))
        return View(
            service,
            self._all(Kind.DEPLOYMENT, service_id, Deployment),
            self._all(Kind.REPLICA, service_id, Replica),
            self._decoded(Kind.SCALE, service_id, Scale) or Scale(),
            self._decoded(Kind.BACKEND, service_id, Backend),
            versions,
        )

    def counts(self) -> dict[ReplicaState, int]:
        """Replicas by state, of all services."""
        counts = dict.fromkeys(ReplicaState, 0)
        for replica in self.replicas():
            counts[replica.state] += 1
        return counts

    def _locate(self, replica_id: str) -> None:
        replica = self.replica(replica_id)
        before = self._where.pop(replica_id, None)
        if before is not None:
            self.per_node[before] -= 1
        if replica is not None:
            self._where[replica_id] = replica.node
            self.per_node[replica.node] += 1

    def _index(self, kind: Kind, object_id: str) -> str | None:
        key = (kind, object_id)
        found = self._owner(kind, object_id)
        if found is None:
            owner = self._owners.pop(key, None)
            if owner is not None:
                members = self._members[kind][owner]
                members.discard(object_id)
                if not members:
                    del self._members[kind][owner]
            return owner
        if key not in self._owners:
            self._owners[key] = found
            self._members[kind].setdefault(found, set()).add(object_id)
        return found

    def _owner(self, kind: Kind, object_id: str) -> str | None:
        """The service of a replica or deployment, also of an unreadable one: its removal takes it along."""
        model: type[Replica] | type[Deployment] = Replica if kind is Kind.REPLICA else Deployment
        found = self._decoded(kind, object_id, model)
        if found is not None:
            return found.service
        record = self.mirror.get(kind, object_id)
        if record is None:
            return None
        try:
            return str(json.loads(record.value)["service"])
        except (ValueError, TypeError, KeyError):
            return self._owners.get((kind, object_id))

    def _decoded(self, kind: Kind, object_id: str, model: type[T]) -> T | None:
        try:
            return self.mirror.decoded(kind, object_id, model)
        except DecodeError as error:
            record = self.mirror.get(kind, object_id)
            version = 0 if record is None else record.version
            if self._unreadable.get((kind, object_id)) != version:
                self._unreadable[kind, object_id] = version
                log.error("the %s %s can't be read and counts as absent: %s", kind, object_id, error)
            return None

    def _all(self, kind: Kind, service_id: str, model: type[M]) -> dict[str, M]:
        found = ((i, self._decoded(kind, i, model)) for i in sorted(self._members[kind].get(service_id, ())))
        return {i: value for i, value in found if value is not None}

    def _note(self, versions: dict[tuple[Kind, str], int], kind: Kind, ids: Iterable[str]) -> None:
        for object_id in ids:
            record = self.mirror.get(kind, object_id)
            if record is not None:
                versions[kind, object_id] = record.version
