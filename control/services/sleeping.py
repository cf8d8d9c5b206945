"""Putting a service to sleep and waking it, at its owner's word. Pure (law 5).

Only what is wanted is written; the activator drains and starts (laws 3 and 4). What is in flight is finished. Asleep at
its owner's word, only a request that waits wakes it: what was in flight when he spoke does not.
"""

from __future__ import annotations

from dataclasses import replace

from activator.planning import Note
from control.contract.problem import Problem
from control.services.deploying import refuse_a_second
from control.services.records import Held, Write
from state.codec import encode
from state.kinds import Kind
from state.models import Scale
from state.store import Change


def put_to_sleep(held: Held) -> Write | None:
    """Raises Problem 409 if it may not sleep, or has nothing that could wake."""
    refuse_a_second(held)
    if held.service.min_replicas > 0:
        raise Problem(409, f"min_replicas is {held.service.min_replicas}: only a service with 0 sleeps.")
    _refuse_without_active(held)
    if held.scale.asleep and held.scale.desired == 0:
        return None
    scale = replace(held.scale, desired=0, asleep=True, failures=0, reason=None, woken_at=None)
    return _write(held, scale, Note("service.slept", "its owner put it to sleep"))


def woken(held: Held, now: int) -> Write | None:
    """As a request would: it is activity, too, so that the idle time-out begins anew. Raises Problem 409 if there is
    nothing to wake."""
    if held.in_progress is None:
        _refuse_without_active(held)
    if held.active is None or (held.scale.desired > 0 and not held.scale.asleep):
        return None  # the first deployment starts anyway
    desired = max(1, held.service.min_replicas)
    scale = replace(held.scale, desired=desired, asleep=False, active_at=now, woken_at=now)
    return _write(held, scale, Note("service.woke", "its owner woke it"))


def _refuse_without_active(held: Held) -> None:
    if held.active is None:
        raise Problem(409, "No deployment of it was ever active: there is nothing that could wake.")


def _write(held: Held, scale: Scale, note: Note) -> Write:
    service = held.service.id
    change = Change(Kind.SCALE, service, encode(scale), held.version(Kind.SCALE, service))
    return Write(replace(held, scale=scale), (change,), (note,))
