"""What the API shows: the shapes of SPEC section 2.

Pure functions of what is known (law 5).
"""

from __future__ import annotations

from typing import Final, cast

from activator import coldstarts
from activator.logs import LogLine
from activator.status import replica_counts
from control.contract.domain_views import domain_view
from control.contract.fields import MASK
from control.contract.preconditions import etag as etag
from control.contract.shapes import (
    CapacityView,
    DeploymentView,
    EventView,
    KeyView,
    LogView,
    PhasesView,
    ReplicaCounts,
    RunView,
    ServiceView,
)
from control.contract.times import iso
from control.services.catalogue import Facts
from control.site import Site
from state.models import ApiKey, Deployment, DeploymentState, Event, Service, StartPhases

_DIGITS: Final = 3  # of milliseconds


def service_view(facts: Facts, site: Site, now: int) -> ServiceView:
    """A service as `GET` shows it."""
    service = facts.service
    domains = {one.domain.name: domain_view(one, now) for one in facts.domains}
    shown = facts.active or facts.latest
    return {
        "id": service.id,
        "namespace": service.namespace,
        "name": service.name,
        "status": facts.status,
        "endpoint": site.endpoint(service.label),
        **_run_view(service),
        "limits": site.limits,
        **_capacity_view(service, site),
        "replicas": _counts_view(facts),
        "deployment": _shown(deployment_view(shown), facts) if shown else None,
        "rollout": _rollout_view(facts),
        "domain": None if service.custom_domain is None else domains.get(service.custom_domain),
        "domains": list(domains.values()),
        "created_at": iso(service.created_at),
        "updated_at": iso(service.updated_at),
    }


def _counts_view(facts: Facts) -> ReplicaCounts:
    counts = replica_counts(facts.replicas, facts.scale)
    return {
        "desired": counts.desired,
        "ready": counts.ready,
        "starting": counts.starting,
        "unhealthy": counts.unhealthy,
        "draining": counts.draining,
    }


def _run_view(service: Service) -> RunView:
    run = service.run
    return {
        "repo": run.repo,
        "branch": run.branch,
        "image": run.image,
        "gpu": service.gpu,
        "gpu_count": service.gpu_count,
        "cpu": run.cpu,
        "memory": run.memory,
        "port": run.port,
        "health_check_path": run.health_check_path,
        "env": dict.fromkeys(sorted(run.env), MASK),
    }


def _capacity_view(service: Service, site: Site) -> CapacityView:
    scaling = service.scaling
    return {
        "min_replicas": service.min_replicas,
        "max_replicas": service.max_replicas,
        "target_gpu_utilization": service.target_gpu_utilization,
        "region": service.region,
        "custom_domain": service.custom_domain,
        "scaling": {
            "concurrency": scaling.concurrency,
            "target_concurrency": scaling.target_concurrency,
            "target_requests_per_second": scaling.target_requests_per_second,
            "target_queue_delay_ms": scaling.target_queue_delay_ms,
            "idle_timeout": site.idle_timeout if scaling.idle_timeout is None else scaling.idle_timeout,
            "scale_down_delay": scaling.scale_down_delay,
            "hold_timeout": site.hold_timeout if scaling.hold_timeout is None else scaling.hold_timeout,
            "startup_timeout": scaling.startup_timeout,
            "affinity": scaling.affinity,
            "hold_keepalive": scaling.hold_keepalive,
            "waiting_page": scaling.waiting_page,
            "warm_reserve": scaling.warm_reserve,
        },
    }


def deployment_view(deployment: Deployment) -> DeploymentView:
    return {
        "id": deployment.id,
        "state": deployment.state.value,
        "cause": deployment.cause,
        "commit": deployment.commit,
        "digest": deployment.digest,
        "created_at": iso(deployment.created_at),
        "finished_at": None if deployment.finished_at is None else iso(deployment.finished_at),
        "reason": deployment.explanation,
    }


def _shown(view: DeploymentView, facts: Facts) -> DeploymentView:
    """With why no live node can run it, if that is so: an active deployment has no reason of its own."""
    if facts.unfit is not None and view["reason"] is None:
        view["reason"] = f"no live node can run it: {facts.unfit}"
    return view


def _rollout_view(facts: Facts) -> DeploymentView | None:
    """A deployment beside the active one: in progress, or failed after it."""
    latest = facts.latest
    if facts.active is None or latest is None or latest.id == facts.active.id:
        return None
    shown = latest.state.in_progress or latest.state is DeploymentState.FAILED
    return deployment_view(latest) if shown else None


def key_view(key: ApiKey) -> KeyView:
    """A key without its secret, which nobody has any more."""
    return {
        "name": key.name,
        "namespace": key.namespace,
        "scope": key.scope,
        "created_at": iso(key.created_at),
        "expires_at": None if key.expires_at is None else iso(key.expires_at),
        "used_at": None if key.used_at is None else iso(key.used_at),
    }


def event_view(event: Event) -> EventView:
    shown: EventView = {
        "time": iso(event.time),
        "kind": event.kind,
        "reason": event.reason,
        "deployment": event.deployment,
        "replica": event.replica,
    }
    if event.phases is not None:
        shown["phases"] = _phases_view(event.phases)
    if event.phase is not None:
        shown["phase"] = event.phase
    return shown


def _phases_view(phases: StartPhases) -> PhasesView:
    taken = {f"{phase}_ms": seconds * 1000 for phase, seconds in coldstarts.seconds(phases).items()}
    rounded = {name: round(value, _DIGITS) for name, value in {**taken, "total_ms": sum(taken.values())}.items()}
    return cast("PhasesView", rounded)


def log_view(line: LogLine) -> LogView:
    shown: LogView = {
        "time": iso(line.time),
        "replica": line.replica,
        "deployment": line.deployment,
        "stream": line.stream.value,
        "line": line.line,
    }
    if line.partial:
        shown["partial"] = True
    return shown
