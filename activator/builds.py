"""Builds of this node: a deployment on its way becomes an artifact, or fails with the builder's reason.

Laws kept here: 4 (a build that a killed control left behind is started again; the driver finds what is built already),
7 (only so many at once) and 8 (places are shared between namespaces; what is built already needs none).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from activator import verdicts
from activator.drivers import Artifact, BuildFailed, BuildJob, BuildLog, Driver, StartFailed
from activator.journal import Journal
from activator.ledger import Ledger
from activator.node import Environment
from activator.places import Places
from activator.planning import Note
from activator.views import View
from state.ids import now_us
from state.models import Deployment, DeploymentState, Reason, Service
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
    places: Places

    async def run(self, service: Service, wanted: Deployment) -> None:
        if await self._made(service, wanted):
            return
        if not self.places.free(service.namespace):
            self._tell(wanted, "deployment.waiting", "other builds of this node come first")
        async with self.places.one(service.namespace):
            deployment = await self._begin(wanted)
            if deployment is None:
                return
            self._tell(deployment, "deployment.building", _source(deployment))
            try:
                artifact = await self._build(service, deployment)
            except BuildFailed as error:
                await self._failed(deployment, error)
            else:
                await self._built(deployment, artifact)

    async def _made(self, service: Service, wanted: Deployment) -> bool:
        """Whether it needs no build, nor a place: what it is pinned to is here."""
        artifact = await self.driver.made(_job(service, wanted, {}))
        if artifact is None:
            return False
        deployment = await self._begin(wanted)
        if deployment is not None:
            said = f"{_made_of(deployment)} {artifact.commit} is built already"
            await asyncio.to_thread(self.logs(service.id, deployment.id), (said,))
            await self._built(deployment, artifact)
        return True

    async def _begin(self, wanted: Deployment) -> Deployment | None:
        """None: it is not to be built (any more)."""
        view = await self._change(wanted, lambda v: verdicts.building(v, wanted.id), ordered=False)
        deployment = None if view is None else view.deployments.get(wanted.id)
        return deployment if _is(view, wanted, DeploymentState.BUILDING) else None

    async def again(self, service: Service, deployment: Deployment) -> str:
        """The reference of an artifact that this node lost or never had. Raises StartFailed."""
        try:
            return (await self._build(service, deployment)).ref
        except BuildFailed as error:
            raise StartFailed(error.reason.public, error.reason.detail) from error

    async def _build(self, service: Service, deployment: Deployment) -> Artifact:
        try:
            env = self.environment(service, deployment.run)
        except SecretError as error:
            raise BuildFailed("its environment can't be read", str(error)) from error
        return await self.driver.build(_job(service, deployment, env), self.logs(service.id, deployment.id))

    async def _built(self, deployment: Deployment, artifact: Artifact) -> None:
        stamp = now_us()

        def step(view: View) -> View:
            return verdicts.built(view, deployment.id, artifact.commit, artifact.ref, stamp)

        view = await self._change(deployment, step)
        if _is(view, deployment, DeploymentState.STARTING):
            self._tell(deployment, "deployment.built", f"{_made_of(deployment)} {artifact.commit}")
        elif view is not None and verdicts.stale(view, deployment.id):
            self._tell(deployment, "push.settled", f"{artifact.commit} is deployed already: nothing is started")

    async def _failed(self, deployment: Deployment, error: BuildFailed) -> None:
        stamp = now_us()

        def step(view: View) -> View:
            return verdicts.unbuilt(view, deployment.id, error.reason, stamp, error.commit)

        view = await self._change(deployment, step)
        if _is(view, deployment, DeploymentState.FAILED):
            self._tell(deployment, "deployment.failed", error.reason)

    async def _change(
        self, deployment: Deployment, step: Callable[[View], View], *, ordered: bool = True
    ) -> View | None:
        """What was moved to another node meanwhile is not this one's any more."""

        def own_step(view: View) -> View:
            return step(view) if _node_of(view, deployment) == deployment.node else view

        return await self.ledger.change(deployment.service, own_step, ordered=ordered)

    def _tell(self, deployment: Deployment, kind: str, reason: str | Reason) -> None:
        self.journal.tell(deployment.service, (Note(kind, reason, deployment=deployment.id),))


def _node_of(view: View, deployment: Deployment) -> str | None:
    found = view.deployments.get(deployment.id)
    return None if found is None else found.node


def _is(view: View | None, deployment: Deployment, state: DeploymentState) -> bool:
    """Not so if it was cancelled or moved meanwhile, or its service is gone."""
    found = None if view is None else view.deployments.get(deployment.id)
    return found is not None and found.state is state and found.node == deployment.node


def _job(service: Service, deployment: Deployment, env: Mapping[str, str]) -> BuildJob:
    run = deployment.run
    return BuildJob(
        service_id=service.id,
        namespace=service.namespace,
        deployment_id=deployment.id,
        repo=run.repo or "",
        branch=run.branch or "",
        image=run.image,
        env=env,
        commit=deployment.commit if run.image is None else deployment.digest,
    )


def _made_of(deployment: Deployment) -> str:
    return "commit" if deployment.run.image is None else "digest"


def _source(deployment: Deployment) -> str:
    run = deployment.run
    if run.image is not None:
        return run.image if deployment.digest is None else f"{run.image}, {deployment.digest}"
    return f"{run.repo} at {deployment.commit or run.branch}"
