"""From a repository's address to the files of one commit: the branch's head, a clone without history.

The container driver clones by it, too. What runs is git (`git.py` says how), as whoever the driver says and under the
driver's runner, which leaves nothing of it behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from activator.drivers import BuildFailed, BuildJob

from . import git
from .run import Finished, Runner
from .spawn import Command, base_environment
from .users import Identity

MOVES = 10  # how often a branch may move between looking it up and cloning it


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest times in seconds: to ask for the branch, to clone, to build (SPEC section 5: 15 min)."""

    head: float = 60.0
    clone: float = 600.0
    build: float = 900.0


@dataclass(frozen=True, slots=True)
class Cloning:
    """One repository to clone: of which job, from where, as whom, with which HOME."""

    job: BuildJob
    url: str
    who: Identity
    home: Path


class Cloner:
    """Clones with git's whole configuration in the file `gitconfig`."""

    def __init__(self, runner: Runner, gitconfig: Path, limits: Limits) -> None:
        self._runner = runner
        self._gitconfig = gitconfig
        self._limits = limits

    async def head(self, work: Cloning) -> str:
        """The newest commit of the job's branch. Raises `BuildFailed`."""
        job = work.job
        finished = await self._git(work, work.home, git.head_command(work.url, job.branch), self._limits.head)
        if not finished.ok:
            raise git.explain(job.repo, work.url, finished.tail)
        commit = git.parse_head(finished.tail, job.branch)
        if commit is None:
            raise BuildFailed(f"repository '{job.repo}' has no branch '{job.branch}'")
        return commit

    async def fetch(self, work: Cloning, commit: str, into: Path) -> bool:
        """Check the commit out into an empty directory; `False` if the branch moved on. Raises `BuildFailed`."""
        job = work.job
        ref = job.commit or git.branch_ref(job.branch)
        finished = await self._git(work, into, git.fetch_command(work.url, ref), self._limits.clone)
        if not finished.ok and job.commit is not None:
            said = git.redact(finished.last_line.strip())
            raise BuildFailed(f"commit {job.commit} can't be had from '{job.repo}' any more", said or None)
        if not finished.ok:
            raise git.explain(job.repo, work.url, finished.tail)
        fetched = await self._git(work, into, git.FETCHED_COMMAND, self._limits.head)
        return fetched.last_line == commit

    async def _git(self, work: Cloning, cwd: Path, line: str, timeout: float) -> Finished:
        env = git.environment(base_environment(work.home), work.url, self._gitconfig)
        try:
            return await self._runner.run(Command(line, cwd, env, work.who), timeout)
        except TimeoutError:
            where = git.redact(work.url)
            raise BuildFailed(f"'{work.job.repo}' did not answer in {timeout:.0f} s", where) from None
