"""What is sent to create a replica's container: pure functions from a launch to the engine's JSON.

Law 8: a network for each namespace, no new privileges, few capabilities, nothing of the node but the tenant's own
environment. Labels say whose a container is, so that another control finds it (law 4); they hold no environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from activator.drivers import Launch

from .flavour import Flavour

HOST = "127.0.0.1"
GIB = 1 << 30
_PIDS = 4096
_DROPPED = ("AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP")  # of those that engines give; raw sockets forge addresses
_PREFIX = "wakegate."


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a container is and where it answers: all that another control must know of it."""

    node: str
    replica_id: str
    service_id: str
    namespace: str
    deployment_id: str
    artifact: str
    port: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def of(cls, launch: Launch, node: str, gpus: tuple[str, ...] = ()) -> Identity:
        return cls(
            node=node,
            replica_id=launch.replica_id,
            service_id=launch.service_id,
            namespace=launch.namespace,
            deployment_id=launch.deployment_id,
            artifact=launch.artifact,
            port=launch.port,
            gpus=gpus,
        )

    def labels(self) -> dict[str, str]:
        return {
            f"{_PREFIX}node": self.node,
            f"{_PREFIX}replica": self.replica_id,
            f"{_PREFIX}service": self.service_id,
            f"{_PREFIX}namespace": self.namespace,
            f"{_PREFIX}deployment": self.deployment_id,
            f"{_PREFIX}artifact": self.artifact,
            f"{_PREFIX}port": str(self.port),
            f"{_PREFIX}gpus": ",".join(self.gpus),
        }

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Identity | None:
        """`None`: not one of ours, or not whole."""
        try:
            return cls(
                node=labels[f"{_PREFIX}node"],
                replica_id=labels[f"{_PREFIX}replica"],
                service_id=labels[f"{_PREFIX}service"],
                namespace=labels[f"{_PREFIX}namespace"],
                deployment_id=labels[f"{_PREFIX}deployment"],
                artifact=labels[f"{_PREFIX}artifact"],
                port=int(labels[f"{_PREFIX}port"]),
                gpus=tuple(name for name in labels[f"{_PREFIX}gpus"].split(",") if name),
            )
        except (KeyError, ValueError):
            return None


def node_label(node: str) -> str:
    """The label by which everything of a node is found."""
    return f"{_PREFIX}node={node}"


def container_name(replica_id: str) -> str:
    return f"wakegate-{replica_id}"


def network_name(node: str, namespace: str) -> str:
    """Bridges are made per namespace: containers of two namespaces can't reach each other."""
    return f"wakegate-{node}-{namespace}"


def container_body(launch: Launch, identity: Identity, flavour: Flavour) -> dict[str, Any]:
    """The body of `POST /containers/create`.

    The service's port is published at a port of the node's own range on 127.0.0.1. That works with Docker, with
    Podman of root and of users (whose containers' addresses lead nowhere on the host); and the address stays the
    node's to give, as the acknowledgements need it, where engines give a container's address to the next at once.
    """
    port = f"{launch.container_port}/tcp"
    env = {"HOST": "0.0.0.0", **launch.env, "PORT": str(launch.container_port)}  # noqa: S104 - inside, told not bound
    return {
        "Image": launch.artifact,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": identity.labels(),
        "ExposedPorts": {port: {}},
        "Healthcheck": {"Test": ["NONE"]},  # an image's own is run by the engine, for nobody: we ask health_check_path
        "HostConfig": {
            "NetworkMode": network_name(identity.node, launch.namespace),
            "PortBindings": {port: [{"HostIp": HOST, "HostPort": str(launch.port)}]},
            "RestartPolicy": {"Name": "no"},
            "Init": True,
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": list(_DROPPED),
            "PidsLimit": _PIDS,
            "LogConfig": flavour.log_config(),
            "DeviceRequests": flavour.device_requests(identity.gpus),
            **resources(launch.cpu, launch.memory, flavour),
        },
    }


def resources(cpu: int, memory: int, flavour: Flavour) -> dict[str, int]:
    """Both ceilings; more CPUs than the host has are refused by engines, so they are clamped. No swap on top."""
    if not flavour.limits:
        return {}
    limit = memory * GIB
    swap = {"MemorySwap": limit} if flavour.swap_limit else {}
    return {"NanoCpus": min(cpu, flavour.cpus) * 1_000_000_000, "Memory": limit, **swap}
