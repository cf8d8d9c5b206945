"""Records that tests of custom domains need around a claim."""

from __future__ import annotations

from state.certificates import Domain
from state.models import RunSpec, Scaling, Service


def service(service_id: str, namespace: str, name: str = "web", deleted_at: int | None = None) -> Service:
    return Service(
        id=service_id,
        namespace=namespace,
        name=name,
        label=f"{name}-{namespace}",
        run=RunSpec(image="app"),
        gpu="none",
        gpu_count=None,
        min_replicas=0,
        max_replicas=1,
        target_gpu_utilization=70,
        region="us-east-1",
        custom_domain=None,
        scaling=Scaling(),
        created_at=1,
        updated_at=1,
        latest="d",
        deleted_at=deleted_at,
    )


def service_of(claim: Domain) -> Service:
    return service(claim.service, claim.namespace)
