"""Clones that git makes with a uid of its own, which no namespace has: they live as long as their build.

The container driver clones so always (containers have no uid on the node), the process driver where `--git-url` carries
credentials: they, and what one namespace clones, are out of every other's reach. What a killed control left is removed
at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from activator.drivers import BuildJob
from activator.drivers.files import remove_tree

from .cloning import Cloner, Cloning, Limits
from .forge import Forge
from .run import Runner
from .sweep import Scope, Sweeper
from .users import Identity


class Clones:
    """Clones below `root`. `uid` is git's own as root, `None` where everything runs as ourselves."""

    def __init__(self, root: Path, forge: Forge, uid: int | None, limits: Limits) -> None:
        self._root = root
        self._forge = forge
        self._who = Identity(uid)
        self._sweeper = Sweeper(Scope(root, () if uid is None else (uid,)))
        self.cloner = Cloner(Runner(self._sweeper), root / "gitconfig", limits)

    async def open(self) -> None:
        """Make the place, and end and remove what an earlier control left there. Raises `OSError`."""
        await asyncio.to_thread(self._prepare)
        await self._sweeper.sweep()

    def _prepare(self) -> None:
        passage = 0o700 if self._who.uid is None else 0o711
        remove_tree(self._root, ignore_errors=True)
        self._root.mkdir(mode=passage, parents=True, exist_ok=True)
        self._root.chmod(passage)
        self._forge.configure(self._root / "gitconfig", self._who.uid)

    @contextlib.asynccontextmanager
    async def cloning(self, job: BuildJob) -> AsyncIterator[Cloning]:
        """A place to clone to: `home` and beside it `source`, both empty, removed in the end. Raises `BuildFailed`."""
        url = self._forge.url(job.repo)
        place = await asyncio.to_thread(self._place)
        try:
            yield Cloning(job, url, self._who, place / "home")
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, place, ignore_errors=True))

    def _place(self) -> Path:
        """Ours, so that git can't put a link where we read or write; what is in it is git's."""
        place = Path(tempfile.mkdtemp(dir=self._root))
        for path in (place / "home", place / "source"):
            path.mkdir(mode=0o700)
            if self._who.uid is not None:
                os.chown(path, self._who.uid, self._who.uid)
        if self._who.uid is not None:
            place.chmod(0o711)
        return place


def source_of(work: Cloning) -> Path:
    """Where a cloning of `Clones` has its files."""
    return work.home.with_name("source")


def hand_over(work: Cloning, into: Path, who: Identity) -> None:
    """Make the clone the namespace's, in place of the empty directory `into`. Raises `OSError`.

    Nobody but us can pass its place meanwhile, so nothing that the namespace does can lead the change of owners astray.
    """
    source = source_of(work)
    source.parent.chmod(0o700)
    if who.uid is not None:
        os.chown(source, who.uid, who.uid)
        directories = [source]
        while directories:  # `os.walk` recurses, and a tenant says how deep
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    os.chown(entry.path, who.uid, who.uid, follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(Path(entry.path))
    source.rename(into)
