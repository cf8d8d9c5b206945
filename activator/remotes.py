"""Where the branches of a repository are: one `git ls-remote`, for however many branches.

A repository's address comes from tenants, so git runs as it does for a build (`drivers.process.git`): the protocol is
that of `--git-url`, and no configuration, helper or prompt of the node is used. As root it runs as nobody, or with the
node's credentials as the uid that they are entrusted to.

Law 7: the time, the output and the number of branches of one look are bounded. Whatever becomes of us, the command ends
by its own time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from activator.drivers import BuildFailed
from activator.drivers.process import git
from activator.drivers.process.forge import Forge
from activator.drivers.process.spawn import Command, Process, base_environment, spawn
from activator.drivers.process.users import Identity, UsersError
from state.models import Reason

TIMEOUT: Final = 30.0  # seconds
_GRACE: Final = 5.0  # seconds between asking git to end and ending it
_OUTPUT: Final = 1 << 20  # bytes that are read; more than 10,000 branches
_NAMED: Final = 100  # branches that are asked for by name; for more, all are asked for
_CHUNK: Final = 64 * 1024
_CONFIG: Final = "git.config"
_NOWHERE: Final = Path("/nonexistent")  # the home of nobody


class Unreachable(Exception):
    """The repository does not answer, or not to us. `reason` is for its owner."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Remotes:
    """Repositories under one `--git-url`. `timeout` in seconds for one look; `uid` is git's own where we are root."""

    def __init__(self, data_dir: Path, git_url: str, *, timeout: float = TIMEOUT, uid: int | None = None) -> None:
        self._gitconfig = data_dir / _CONFIG
        self._forge = Forge.of(git_url)
        self._uid = uid
        self._timeout = timeout
        self._who: Identity | None = None
        self._preparing = asyncio.Lock()

    async def heads(self, repo: str, branches: Collection[str]) -> Mapping[str, str]:
        """The commits of those of the branches that exist. Raises Unreachable; cancelling ends git."""
        try:
            url = self._forge.url(repo)
            async with self._preparing:
                if self._who is None:
                    self._who = await asyncio.to_thread(self._prepare)
                who = self._who
            code, output = await self._run(self._command(url, branches, who))
        except BuildFailed as error:
            raise Unreachable(error.reason) from error
        except TimeoutError:
            raise Unreachable(Reason(f"'{repo}' did not answer in {self._timeout:.0f} s", git.redact(url))) from None
        except (OSError, UsersError) as error:
            raise Unreachable(Reason("the node can't run git", str(error))) from error
        if len(output) >= _OUTPUT:
            raise Unreachable(Reason(f"'{repo}' has too many branches to look through"))
        lines = output.decode("utf-8", "replace").splitlines()
        if code != 0:
            raise Unreachable(git.explain(repo, url, lines[-20:]).reason)
        found = ((branch, git.parse_head(lines, branch)) for branch in branches)
        return {branch: commit for branch, commit in found if commit is not None}

    def _prepare(self) -> Identity:
        """Git's whole configuration, in a file that whoever runs it can read. Raises OSError."""
        uid = self._uid if os.geteuid() == 0 else None
        self._forge.configure(self._gitconfig, uid)
        if os.geteuid() != 0 or (self._forge.private and uid is None):
            return Identity()
        with contextlib.suppress(KeyError, OSError, UsersError, subprocess.SubprocessError):
            other = Identity(uid if self._forge.private else pwd.getpwnam("nobody").pw_uid)
            argv = [*other.prefix, "/usr/bin/test", "-r", str(self._gitconfig)]
            if subprocess.run(argv, capture_output=True, cwd="/", timeout=10, env={}, check=False).returncode == 0:
                return other
        return Identity()  # a data directory that it can't enter, or no right to be another: as ourselves

    def _command(self, url: str, branches: Collection[str], who: Identity) -> Command:
        refs = [git.branch_ref(branch) for branch in sorted(branches)]
        if len(refs) > _NAMED:
            refs = [git.branch_ref("*")]
        ends = ("timeout", f"--kill-after={_GRACE:g}", f"{self._timeout:g}")
        # by `exec` it leads the session: otherwise `timeout` makes a group of its own, which we would not reach
        line = "exec " + shlex.join((*ends, "git", "ls-remote", "--quiet", "--", url, *refs))
        env = git.environment(base_environment(_NOWHERE), url, self._gitconfig)
        return Command(line, Path("/"), env, who)

    async def _run(self, command: Command) -> tuple[int | None, bytes]:
        """Its exit code and what it said. Raises OSError, TimeoutError."""
        read_end, write_end = os.pipe()
        try:
            process = _start(command, write_end)
            try:
                async with asyncio.timeout(self._timeout):
                    output = await _read_all(read_end)
                    await process.ended()
            finally:
                code = await asyncio.shield(_buried(process))
            return code, output
        finally:
            os.close(read_end)


def _start(command: Command, output: int) -> Process:
    """`output` is closed. Raises OSError."""
    record = os.open(os.devnull, os.O_WRONLY)  # nobody adopts it
    try:
        return spawn(command, record=record, stdout=output, stderr=output)
    finally:
        os.close(record)
        os.close(output)


async def _buried(process: Process) -> int | None:
    """Its exit code, once nothing of its group is left."""
    process.signal_group(signal.SIGKILL)  # its number is still its own: it has not been reaped
    await process.ended()
    code, _ = process.reap()
    process.close()
    return code


async def _read_all(descriptor: int) -> bytes:
    """What comes until the end of the pipe, or until it is too much. With a reader of the loop, as builds do."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    os.set_blocking(descriptor, False)
    output = b""
    loop.add_reader(descriptor, readable.set)
    try:
        while len(output) < _OUTPUT:
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                if not (data := os.read(descriptor, _CHUNK)):
                    break
                output += data
    finally:
        loop.remove_reader(descriptor)
    return output
