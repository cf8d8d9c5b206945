"""Mistakes that could be made in the rules, planted one at a time: what finds none of them proves nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import control_twin
import pytest
import scenarios
import sleep_world
import worker_twin
from sleep_parts import Scenario

import activator.demand
import activator.outlooks
import activator.planning
from activator import backends
from activator.acks import Acknowledgements, Roster
from activator.census import Census, Count
from activator.demand import Demand, Load, Report
from activator.draft import Draft
from activator.lifecycle import ReplicaEvent
from gateway.holding import Holding
from gateway.service import Service
from state.models import Backend, Replica, ReplicaState


@dataclass(frozen=True)
class Mutation:
    """`plant` it by patches; `told`: part of the law that is broken then, or which states lead nowhere."""

    name: str
    scenario: Scenario
    told: str
    plant: Callable[[pytest.MonkeyPatch], None]


def _drained_by_some(patch: pytest.MonkeyPatch) -> None:
    """One worker's word is taken for that of all."""

    def drained(self: Demand, service: str, replica: str, revision: int, registered: Any, run_id: str) -> bool:
        loads = [r.services.get(service, Load()) for r in self._reports.values() if r.revision >= revision]
        return bool(loads) and not all(load.replicas.get(replica) for load in loads)

    patch.setattr(Demand, "drained", drained)


def _drained_whatever_revision(patch: pytest.MonkeyPatch) -> None:
    """Nothing in flight, by a report from before the replica was to leave."""
    patch.setattr(activator.demand, "_applied", lambda report, revision, run_id: report.run_id == run_id)


def _drained_in_another_run(patch: pytest.MonkeyPatch) -> None:
    """Revisions of two histories are compared."""
    patch.setattr(activator.demand, "_applied", lambda report, revision, run_id: report.revision >= revision)
    patch.setattr(Roster, "covers", lambda self, revision, run_id: self.as_of >= revision)


def _drained_while_in_flight(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement is enough."""

    def drained(self: Demand, service: str, replica: str, revision: int, registered: Any, run_id: str) -> bool:
        return not self.missing(revision, registered, run_id)

    patch.setattr(Demand, "drained", drained)


def _roster_older(patch: pytest.MonkeyPatch) -> None:
    """Who was registered before the commit is asked, not who is after it."""
    patch.setattr(Roster, "covers", lambda self, revision, run_id: self.run_id == run_id)


def _lost_registrations(patch: pytest.MonkeyPatch) -> None:
    """What the store says at this moment is believed."""

    def read(self: Census, known: Any, run_id: str, registered: Any) -> Count:
        return Count(frozenset(registered), frozenset(), frozenset())

    patch.setattr(Census, "read", read)


def _no_call_back(patch: pytest.MonkeyPatch) -> None:
    """A draining replica is stopped, wanted or not, though somebody was let go of it in flight."""
    before = activator.planning._stop_the_drained

    def stop(draft: Draft) -> None:
        for replica in draft.view.replicas.values():
            if replica.state is ReplicaState.DRAINING:
                draft.move(replica, ReplicaEvent.STOP)
        before(draft)

    patch.setattr(activator.planning, "_stop_the_drained", stop)


def _straight_to_stop(patch: pytest.MonkeyPatch) -> None:
    """A replica in rotation is stopped without draining."""
    before = activator.planning._release

    def release(draft: Draft, replica: Replica, told: str, reason: str | None) -> None:
        before(draft, replica, told, reason)
        after = draft.view.replicas[replica.id]
        draft.view = draft.view.put(replace(after, state=ReplicaState.STOPPING))

    patch.setattr(activator.planning, "_release", release)


def _draining_takes_requests(patch: pytest.MonkeyPatch) -> None:
    """Workers are told of a draining replica as of a ready one."""
    in_rotation = (ReplicaState.READY, ReplicaState.DRAINING)

    def takes(service: Any, current: Any, replica: Replica) -> bool:
        return replica.state in in_rotation and replica.deployment == current.id

    patch.setattr(backends, "_takes_requests", takes)


def _held_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    """Only a wake starts a replica: one that is lost strands whoever is held."""
    patch.setattr(Load, "busy", property(lambda self: self.in_flight > 0))


def _settled_at_once(patch: pytest.MonkeyPatch) -> None:
    """A new leader stops what it has heard of nobody."""
    patch.setattr(activator.outlooks.Outlooks, "_settled", lambda self, view: True)
    patch.setattr(Demand, "_acknowledged", _unless_busy)


def _unless_busy(self: Demand, worker: str, revision: int, run_id: str) -> bool:
    report = self._reports.get(worker)
    if report is None:
        self._reports[worker] = Report(worker, 0, run_id, revision, {})
    return report is None or (report.run_id == run_id and report.revision >= revision)


def _released_by_nobody(patch: pytest.MonkeyPatch) -> None:
    """Who is held hears nothing of a replica that became ready."""
    patch.setattr(Holding, "settle", lambda self, service, now: None)
    patch.setattr(Holding, "tend", lambda self, now: None)


def _leaving_ones_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A worker forgets what is in flight at a replica that is no endpoint any more."""
    before = Service.apply

    def apply(self: Service, backend: Backend, *rest: Any, **how: Any) -> Any:
        left = before(self, backend, *rest, **how)
        listed = {endpoint.id for endpoint in backend.endpoints if endpoint.ready}
        for name in [name for name in self.replicas if name not in listed]:
            self.in_flight -= self.replicas.pop(name).in_flight
        return left

    patch.setattr(Service, "apply", apply)


def _address_freed_early(patch: pytest.MonkeyPatch) -> None:
    """An address is given to others before every worker knows that it is free."""

    async def all_have(self: Acknowledgements, revision: int, key: object) -> bool:
        return True

    patch.setattr(Acknowledgements, "_all_have", all_have)


def _unknown_stopped_at_once(patch: pytest.MonkeyPatch) -> None:
    """What the store has forgotten is stopped whoever uses it."""
    patch.setattr(Demand, "in_flight", lambda self, replica: 0)


def _fences_ignored(patch: pytest.MonkeyPatch) -> None:
    """A write of a control that is no more is taken, whatever has been written since."""

    def committed(world: Any, write: Any, token: int, base: Any) -> Any:
        return world._replace(store=control_twin.made(world.store, write))

    patch.setattr(sleep_world, "committed", committed)


MUTATIONS = (
    Mutation("drained by some", scenarios.STOPPED_WORKER, "may send", _drained_by_some),
    Mutation("drained whatever the revision", scenarios.CALM, "may send", _drained_whatever_revision),
    Mutation("drained in another run", scenarios.FALLEN_STORE, "may send", _drained_in_another_run),
    Mutation("drained while in flight", scenarios.OWNER, "in flight", _drained_while_in_flight),
    Mutation("a roster from before the commit", scenarios.COMING_AND_GOING, "may send", _roster_older),
    Mutation("lost registrations are lost", scenarios.FALLEN_REGISTRATION, "may send", _lost_registrations),
    Mutation("a draining one is stopped", scenarios.CALM, "may send", _no_call_back),
    Mutation("stopped without draining", scenarios.CALM, "may send", _straight_to_stop),
    Mutation("draining ones take requests", scenarios.CALM, "may send", _draining_takes_requests),
    Mutation("only wakes wake", scenarios.REPORTS_LATE, "waits for ever", _held_wakes_nobody),
    Mutation("a new leader stops at once", scenarios.DYING_CONTROL, "may send", _settled_at_once),
    Mutation("nobody is released", scenarios.CALM, "waits for ever", _released_by_nobody),
    Mutation("what leaves is forgotten", scenarios.CALM, "books", _leaving_ones_forgotten),
    Mutation("an address is free too early", scenarios.CRASHING, "address", _address_freed_early),
    Mutation("what is unknown is stopped", scenarios.FALLEN_STORE, "in flight", _unknown_stopped_at_once),
    Mutation("no fence", scenarios.DYING_CONTROL, "may send", _fences_ignored),
)


@contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """Nothing that was decided by other rules is remembered."""
    with pytest.MonkeyPatch.context() as patch:
        _forget()
        mutation.plant(patch)
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    for module in (control_twin, worker_twin):
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
