"""Deployments that the API starts and ends: redeploy, rollback, cancel, and the one that an update brings.

Pure (law 5): from what is held of a service to what is to be written. A deployment in progress is never joined by a
second one (409); a push that comes meanwhile is remembered in the service, and the activator deploys the branch's head
once the one in progress has ended, unless that took the very commit that was pushed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from activator.lifecycle import DeploymentEvent, after_deployment
from activator.planning import Note
from control.contract.problem import FieldError, Problem, unprocessable
from control.services.records import Held, Write
from state.codec import encode
from state.kinds import Kind
from state.models import Deployment, DeploymentState, RunSpec, Service
from state.store import ABSENT, Change

_BECAUSE = {
    "update": "its configuration was changed",
    "redeploy": "it was asked for",
    "rollback": "back to an earlier deployment",
    "push": "its branch was pushed to",
}


def refuse_a_second(held: Held) -> None:
    """Raises Problem 409 while a deployment is in progress."""
    if (deployment := held.in_progress) is not None:
        raise Problem(
            409, f"Deployment {deployment.id} is in progress ({deployment.state}): wait for it, or cancel it first."
        )


def begun(held: Held, service: Service, deployment: Deployment) -> Write:
    """`service` with `deployment` as its newest; `service` may have been changed beside that."""
    after = replace(service, latest=deployment.id, updated_at=deployment.created_at)
    changes = (
        Change(Kind.DEPLOYMENT, deployment.id, encode(deployment), ABSENT),
        Change(Kind.SERVICE, after.id, encode(after), held.version(Kind.SERVICE, after.id)),
    )
    note = Note("deployment.created", _BECAUSE[deployment.cause], deployment=deployment.id)
    return Write(replace(held, service=after, latest=deployment), changes, (note,), started=deployment)


def next_deployment(
    service: Service, cause: str, new_id: str, now: int, *, pinned: Deployment | None = None
) -> Deployment:
    """One that runs the service as it is configured now; `pinned`: what that one was made of, not the newest."""
    return Deployment(
        id=new_id,
        service=service.id,
        state=DeploymentState.PENDING,
        run=service.run,
        created_at=now,
        cause=cause,
        commit=None if pinned is None else pinned.commit,
        digest=None if pinned is None else pinned.digest,
    )


def redeployed(held: Held, cause: str, new_id: str, now: int, *, pushed: str | None = None) -> Write | None:
    """With the branch's newest commit, or the image pulled again.

    `pushed`: the commit that a push told of. It is deployed after the deployment in progress, if there is one; if it is
    being deployed, or serves and nothing else is on its way, nothing is to be done. Raises Problem 409.
    """
    if pushed is not None and _runs(held.in_progress or held.active, pushed):
        return None
    if pushed is not None and held.in_progress is not None:
        return _queued(held, pushed)
    refuse_a_second(held)
    service = replace(held.service, queued=False, pushed=None)
    return begun(held, service, next_deployment(service, cause, new_id, now))


def _runs(deployment: Deployment | None, commit: str) -> bool:
    return deployment is not None and deployment.commit == commit


def _queued(held: Held, commit: str) -> Write | None:
    if held.service.queued and held.service.pushed == commit:
        return None
    after = replace(held.service, queued=True, pushed=commit)
    changes = (Change(Kind.SERVICE, after.id, encode(after), held.version(Kind.SERVICE, after.id)),)
    note = Note("deployment.queued", f"{commit} was pushed while a deployment is in progress")
    return Write(replace(held, service=after), changes, (note,))


def rolled_back(held: Held, to: Deployment, new_id: str, now: int) -> Write:
    """What `to` ran becomes what the service runs, as a new deployment of the same commit or digest.

    Raises Problem 409.
    """
    refuse_a_second(held)
    service = replace(held.service, run=to.run)
    return begun(held, service, next_deployment(service, "rollback", new_id, now, pinned=to))


def earlier(held: Held, deployments: Iterable[Deployment], wanted: str | None) -> Deployment:
    """The deployment to go back to: the wanted one, else the newest that another has taken the place of.

    Raises Problem 409 if there is none, 422 if the wanted one is not there or never served.
    """
    known = {d.id: d for d in deployments if d.service == held.service.id}
    if wanted is None:
        superseded = [d for d in known.values() if d.state is DeploymentState.SUPERSEDED]
        if not superseded:
            raise Problem(409, "There is no earlier deployment to go back to.")
        return max(superseded, key=lambda d: (d.created_at, d.id))
    found = known.get(wanted)
    if found is None:
        raise unprocessable([FieldError("deployment", "is not among the deployments that are kept of this service")])
    if not found.proven:
        raise unprocessable([FieldError("deployment", f"never served: it is {found.state}")])
    return found


def cancelled(held: Held, now: int) -> Write:
    """Its build and its replicas end; the active deployment serves on. Raises Problem 409."""
    deployment = held.in_progress
    if deployment is None:
        raise Problem(409, "No deployment is in progress.")
    state = after_deployment(deployment.state, DeploymentEvent.CANCEL)
    after = replace(deployment, state=state, reason="it was cancelled", finished_at=now)
    version = held.version(Kind.DEPLOYMENT, after.id)
    changes = (Change(Kind.DEPLOYMENT, after.id, encode(after), version),)
    note = Note("deployment.cancelled", "it was asked for", deployment=after.id)
    return Write(replace(held, latest=after), changes, (note,))


def same_source(active: Deployment | None, run: RunSpec) -> Deployment | None:
    """The active deployment, if what it was made of is what `run` names: then a change of settings keeps it."""
    if active is None or (active.run.repo, active.run.branch, active.run.image) != (run.repo, run.branch, run.image):
        return None
    return active
