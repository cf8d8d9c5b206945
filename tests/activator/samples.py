"""Services, deployments and replicas with plain ids, for tests of pure functions."""

from __future__ import annotations

from typing import Any

from activator.views import View
from state.models import Deployment, DeploymentState, Replica, ReplicaState, RunSpec, Scale, Scaling, Service


def service(**fields: Any) -> Service:
    values: dict[str, Any] = {
        "id": "s",
        "namespace": "acme",
        "name": "app",
        "label": "app-acme",
        "run": RunSpec(repo="acme/app", branch="main"),
        "gpu": "none",
        "gpu_count": None,
        "min_replicas": 0,
        "max_replicas": 3,
        "target_gpu_utilization": 70,
        "region": "us-east-1",
        "custom_domain": None,
        "scaling": Scaling(),
        "created_at": 1,
        "updated_at": 1,
        "latest": "d1",
        "active": "d1",
        **fields,
    }
    return Service(**values)


def deployment(name: str = "d1", state: DeploymentState = DeploymentState.ACTIVE, **fields: Any) -> Deployment:
    return Deployment(name, "s", state, RunSpec(repo="acme/app", branch="main"), 1, node="n", **fields)


def replica(name: str, state: ReplicaState = ReplicaState.READY, of: str = "d1", **fields: Any) -> Replica:
    entered = (ReplicaState.READY, ReplicaState.UNHEALTHY, ReplicaState.DRAINING)
    values = {"created_at": 1, "ready_at": 1 if state in entered else None, "port": 1000, **fields}
    return Replica(name, "s", of, "n", state, **values)


def view(*replicas: Replica, of: Service | None = None, scale: Scale | None = None, **more: Any) -> View:
    deployments = more.get("deployments", (deployment(),))
    return View(
        of or service(),
        {d.id: d for d in deployments},
        {r.id: r for r in replicas},
        scale or Scale(desired=sum(r.state is ReplicaState.READY for r in replicas)),
    )
