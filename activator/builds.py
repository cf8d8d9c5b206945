"""Builds of this node: a deployment on its way becomes an artifact, or fails with the builder's reason.

Laws kept here: 4 (a build that a killed control left behind is started again; the driver finds what is built already)
and 7 (only so many at once).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from activator import verdicts
from activator.drivers import Artifact, BuildFailed, BuildJob, BuildLog, Driver, StartFailed
from activator.journal import Journal
from activator.ledger import Ledger
from activator.node import Environment
from activator.planning import Note
from activator.views import View
from state.ids import now_us
from state.models import Deployment, DeploymentState, Service
from state.secret_key import SecretError

log = logging.getLogger(__name__)

BuildLogs = Callable[[str, str], BuildLog]
"""The build log of (service id, deployment id)."""

BUILDABLE = (DeploymentState.PENDING, DeploymentState.BUILDING)


@dataclass(slots=True)
class Builds:
    """`run` builds one deployment to its end."""

    driver: Driver
    ledger: Ledger
    journal: Journal
    environment: Environment
    logs: BuildLogs
    places: asyncio.Semaphore

    async def run(self, service: Service, deployment_id: str) -> None:
        if self.places.locked():
            note = Note("deployment.waiting", "other builds of this node come first", deployment=deployment_id)
            self.journal.tell(service.id, (note,))
        async with self.places:
            view = await self.ledger.change(service.id, lambda v: verdicts.building(v, deployment_id), ordered=False)
            deployment = None if view is None else view.deployments.get(deployment_id)
            if deployment is None or deployment.state is not DeploymentState.BUILDING:
                return
            self._tell(deployment, "deployment.building", _source(deployment))
            try:
                artifact = await self._build(service, deployment)
            except BuildFailed as error:
                await self._failed(deployment, error)
            else:
                await self._built(deployment, artifact)

    async def again(self, service: Service, deployment: Deployment) -> str:
        """The reference of an artifact that this node lost or never had. Raises StartFailed."""
        try:
            return (await self._build(service, deployment)).ref
        except BuildFailed as error:
            raise StartFailed(error.reason.public, error.reason.detail) from error

    async def _build(self, service: Service, deployment: Deployment) -> Artifact:
        run = deployment.run
        try:
            env = self.environment(service, run)
        except SecretError as error:
            raise BuildFailed("its environment can't be read", str(error)) from error
        job = BuildJob(
            service_id=service.id,
            namespace=service.namespace,
            deployment_id=deployment.id,
            repo=run.repo or "",
            branch=run.branch or "",
            image=run.image,
            env=env,
            commit=deployment.commit if run.image is None else deployment.digest,
        )
        return await self.driver.build(job, self.logs(service.id, deployment.id))

    async def _built(self, deployment: Deployment, artifact: Artifact) -> None:
        def step(view: View) -> View:
            return verdicts.built(view, deployment.id, artifact.commit, artifact.ref)

        view = await self.ledger.change(deployment.service, step)
        if _is(view, deployment, DeploymentState.STARTING):
            made_of = "commit" if deployment.run.image is None else "digest"
            self._tell(deployment, "deployment.built", f"{made_of} {artifact.commit}")

    async def _failed(self, deployment: Deployment, error: BuildFailed) -> None:
        stamp = now_us()

        def step(view: View) -> View:
            return verdicts.unbuilt(view, deployment.id, error.reason, stamp, error.commit)

        view = await self.ledger.change(deployment.service, step)
        if _is(view, deployment, DeploymentState.FAILED):
            self._tell(deployment, "deployment.failed", str(error.reason))

    def _tell(self, deployment: Deployment, kind: str, reason: str) -> None:
        self.journal.tell(deployment.service, (Note(kind, reason, deployment=deployment.id),))


def _is(view: View | None, deployment: Deployment, state: DeploymentState) -> bool:
    """Not so if it was cancelled meanwhile, or its service is gone."""
    found = None if view is None else view.deployments.get(deployment.id)
    return found is not None and found.state is state


def _source(deployment: Deployment) -> str:
    run = deployment.run
    if run.image is not None:
        return run.image if deployment.digest is None else f"{run.image}, {deployment.digest}"
    return f"{run.repo} at {deployment.commit or run.branch}"
