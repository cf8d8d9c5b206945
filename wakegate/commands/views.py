"""A service and its deployments, as people read them. Pure functions of what the API answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wakegate.commands.output import Cell, status_text

SERVICE_COLUMNS: Final = ("NAME", "STATUS", "REPLICAS", "SOURCE", "ENDPOINT")
DEPLOYMENT_COLUMNS: Final = ("ID", "STATE", "CAUSE", "VERSION", "CREATED", "REASON")

_PENDING: Final = ("pending_dns", "pending_ownership", "moved")
_COMMIT: Final = 12  # characters of a commit that people read
_DIGEST: Final = 19  # of `sha256:…`


def service_row(service: Mapping[str, Any]) -> list[Cell]:
    replicas = service["replicas"]
    ready = f"{replicas['ready']}/{replicas['desired']}"
    return [service["name"], status_text(service["status"]), ready, source(service), service["endpoint"]]


def source(service: Mapping[str, Any]) -> str:
    return f"{service['repo']}@{service['branch']}" if service["repo"] else str(service["image"])


def service_facts(service: Mapping[str, Any], etag: str | None = None) -> dict[str, Cell | None]:
    """All of a service that people ask for; a webhook's secret is there once, after the creation."""
    webhook = service.get("webhook") or {}
    secret = webhook.get("secret")
    return {
        "name": f"{service['namespace']}/{service['name']}",
        "id": service["id"],
        "status": status_text(service["status"]),
        "endpoint": service["endpoint"],
        "source": source(service),
        "deployment": deployment_line(service["deployment"]),
        "rollout": deployment_line(service["rollout"]),
        "replicas": _replicas(service),
        "scaling": ", ".join(f"{name} {value}" for name, value in service["scaling"].items() if value is not None),
        "resources": _resources(service),
        "port": str(service["port"]),
        "health check": service["health_check_path"],
        "env": ", ".join(service["env"]),
        "region": service["region"],
        **_domain_facts(service["domain"], service.get("domains", ())),
        "webhook": webhook.get("url"),
        "webhook secret": f"{secret} (shown this once)" if secret else None,
        "created": service["created_at"],
        "updated": service["updated_at"],
        "etag": etag,
    }


def _replicas(service: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in service["replicas"].items())
    return f"{counts} (from {service['min_replicas']} to {service['max_replicas']})"


def _resources(service: Mapping[str, Any]) -> str:
    gpus = f" x {service['gpu_count']}, aiming at {service['target_gpu_utilization']} %" if service["gpu_count"] else ""
    limits = f"cpu {service['cpu']}, memory {service['memory']} GiB, limits {service['limits']}"
    return f"{limits}, gpu {service['gpu']}{gpus}"


def _domain_facts(domain: Mapping[str, Any] | None, domains: Sequence[Mapping[str, Any]]) -> dict[str, Cell | None]:
    """The custom domain with what DNS should say until it does, and the others."""
    others = [_domain_line(one) for one in domains if domain is None or one["name"] != domain["name"]]
    facts: dict[str, Cell | None] = {"more domains": "; ".join(others)}
    if domain is None:
        return facts
    pending = domain["status"] in _PENDING
    wanted = [f"{record['type']} {record['name']} -> {record['value']}" for record in domain["records"]]
    return {"domain": _domain_line(domain), "dns record": "; ".join(wanted) if pending else None, **facts}


def _domain_line(domain: Mapping[str, Any]) -> str:
    return f"{domain['name']}: {domain['status']}" + (f" ({domain['reason']})" if domain["reason"] else "")


def deployment_line(deployment: Mapping[str, Any] | None) -> str | None:
    """One deployment in a sentence."""
    if deployment is None:
        return None
    version = _version(deployment)
    reason = f": {deployment['reason']}" if deployment["reason"] else ""
    return f"{deployment['state']}{f' at {version}' if version else ''}{reason}"


def deployment_row(deployment: Mapping[str, Any]) -> list[Cell | None]:
    return [
        deployment["id"],
        status_text(deployment["state"]),
        deployment.get("cause"),
        _version(deployment),
        deployment["created_at"],
        deployment["reason"],
    ]


def _version(deployment: Mapping[str, Any]) -> str | None:
    """Of what it was made: a commit, or the digest of an image."""
    commit, digest = deployment["commit"], deployment.get("digest")
    return commit[:_COMMIT] if commit else digest[:_DIGEST] if digest else None
