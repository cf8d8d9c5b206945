"""From a repository to something that can be started: head, clone, Procfile, build, marker.

A checkout is whole once `complete.json` is in it, which is written last; a half-made one (control was killed) is
removed and made again. The same commit is built once, however many ask: the later ones wait and find it. One that is
not what was built any more (`manifest`) is dropped and made again, too, when its service is deployed or did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from activator.drivers import Artifact, BuildFailed, BuildJob, BuildLog, Needed
from activator.drivers.files import read_regular, remove_tree, told, write_whole

from . import git, manifest, procfile
from .clones import Clones, hand_over, source_of
from .cloning import MOVES, Cloner, Cloning, Limits
from .forge import Forge
from .layout import Layout
from .run import Finished, Runner
from .spawn import Command, base_environment
from .users import Identity, Users, UsersError

_MARKER = "complete.json"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A whole checkout: where it is and what it runs."""

    source: Path
    web: str
    bin_dir: Path | None


@dataclass(frozen=True, slots=True)
class _Work(Cloning):
    """One build under way."""

    log: BuildLog


class Builder:
    """Builds the repositories of one data directory. `users` is `None` where everything runs as ourselves; `in_use`
    says whether a replica runs from the checkout of a service's commit, which is then left alone; `clones` are given
    where namespaces must not clone for themselves."""

    def __init__(
        self,
        layout: Layout,
        users: Users | None,
        runner: Runner,
        forge: Forge,
        limits: Limits,
        in_use: Callable[[str, str], bool],
        clones: Clones | None = None,
    ) -> None:
        self._layout = layout
        self._users = users
        self._runner = runner
        self._clones = clones
        self._cloner = Cloner(runner, layout.gitconfig, limits) if clones is None else clones.cloner
        self._forge = forge
        self._limits = limits
        self._in_use = in_use
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def identity(self, namespace: str) -> Identity:
        """Who the namespace runs as. Raises `UsersError`, `OSError`."""
        return self._users.of(namespace) if self._users is not None else Identity()

    async def build(self, job: BuildJob, log: BuildLog) -> Artifact:
        """Raises `BuildFailed`."""
        if job.image is not None:
            raise BuildFailed("this node's driver can't run images")
        try:
            return await self._build(await self._prepare(job, log))
        except (OSError, UsersError) as error:
            raise BuildFailed("the node could not build it", told(error)) from error
        except RecursionError as error:
            raise BuildFailed("its directories are nested too deep") from error

    async def _prepare(self, job: BuildJob, log: BuildLog) -> _Work:
        if job.image is not None:
            raise BuildFailed("this node's driver can't run images")
        url = self._forge.url(job.repo)
        who = await asyncio.to_thread(self.identity, job.namespace)
        home = await asyncio.to_thread(self._layout.home, job.namespace, job.service_id, who)
        return _Work(job, url, who, home, log)

    async def _build(self, work: _Work) -> Artifact:
        job = work.job
        if job.commit is not None and not git.is_commit(job.commit):
            raise BuildFailed(f"'{job.commit}' is not a commit")
        async with self._cloning(work) as cloning:
            for _ in range(MOVES):
                commit = job.commit or await self._cloner.head(cloning)
                async with self._locks.setdefault((job.service_id, commit), asyncio.Lock()):
                    if await self._whole(job.namespace, job.service_id, commit):
                        await _say(work, f"commit {commit} is built already")
                        return Artifact(commit, commit)
                    if await self._make(work, cloning, commit):
                        return Artifact(commit, commit)
        raise BuildFailed(f"branch '{job.branch}' of '{job.repo}' kept moving while it was cloned; redeploy")

    async def made(self, job: BuildJob) -> Artifact | None:
        """The checkout that the job pins, if it is whole and nobody builds it."""
        commit = job.commit
        if commit is None or (job.service_id, commit) in self._locks:
            return None
        whole = await self._whole(job.namespace, job.service_id, commit)
        return Artifact(commit, commit) if whole else None

    def find(self, namespace: str, service: str, commit: str) -> Checkout | None:
        """The checkout if it is whole. Reads a file."""
        if not git.is_commit(commit):
            return None
        path = self._layout.checkout(namespace, service, commit)
        content = read_regular(path / _MARKER, procfile.MAX_BYTES * 2)
        if content is None:
            return None
        made = json.loads(content)
        return Checkout(path / "source", made["web"], path / "venv" / "bin" if made["venv"] else None)

    async def verify(self, namespace: str, service: str, commit: str) -> bool:
        """Whether the checkout is what was built; one that is not is dropped."""
        async with self._locks.setdefault((service, commit), asyncio.Lock()):
            path = self._layout.checkout(namespace, service, commit)
            if await asyncio.to_thread(self.find, namespace, service, commit) is None:
                return False
            if await asyncio.to_thread(manifest.holds, path):
                return True
            await asyncio.to_thread(_remove, path)
            return False

    async def _whole(self, namespace: str, service: str, commit: str) -> bool:
        if await asyncio.to_thread(self.find, namespace, service, commit) is None:
            return False
        path = self._layout.checkout(namespace, service, commit)
        return self._in_use(service, commit) or await asyncio.to_thread(manifest.holds, path)

    async def prune(self, needed: Needed) -> None:
        """Remove the checkouts that are not needed, and the homes of services of which nothing is."""
        for namespace, service, commit in await asyncio.to_thread(lambda: list(self._layout.built())):
            lock = self._locks.setdefault((service, commit), asyncio.Lock())
            found = needed(service)
            if lock.locked() or found is None or commit in found:
                continue
            async with lock:
                await asyncio.to_thread(_remove, self._layout.checkout(namespace, service, commit))
        for home in await asyncio.to_thread(lambda: list(self._layout.homes.glob("*/*"))):
            found = needed(home.name)
            if found is not None and not found:
                await asyncio.to_thread(self._remove_service, home)

    def _remove_service(self, home: Path) -> None:
        checkouts = self._layout.checkouts / home.parent.name / home.name
        if not any(checkouts.glob("*")):
            remove_tree(home, ignore_errors=True)
            remove_tree(checkouts, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def _cloning(self, work: _Work) -> AsyncIterator[Cloning]:
        """As whom git runs, and with which HOME."""
        if self._clones is None:
            yield work
        else:
            async with self._clones.cloning(work.job) as cloning:
                yield cloning

    async def _fetch(self, work: _Work, cloning: Cloning, commit: str, into: Path) -> bool:
        """The commit's files, owned by the namespace; `False` if the branch moved on. Raises `BuildFailed`."""
        if self._clones is None:
            return await self._cloner.fetch(work, commit, into)
        if not await self._cloner.fetch(cloning, commit, source_of(cloning)):
            return False
        await asyncio.to_thread(hand_over, cloning, into, work.who)
        return True

    async def _make(self, work: _Work, cloning: Cloning, commit: str) -> bool:
        """Clone and build; `False` if the branch moved on meanwhile."""
        job = work.job
        await _say(work, f"cloning {job.repo}, branch {job.branch}, commit {commit}")
        path = await asyncio.to_thread(
            self._layout.make_checkout, job.namespace, job.service_id, commit, work.who
        )  # half made until the marker is in it
        try:
            if not await self._fetch(work, cloning, commit, path / "source"):
                await asyncio.to_thread(_remove, path)
                return False
            commands = await asyncio.to_thread(_read_procfile, path / "source")
            venv = await self._run_build(work, path, commands)
        except BuildFailed as failure:
            failure.commit = commit
            await _say(work, str(failure.reason))
            await asyncio.to_thread(_remove, path)
            raise
        await asyncio.to_thread(_complete, path, commands, venv)
        await _say(work, "built")
        return True

    async def _run_build(self, work: _Work, path: Path, commands: procfile.Procfile) -> bool:
        """Run `build:`, or install the requirements; whether a virtual environment was made."""
        try:
            async with asyncio.timeout(self._limits.build):
                if commands.build is not None:
                    await self._step(work, path, commands.build, "the build")
                elif (path / "source" / "requirements.txt").is_file():
                    await self._install(work, path)
                    return True
        except TimeoutError:
            raise BuildFailed(f"the build took longer than {self._limits.build:.0f} s") from None
        return False

    async def _install(self, work: _Work, path: Path) -> None:
        await asyncio.to_thread(self._layout.owned, path / "venv", work.who)
        bin_dir = path / "venv" / "bin"
        finished = await self._command(work, path, "python3 -m venv --clear ../venv", bin_dir)
        if not finished.ok:
            raise BuildFailed("this node can't make virtual environments", "install python3-venv on it")
        install = "pip install --no-input --disable-pip-version-check --no-color -r requirements.txt"
        await self._step(work, path, install, "installing requirements.txt", bin_dir)

    async def _step(self, work: _Work, path: Path, line: str, what: str, bin_dir: Path | None = None) -> None:
        await _say(work, f"$ {line}")
        finished = await self._command(work, path, line, bin_dir)
        if not finished.ok:
            said = finished.last_line.strip()
            raise BuildFailed(f"{what} failed ({finished})", f"last line of its log: {said}" if said else None)

    async def _command(self, work: _Work, path: Path, line: str, bin_dir: Path | None) -> Finished:
        env = {**base_environment(work.home, bin_dir), **work.job.env}
        return await self._runner.run(Command(line, path / "source", env, work.who), self._limits.build, work.log)


def _read_procfile(source: Path) -> procfile.Procfile:
    path = source / "Procfile"
    content = read_regular(path, procfile.MAX_BYTES + 1)
    if content is None:
        raise BuildFailed(procfile.IRREGULAR if os.path.lexists(path) else procfile.NEEDED)
    try:
        return procfile.parse(content)
    except procfile.ProcfileError as error:
        raise BuildFailed(str(error)) from error


def _complete(path: Path, commands: procfile.Procfile, venv: bool) -> None:
    manifest.write(path)
    os.sync()  # a power cut must not leave the marker beside files that are still empty
    write_whole(path / _MARKER, json.dumps({"web": commands.web, "venv": venv}).encode(), durable=True)


def _remove(path: Path) -> None:
    (path / _MARKER).unlink(missing_ok=True)  # first, or a killed removal looks whole
    remove_tree(path, ignore_errors=True)


async def _say(work: _Work, text: str) -> None:
    await asyncio.to_thread(work.log, [git.redact(text)])
