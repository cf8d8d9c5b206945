"""Where the engine listens: what the operator said, what DOCKER_HOST says, or the first of the usual places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .engine import EngineMissing

_FIX = "start Docker or `podman system service`, or name its socket with --engine-socket or DOCKER_HOST"


def usual_places(environment: Mapping[str, str]) -> list[Path]:
    """Docker, Podman of root, Podman of this user."""
    places = [Path("/run/docker.sock"), Path("/run/podman/podman.sock")]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime, "podman/podman.sock"))
    return places


def find_socket(given: Path | None, environment: Mapping[str, str], places: list[Path] | None = None) -> Path:
    """The socket to talk to; only that something is there is known. Raises `EngineMissing`, which names the fix.

    Published ports are on the engine's own 127.0.0.1, so an engine elsewhere (tcp://, ssh://) is of no use.
    """
    if given is not None:
        return _there(given, "--engine-socket")
    if host := environment.get("DOCKER_HOST"):
        if not host.startswith("unix://"):
            raise EngineMissing(f"DOCKER_HOST is {host}: only an engine of this machine will do, as unix:///path")
        return _there(Path(host.removeprefix("unix://")), "DOCKER_HOST")
    places = usual_places(environment) if places is None else places
    found = next((place for place in places if _is_socket(place)), None)
    if found is None:
        raise EngineMissing(f"no container engine at {', '.join(map(str, places))}: {_FIX}")
    return found


def _there(path: Path, source: str) -> Path:
    if not _is_socket(path):
        raise EngineMissing(f"{source}: {path} is no socket: {_FIX}")
    return path


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:
        return False
