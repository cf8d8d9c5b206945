"""What the node's user is logged in to: `docker login` and `podman login` keep it in a file that engines don't read.

Docker's engine wants the credentials of a pull from its client. Credential helpers (programs) are not run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

_LIMIT = 1 << 20  # bytes
_HUB = ("docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


class Credentials:
    """Of the registries in the files that there are, the first that knows one; read anew each time."""

    def __init__(self, files: tuple[Path, ...] = ()) -> None:
        self._files = files

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Credentials:
        """The usual files of the user that the environment is of."""
        home = Path(environment.get("HOME", "/nonexistent"))
        files = [Path(environment.get("DOCKER_CONFIG", home / ".docker"), "config.json")]
        if given := environment.get("REGISTRY_AUTH_FILE"):
            files.insert(0, Path(given))
        if runtime := environment.get("XDG_RUNTIME_DIR"):
            files.append(Path(runtime, "containers/auth.json"))
        return cls(tuple(files))

    def header(self, registry: str) -> str | None:
        """The value of `X-Registry-Auth`; `None`: the registry is asked as anybody. Reads files."""
        names = _HUB if registry in _HUB else (registry, f"https://{registry}")
        for file in self._files:
            known = _auths(file)
            for name in names:
                if (found := _pair(known.get(name))) is not None:
                    user, password = found
                    said = {"username": user, "password": password, "serveraddress": registry}
                    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
        return None


def _auths(file: Path) -> Mapping[str, object]:
    try:
        with file.open("rb") as opened:
            known = json.loads(opened.read(_LIMIT)).get("auths")
    except (OSError, ValueError, AttributeError):
        return {}
    return known if isinstance(known, dict) else {}


def _pair(entry: object) -> tuple[str, str] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("auth"), str):
        return None
    try:
        user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None
