"""References to images (distribution/reference): the parts of one, and the names by which this driver keeps images."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HUB = "docker.io"
_LOCAL = "localhost"
_OURS = "wakegate-"  # of the names by which images of services are kept
_ID = re.compile(r"[0-9a-f]{1,64}")
_NAME = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_NAME}(?:/{_NAME})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?", re.ASCII
)
# `sha256:<id>` is an image by its id; Podman reads `oci:path` as a place on the node (containers-transports(5)).
_TRANSPORTS = (
    "sha256",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
)
_KEPT = 32  # characters of a digest or commit in the tag of an image that we keep


@dataclass(frozen=True, slots=True)
class Reference:
    """`[registry/]path[:tag][@digest]`; `name` is what is before tag and digest, as it was written."""

    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def of(cls, text: str) -> Reference:
        name, _, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, _, tag = last.partition(":")
        return cls(head + slash + last, tag or None, digest or None)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def wanted(self) -> str:
        """Which of its images: the digest if there is one."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> Reference:
        return Reference(self.name, None, digest)

    @property
    def registry(self) -> str:
        """The host (and port) that it is pulled from: as `docker pull` understands it."""
        first, slash, _ = self.name.partition("/")
        return first if slash and ("." in first or ":" in first or first == _LOCAL) else _HUB

    @property
    def local(self) -> bool:
        """`localhost/…` (no port): an image that was built on this machine and is in no registry."""
        return self.registry == _LOCAL

    @property
    def full_name(self) -> str:
        """The name as engines write it in an image's digests; Docker leaves out its own hub, Podman does not."""
        if self.registry != _HUB:
            return self.name
        path = self.name.removeprefix(f"{_HUB}/")
        return f"{_HUB}/{path if '/' in path else f'library/{path}'}"

    def digest_among(self, repository_digests: list[str]) -> str | None:
        """The digest of this image in its registry, from an image's `RepoDigests`."""
        found = [Reference.of(text) for text in repository_digests]
        named = [one.digest for one in found if one.full_name == self.full_name]
        return next(iter(named), next((one.digest for one in found), None))


def refusal(text: str) -> str | None:
    """Why a tenant may not name an image like this; None: he may.

    Engines know local images by any beginning of their ids, too, and those of all services are on the same node.
    """
    if len(text) > 512 or not _REFERENCE.fullmatch(text):
        return "is no reference to an image, as in docker.io/library/python:3.12"
    reference = Reference.of(text)
    if _ID.fullmatch(text):
        return f"could be the id of one: write docker.io/library/{text}"
    if reference.name in _TRANSPORTS:
        return f"could be an id, or a place on the node: write docker.io/library/{text}"
    if reference.name.lower().removeprefix(f"{_LOCAL}/").startswith(_OURS):
        return "belongs to a service"
    return None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Shelf:
    """The names under which a node keeps images: `localhost/wakegate-<node>/<namespace>/<service>:<digest or commit>`.

    By these it finds what is built or pulled already, and prunes what nothing needs; no other image is ever removed.
    """

    node: str

    @property
    def prefix(self) -> str:
        return f"{_LOCAL}/{_OURS}{self.node}/"

    def repository(self, namespace: str, service: str) -> str:
        return f"{self.prefix}{namespace}/{service}"

    @staticmethod
    def tag(version: str) -> str:
        return version.removeprefix("sha256:")[:_KEPT]

    def name(self, namespace: str, service: str, version: str) -> str:
        """Where the image of a commit or digest is kept: what `Artifact.ref` is."""
        return f"{self.repository(namespace, service)}:{self.tag(version)}"

    def owner(self, name: str) -> tuple[str, str] | None:
        """Namespace and service of a name that is ours."""
        if not name.startswith(self.prefix):
            return None
        parts = Reference.of(name).name.removeprefix(self.prefix).split("/")
        return (parts[0], parts[1]) if len(parts) == 2 else None
