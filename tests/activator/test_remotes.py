"""Looking at branches of real repositories with the real git."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from activator.remotes import Remotes, Unreachable


def git(path: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "safe.directory=*"]
    done = subprocess.run(["git", *settings, *arguments], cwd=path, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that every uid may enter (pytest's own is closed to them), with acme/app on main and dev."""
    top = Path(tempfile.mkdtemp(prefix="wg-", dir="/tmp"))
    top.chmod(0o755)
    path = top / "git" / "acme" / "app"
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "main")
    for branch in ("dev", "feature/x-1"):
        git(path, "commit", "-q", "--allow-empty", "-m", branch)
        git(path, "branch", branch)
    git(path, "commit", "-q", "--allow-empty", "-m", "newest")
    git(path, "tag", "-a", "v1", "-m", "v1")
    git(path, "update-ref", "refs/remotes/other/refs/heads/main", "dev")
    yield top
    shutil.rmtree(top)


@pytest.fixture
def remotes(place: Path) -> Remotes:
    (place / "data").mkdir(mode=0o711)
    return Remotes(place / "data", f"file://{place}/git/{{repo}}")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def processes_in(path: str) -> list[int]:
    """Those with this text in their command line."""
    found = []
    for proc in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if proc.name.isdigit() and path.encode() in (proc / "cmdline").read_bytes():
                found.append(int(proc.name))
    return found


async def test_heads_of_many_branches_by_one_look(remotes, place):
    path = place / "git" / "acme" / "app"
    heads = await remotes.heads("acme/app", ["main", "dev", "feature/x-1", "nothing", "v1"])
    assert heads == {branch: git(path, "rev-parse", branch) for branch in ("main", "dev", "feature/x-1")}
    before = descriptors()
    git(path, "commit", "-q", "--allow-empty", "-m", "more")
    assert await remotes.heads("acme/app", ["main"]) == {"main": git(path, "rev-parse", "main")}
    assert descriptors() == before


async def test_more_branches_than_a_command_line_should_name(remotes, place):
    path = place / "git" / "acme" / "app"
    commit = git(path, "rev-parse", "main")
    names = [f"many/{n}" for n in range(300)]
    lines = "".join(f"create refs/heads/{name} {commit}\n" for name in names)
    subprocess.run(["git", "update-ref", "--stdin"], cwd=path, input=lines.encode(), check=True)
    assert await remotes.heads("acme/app", [*names, "none"]) == dict.fromkeys(names, commit)


@pytest.mark.parametrize("repo", ["acme/none", "acme", "../app", "acme/app/x", "acme/..", "--upload-pack=x/y"])
async def test_what_can_not_be_looked_at_is_told(remotes, repo):
    with pytest.raises(Unreachable) as caught:
        await remotes.heads(repo, ["main"])
    assert caught.value.reason.public


async def test_an_empty_repository_has_no_heads(remotes, place):
    path = place / "git" / "acme" / "empty"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    assert await remotes.heads("acme/empty", ["main"]) == {}


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_one_that_does_not_answer_is_given_up(place, silent):
    remotes = Remotes(place, f"http://user:token@127.0.0.1:{silent}/{{repo}}", timeout=1.0)
    before = descriptors()
    with pytest.raises(Unreachable) as caught:
        await remotes.heads("acme/app", ["main"])
    assert "did not answer" in caught.value.reason.public
    assert "token" not in str(caught.value)
    assert descriptors() == before


async def test_a_look_that_is_cancelled_leaves_nothing(place, silent):
    url = f"http://127.0.0.1:{silent}/"
    remotes = Remotes(place, url + "{repo}", timeout=30.0)
    looking = asyncio.create_task(remotes.heads("acme/app", ["main"]))
    deadline = time.monotonic() + 10
    while not processes_in(url):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    while processes_in(url):
        assert time.monotonic() < deadline + 10
        await asyncio.sleep(0.01)


@pytest.mark.root
async def test_as_root_git_runs_as_nobody(remotes, place):
    """A repository that only root can read is then out of reach."""
    await remotes.heads("acme/app", ["main"])
    (place / "git" / "acme" / "app").chmod(0o700)
    with pytest.raises(Unreachable):
        await remotes.heads("acme/app", ["main"])


@pytest.mark.root
async def test_where_nobody_can_not_enter_git_runs_as_we_do(remotes, place):
    """A data directory that is ours alone, as where no replica has a uid of its own."""
    (place / "data").chmod(0o700)
    (place / "git" / "acme" / "app").chmod(0o700)
    assert await remotes.heads("acme/app", ["dev"])
