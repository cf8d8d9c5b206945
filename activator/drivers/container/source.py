"""From a commit to the context of a build: a clone, and of that a tar file without `.git`."""

from __future__ import annotations

import asyncio
import tarfile
import time
from pathlib import Path

from activator.drivers import BuildFailed
from activator.drivers.files import read_regular
from activator.drivers.process.clones import Clones, source_of
from activator.drivers.process.cloning import Cloning

from .dockerignore import ignored

DOCKERFILE = "Dockerfile"
_PACKING = 120.0  # seconds; this is done in a thread, which nothing else can end
_IGNORE = 1 << 18  # bytes of a .dockerignore that are read
NEEDED = "add a Dockerfile to the top of the repository, for a server that listens on $PORT"
_ONLY_PROCFILE = f"this node runs containers and builds no Procfile: {NEEDED}"


class Sources(Clones):
    """Clones, and the contexts made of them."""

    async def head(self, work: Cloning) -> str:
        """The newest commit of the branch. Raises `BuildFailed`."""
        return await self.cloner.head(work)

    async def context(self, work: Cloning, commit: str) -> Path | None:
        """The tar file of the commit; `None` if the branch moved on. Raises `BuildFailed`, `OSError`."""
        source = source_of(work)
        if not await self.cloner.fetch(work, commit, source):
            return None
        try:
            return await asyncio.to_thread(pack, source, work.home.with_name("context.tar"))
        except RecursionError as error:
            raise BuildFailed("its directories are nested too deep") from error


def pack(source: Path, into: Path) -> Path:
    """All of a checkout but git's own files and what `.dockerignore` leaves out, as nobody's in particular.

    Raises `BuildFailed` without a Dockerfile, which goes along whatever is left out, and after two minutes.
    """
    if not (source / DOCKERFILE).is_file() or (source / DOCKERFILE).is_symlink():
        raise BuildFailed(_ONLY_PROCFILE if (source / "Procfile").is_file() else NEEDED)
    is_ignored = ignored((read_regular(source / ".dockerignore", _IGNORE) or b"").decode("utf-8", "replace"))

    deadline = time.monotonic() + _PACKING

    def packed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if time.monotonic() > deadline:
            raise BuildFailed(f"its files took longer than {_PACKING:.0f} s to collect for the build")
        if is_ignored(member.name) and not member.isdir() and member.name != DOCKERFILE:
            return None  # folders stay: a later line may take back what is in them
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(source.iterdir()):
            if path.name != ".git":
                archive.add(path, path.name, filter=packed)
    return into
