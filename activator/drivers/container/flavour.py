"""The one place that knows in what Docker and Podman differ, behind the API that they share.

What both do alike is not here: names, labels, published ports, limits, an init process, `kill`. Measured with
Podman 4.3.1; of Docker 20.10 to 28 as its API says.

- `POST /containers/{id}/wait` is not used: Podman answers it by looking without a pause (130 % of a core, measured).
- Times of log lines: Docker to the nanosecond, Podman 4 to the second (`follow` counts lines of equal times).
- No ulimits are sent: Podman refuses any above those of its own service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDS = ("die", "died", "destroy", "remove")
"""What events call the end of a container, and its removal. Podman's filter knows its own names only, and tells others:
so events are asked for without one."""

_API = (1, 41), (1, 47)  # what this driver was written for: Docker 20.10 and Podman 4, Docker 27
_LOG_SIZE = 16 * 1024 * 1024  # bytes in one file of a container's log, from which it is taken over into ours
_LOG_FILES = 4
_DROPPED = ("CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_RAW")  # of a build's steps, from those that engines give


@dataclass(frozen=True, slots=True)
class Flavour:
    """What engine it is, and what follows. `limits`: it can hold a container to its CPUs and memory.

    `storage`: where it keeps its files.
    """

    podman: bool
    version: str
    cpus: int
    limits: bool = True
    swap_limit: bool = False
    storage: Path | None = None

    @classmethod
    def of(cls, version: Mapping[str, Any], info: Mapping[str, Any]) -> Flavour:
        """From the answers of `/version` and `/info`."""
        components = [part.get("Name", "") for part in version.get("Components") or ()]
        return cls(
            podman=any("podman" in name.lower() for name in components),
            version=str(version.get("Version", "?")),
            cpus=int(info.get("NCPU") or 1),
            limits=bool(info.get("MemoryLimit")) and bool(info.get("CpuCfsQuota", info.get("CPUCfsQuota"))),
            swap_limit=bool(info.get("SwapLimit")),
            storage=Path(root) if (root := info.get("DockerRootDir")) else None,
        )

    @property
    def name(self) -> str:
        return f"{'Podman' if self.podman else 'Docker'} {self.version}"

    @staticmethod
    def api_version(version: Mapping[str, Any]) -> str:
        """The version of the API to speak, from the answer of `/version`: the newest that both know, or the oldest
        that the engine still does (Docker 29 refuses all below 1.44)."""
        newest = min(_number(version.get("ApiVersion"), _API[0]), _API[1])
        major, minor = max(newest, _number(version.get("MinAPIVersion"), _API[0]))
        return f"v{major}.{minor}"

    def log_config(self) -> dict[str, Any]:
        """A bounded log that can be read back. Podman keeps one file and starts it anew, so it gets all of the size."""
        if self.podman:
            return {"Type": "k8s-file", "Config": {"max-size": str(_LOG_SIZE * _LOG_FILES)}}
        return {"Type": "json-file", "Config": {"max-size": str(_LOG_SIZE), "max-file": str(_LOG_FILES)}}

    @property
    def leaves_builds(self) -> bool:
        """Whether the command of a build's step runs on when the build is ended: see `leftovers`."""
        return self.podman

    def network_options(self) -> dict[str, str]:
        """Bridges of Docker can't reach each other; those of Podman can, unless told."""
        return {"isolate": "true"} if self.podman else {}

    @property
    def safe_binds(self) -> bool:
        """Whether a build's mounts of its context stay in it: Podman's did not before 4.9.4 (CVE-2024-1753).

        Docker's builder behind this API has no mounts at all.
        """
        return not self.podman or _release(self.version) >= (4, 9, 4)

    def build_options(self, network: str, memory: int, *, cached: bool) -> dict[str, str]:
        """Parameters of a build: the namespace's network, bytes of memory without swap on top, few capabilities.

        Without, the steps of Podman's builds run in the network of the host; it ignores the names that Docker takes for
        a network there. `cached`: earlier steps may be used.
        """
        namespaces = [{"Name": "network", "Host": False, "Path": network}]
        options = {"nsoptions": json.dumps(namespaces)} if self.podman else {"networkmode": network}
        if self.limits:
            options |= {"memory": str(memory)} | ({"memswap": str(memory)} if self.swap_limit else {})
        if self.podman:
            options["dropcaps"] = json.dumps(list(_DROPPED))
        return options | ({} if cached else {"nocache": "true"})

    @property
    def gpus(self) -> bool:
        """Whether GPUs can be had through this API: Podman takes a device request, answers 201 and gives no GPU."""
        return not self.podman

    def device_requests(self, devices: Sequence[str]) -> list[dict[str, Any]]:
        """NVIDIA GPUs by their numbers (or UUIDs) on the node."""
        if not devices:
            return []
        return [{"Driver": "nvidia", "DeviceIDs": list(devices), "Capabilities": [["gpu"]]}]


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def _number(text: object, otherwise: tuple[int, int]) -> tuple[int, int]:
    major, _, minor = str(text).partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else otherwise
