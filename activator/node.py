"""What the keepers of one node share, and how a replica is started with it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from activator.acks import Acknowledgements
from activator.coldstarts import ColdStarts, Stopwatch
from activator.demand import Demand
from activator.drivers import ArtifactMissing, Driver, Exit, Launch, Started, StartFailed
from activator.journal import Journal
from activator.ledger import Ledger
from activator.settings import Settings
from activator.views import Catalog
from state.models import Deployment, RunSpec, Service
from state.secret_key import SecretError

Environment = Callable[[Service, RunSpec], Mapping[str, str]]
"""The service's own environment in plain text (the composition root has the key). May raise SecretError."""


@dataclass(slots=True)
class Node:
    """What the keepers of one node share. `running` and `exits` are what the driver said, by replica id."""

    driver: Driver
    ledger: Ledger
    catalog: Catalog
    demand: Demand
    acks: Acknowledgements
    journal: Journal
    cold_starts: ColdStarts
    settings: Settings
    environment: Environment
    rebuild: Callable[[Service, Deployment], Awaitable[str]]
    running: set[str] = field(default_factory=set)
    exits: dict[str, Exit] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    mended: set[str] = field(default_factory=set)  # deployments built again since a replica of theirs was ready

    def allocate(self, replica_id: str) -> int:
        """A port that no replica of this node has or is about to have. Raises StartFailed."""
        stored = {r.port for r in self.catalog.replicas() if r.node == self.settings.node}
        port = self.driver.allocate(stored | set(self.ports.values()))
        self.ports[replica_id] = port
        return port

    async def launch(
        self, replica_id: str, service: Service, deployment: Deployment, port: int, clock: Stopwatch
    ) -> Started:
        """Start a replica of the deployment, which is built again where this node lost it. Raises StartFailed.

        `clock` is told of the phases `fetch` and `start`.
        """
        launch = self._launch(replica_id, service, deployment, port)
        clock.enter("start", time.monotonic())
        try:
            return await self.driver.start(launch)
        except ArtifactMissing:
            clock.enter("fetch", time.monotonic())
            artifact = await self.rebuild(service, deployment)
            clock.enter("start", time.monotonic())
            return await self.driver.start(replace(launch, artifact=artifact))

    def _launch(self, replica_id: str, service: Service, deployment: Deployment, port: int) -> Launch:
        """Raises StartFailed."""
        run = deployment.run
        try:
            env = self.environment(service, run)
        except SecretError as error:
            raise StartFailed("its environment can't be read", str(error)) from error
        return Launch(
            replica_id=replica_id,
            service_id=service.id,
            namespace=service.namespace,
            deployment_id=deployment.id,
            artifact=deployment.artifact or "",
            port=port,
            env=env,
            cpu=run.cpu,
            memory=run.memory,
            image=run.image,
            container_port=run.port,
            gpu=service.gpu,
            gpu_count=service.gpu_count or 0,
        )
