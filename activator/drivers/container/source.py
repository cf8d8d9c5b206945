"""From a commit to the context of a build: a clone, and of that a tar file without `.git`.

As root, git runs with a uid of its own, which owns the clone and nothing else (the process driver runs it as the
namespace; containers have no uid on the node). A clone lives as long as its build; what a killed control left is
removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from activator.drivers import BuildFailed, BuildJob
from activator.drivers.files import read_regular
from activator.drivers.process import git
from activator.drivers.process.cloning import Cloner, Cloning, Limits
from activator.drivers.process.run import Runner
from activator.drivers.process.sweep import Scope, Sweeper
from activator.drivers.process.users import Identity

from .dockerignore import ignored

DOCKERFILE = "Dockerfile"
_PACKING = 120.0  # seconds; this is done in a thread, which nothing else can end
_IGNORE = 1 << 18  # bytes of a .dockerignore that are read
NEEDED = "add a Dockerfile to the top of the repository, for a server that listens on $PORT"
_ONLY_PROCFILE = f"this node runs containers and builds no Procfile: {NEEDED}"


class Sources:
    """Clones below `root`. `uid` is git's own as root, `None` where everything runs as ourselves."""

    def __init__(self, root: Path, git_url: str, uid: int | None, limits: Limits) -> None:
        self._root = root
        self._git_url = git_url
        self._who = Identity(uid)
        self._sweeper = Sweeper(Scope(root, () if uid is None else (uid,)))
        self._cloner = Cloner(Runner(self._sweeper), root / "gitconfig", limits)

    async def open(self) -> None:
        """Make the place, and end and remove what an earlier control left there. Raises `OSError`."""
        await asyncio.to_thread(self._prepare)
        await self._sweeper.sweep()

    def _prepare(self) -> None:
        passage = 0o700 if self._who.uid is None else 0o711
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(mode=passage, parents=True, exist_ok=True)
        self._root.chmod(passage)
        config = self._root / "gitconfig"
        config.write_text(git.CONFIGURATION)
        config.chmod(0o644)

    @contextlib.asynccontextmanager
    async def cloning(self, job: BuildJob) -> AsyncIterator[Cloning]:
        """A place to clone to: `home` and beside it `source`, both empty, removed in the end. Raises `BuildFailed`."""
        url = git.repository_url(self._git_url, job.repo)
        place = await asyncio.to_thread(self._place)
        try:
            yield Cloning(job, url, self._who, place / "home")
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))

    def _place(self) -> Path:
        """Ours, so that git can't put a link where the tar file comes to be; what is in it is git's."""
        place = Path(tempfile.mkdtemp(dir=self._root))
        for path in (place / "home", place / "source"):
            path.mkdir(mode=0o700)
            if self._who.uid is not None:
                os.chown(path, self._who.uid, self._who.uid)
        if self._who.uid is not None:
            place.chmod(0o711)
        return place

    async def head(self, work: Cloning) -> str:
        """The newest commit of the branch. Raises `BuildFailed`."""
        return await self._cloner.head(work)

    async def context(self, work: Cloning, commit: str) -> Path | None:
        """The tar file of the commit; `None` if the branch moved on. Raises `BuildFailed`, `OSError`."""
        source = work.home.with_name("source")
        if not await self._cloner.fetch(work, commit, source):
            return None
        return await asyncio.to_thread(pack, source, work.home.with_name("context.tar"))


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
