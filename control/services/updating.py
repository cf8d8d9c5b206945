"""What an update changes of a service, and whether it takes a new deployment. Pure (law 5).

Only what a replica is started with (`env`, `branch`, `image`, `port`, `health_check_path`, `cpu`, `memory`) starts one,
and only if it really is another; numbers of replicas, scaling and the domain restart nothing. What is judged is the
service as it would be, not the body.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from activator.placement import Needs
from activator.planning import Note
from control.claims.changes import Step
from control.contract.fields import ENV_COUNT, ENV_TOTAL, env_size
from control.contract.problem import FieldError, unprocessable
from control.contract.schemas import EnvBody, ScalingChange, UpdateBody
from control.services.deploying import begun, next_deployment, refuse_a_second, same_source
from control.services.placement import refusals
from control.services.records import REMOVAL_WAIT, Held, Write
from state.codec import encode
from state.kinds import Kind
from state.models import Offer, Scaling, Service
from state.secrets import sealed_size
from state.store import Change

Sealed = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Seals the values of an environment; one that is the same as now comes back sealed as it is."""

_RUN = ("branch", "image", "port", "health_check_path", "cpu", "memory")
_CAPACITY = ("min_replicas", "max_replicas", "target_gpu_utilization")


def updated(
    held: Held,
    body: UpdateBody,
    sealed: Sealed,
    offers: Collection[Offer],
    domains: Callable[[], Step] | None,
    new_id: str,
    now: int,
) -> Write | None:
    """`offers`: what live nodes can run, if `image` was given. `domains`: what becomes of them, if `custom_domain` was.
    None if nothing is different.

    Raises Problem 409, 422.
    """
    lacking = refusals(Needs.of(held.service), offers) if body.image is not None else []
    if errors := [*_together(held.service, body), *(error for error in lacking if error.field == "image")]:
        raise unprocessable(errors)
    before = held.service
    run = replace(before.run, **_given(body, _RUN))
    if body.env is not None:
        run = replace(run, env=sealed(body.env))
    after = replace(before, run=run, **_given(body, _CAPACITY))
    if body.scaling is not None:
        after = replace(after, scaling=_scaling(before.scaling, body.scaling))
    if "custom_domain" in body.model_fields_set:
        after = replace(after, custom_domain=body.custom_domain)
    return _with_domains(held, _write(held, after, new_id, now), None if domains is None else domains())


def with_env(held: Held, body: EnvBody, sealed: Sealed, new_id: str, now: int) -> Write | None:
    """The environment with these names set or removed. None if nothing is different. Raises Problem 409, 422."""
    before = held.service.run
    fresh = sealed({name: value for name, value in body.root.items() if value is not None})
    env = {name: value for name, value in before.env.items() if name not in body.root} | dict(fresh)
    if reason := _beyond(env):
        raise unprocessable([FieldError("env", reason)])
    return _write(held, replace(held.service, run=replace(before, env=env)), new_id, now)


def _beyond(env: Mapping[str, str]) -> str | None:
    """Why a sealed environment is too much in all, or None."""
    reasons = []
    if len(env) > ENV_COUNT:
        reasons.append(f"would have {len(env)} names; {ENV_COUNT} is the most")
    size = env_size({name: sealed_size(value) for name, value in env.items()})
    if size > ENV_TOTAL:
        reasons.append(f"would be {size} bytes; {ENV_TOTAL} is the most")
    return ", and ".join(reasons) or None


def _write(held: Held, after: Service, new_id: str, now: int) -> Write | None:
    before = held.service
    if after == before:
        return None
    if after.run != before.run:
        refuse_a_second(held)
        pinned = same_source(held.active, after.run)
        after = after if pinned is not None else replace(after, queued=False, pushed=None)
        write = begun(held, after, next_deployment(after, "update", new_id, now, pinned=pinned))
        write = replace(write, notes=[replace(note, reason=_told(before, after)) for note in write.notes])
    else:
        after = replace(after, updated_at=now)
        change = Change(Kind.SERVICE, after.id, encode(after), held.version(Kind.SERVICE, after.id))
        write = Write(replace(held, service=after), (change,), (Note("service.updated", _told(before, after)),))
    return write


def _with_domains(held: Held, write: Write | None, step: Step | None) -> Write | None:
    """Both in one commit: the service's record is in it whenever the set of its domains changes."""
    if step is None or not step.changes:
        return write
    if write is None:
        return Write(replace(held, domains=step.domains), step.changes, step.notes)
    return replace(
        write,
        held=replace(write.held, domains=step.domains),
        changes=(*write.changes, *step.changes),
        notes=(*write.notes, *step.notes),
        workers=REMOVAL_WAIT if step.removes else None,
    )


def _given(body: UpdateBody, fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: value for field in fields if (value := getattr(body, field)) is not None}


def _scaling(before: Scaling, change: ScalingChange) -> Scaling:
    """The members that were given; null is the default."""
    default = asdict(Scaling())
    given = {member: getattr(change, member) for member in change.model_fields_set}
    return replace(before, **{m: default[m] if value is None else value for m, value in given.items()})


def _together(service: Service, body: UpdateBody) -> list[FieldError]:
    """What is wrong with the service as it would be, each told at the field that was given."""
    errors = []
    if body.branch is not None and service.run.repo is None:
        errors.append(FieldError("branch", "only with repo"))
    if body.image is not None and service.run.image is None:
        errors.append(FieldError("image", "not with repo"))
    low = service.min_replicas if body.min_replicas is None else body.min_replicas
    high = service.max_replicas if body.max_replicas is None else body.max_replicas
    if low > high and body.min_replicas is not None:
        errors.append(FieldError("min_replicas", f"is more than max_replicas, {high}"))
    elif low > high:
        errors.append(FieldError("max_replicas", f"is less than min_replicas, {low}"))
    return errors


def _told(before: Service, after: Service) -> str:
    """What an update changed, for the event; of the environment, which is secret, that it did."""
    fields = (*_CAPACITY, "custom_domain")
    changed = [(field, getattr(before, field), getattr(after, field)) for field in fields]
    changed += [(field, getattr(before.run, field), getattr(after.run, field)) for field in _RUN]
    scaling = asdict(after.scaling)
    changed += [(f"scaling.{member}", old, scaling[member]) for member, old in asdict(before.scaling).items()]
    told = [f"{field} from {_shown(old)} to {_shown(new)}" for field, old, new in changed if old != new]
    return "changed: " + ", ".join([*told, *(["env"] if before.run.env != after.run.env else [])])


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
