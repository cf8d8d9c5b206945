"""From a commit to the context of a build: a clone, and of that a tar file without `.git`.

The Dockerfile in it is not the repository's own but what `dockerfile.checked` makes of it.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from pathlib import Path

from activator.drivers import BuildFailed
from activator.drivers.files import read_regular
from activator.drivers.process.clones import Clones, source_of
from activator.drivers.process.cloning import Cloning

from .dockerfile import LIMIT
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

    async def files(self, work: Cloning, commit: str) -> Path | None:
        """The files of the commit; `None` if the branch moved on. Raises `BuildFailed`, `OSError`."""
        source = source_of(work)
        return source if await self.cloner.fetch(work, commit, source) else None

    async def context(self, work: Cloning, dockerfile: str) -> Path:
        """The tar file of what `files` fetched. Raises `BuildFailed`, `OSError`."""
        try:
            return await asyncio.to_thread(pack, source_of(work), work.home.with_name("context.tar"), dockerfile)
        except RecursionError as error:
            raise BuildFailed("its directories are nested too deep") from error


def read_dockerfile(source: Path) -> str:
    """The text of a checkout's Dockerfile. Raises `BuildFailed`."""
    content = read_regular(source / DOCKERFILE, LIMIT + 1)
    if content is None:
        raise BuildFailed(_ONLY_PROCFILE if (source / "Procfile").is_file() else NEEDED)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BuildFailed(f"byte {error.start} of its Dockerfile is not UTF-8") from error


def pack(source: Path, into: Path, dockerfile: str) -> Path:
    """All of a checkout but git's own files and what `.dockerignore` leaves out, as nobody's in particular.

    The Dockerfile goes along whatever is left out. Raises `BuildFailed` after two minutes.
    """
    is_ignored = ignored((read_regular(source / ".dockerignore", _IGNORE) or b"").decode("utf-8", "replace"))

    deadline = time.monotonic() + _PACKING

    def packed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if time.monotonic() > deadline:
            raise BuildFailed(f"its files took longer than {_PACKING:.0f} s to collect for the build")
        if is_ignored(member.name) and not member.isdir():
            return None  # folders stay: a later line may take back what is in them
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as archive:
        content = dockerfile.encode()
        own = tarfile.TarInfo(DOCKERFILE)
        own.size, own.mode = len(content), 0o644
        archive.addfile(own, io.BytesIO(content))
        for path in sorted(source.iterdir()):
            if path.name not in (".git", DOCKERFILE):
                archive.add(path, path.name, filter=packed)
    return into
