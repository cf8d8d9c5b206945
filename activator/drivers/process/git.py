"""Cloning: which git commands, with which environment, and what their failures mean to a user.

A repository's address and branch come from tenants: the protocol is fixed by the node's `--git-url`, a branch is only
ever part of `refs/heads/…`, and no configuration, hook, filter, credential helper or prompt of the node is used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from activator.drivers import BuildFailed

CONFIGURATION = """\
[core]
	hooksPath = /dev/null
	fsmonitor = false
[safe]
	directory = *
[protocol "ext"]
	allow = never
[submodule]
	recurse = false
[http]
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[advice]
	detachedHead = false
"""
"""Git's whole configuration."""

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_ABSENT = (
    "not found",
    "does not exist",
    "does not appear to be a git repository",
    "could not read username",
    "could not read password",
    "authentication failed",
    "no such file or directory",
)


def repository_url(template: str, repo: str) -> str:
    """The address of `ns/repo`. Raises `BuildFailed` for anything that could leave the template's place."""
    segments = repo.split("/")
    if len(segments) != 2 or any(s in (".", "..") or not _SEGMENT.fullmatch(s) for s in segments):
        raise BuildFailed(f"'{repo}' is not a repository: it is written owner/name")
    return template.replace("{repo}", repo)


def is_commit(text: str) -> bool:
    """A full object name: SHA-1 or SHA-256 in hex."""
    return _COMMIT.fullmatch(text) is not None


def environment(base: Mapping[str, str], url: str, gitconfig: Path) -> dict[str, str]:
    """What git runs with. The configuration is a file, for the server side of a `file://` clone reads it too."""
    return {
        **base,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(gitconfig),
        "GIT_ALLOW_PROTOCOL": urlsplit(url).scheme or "file",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def head_command(url: str, branch: str) -> str:
    return _line("git", "ls-remote", "--", url, f"refs/heads/{branch}")


def fetch_command(url: str, ref: str) -> str:
    """Fetch one commit without history into the current (empty) directory and check it out."""
    fetch = ("git", "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", url, ref)
    return " && ".join(
        (
            _line("git", "init", "--quiet", "--template=", "."),
            _line(*fetch),
            _line("git", "checkout", "--quiet", "--detach", "FETCH_HEAD"),
        )
    )


FETCHED_COMMAND = "git rev-parse HEAD"


def branch_ref(branch: str) -> str:
    return f"refs/heads/{branch}"


def parse_head(output: Sequence[str], branch: str) -> str | None:
    """The commit of the branch in the output of `ls-remote`; `None` if there is no such branch."""
    for line in output:
        commit, _, name = line.partition("\t")
        if name == branch_ref(branch) and is_commit(commit):
            return commit
    return None


def redact(text: str) -> str:
    """Without the credentials that an address may carry."""
    return _USERINFO.sub("", text)


def explain(repo: str, url: str, output: Sequence[str]) -> BuildFailed:
    """Why git failed. What it said, with its addresses and paths, is for the owner alone."""
    text = "\n".join(output).lower()
    last = redact(next((line.strip() for line in reversed(output) if line.strip()), "git said nothing"))
    where = redact(url)
    if any(sign in text for sign in _ABSENT):
        return BuildFailed(f"repository '{repo}' does not exist or can't be read", where)
    if "no space left" in text:
        return BuildFailed("the node's disk is full", last)
    return BuildFailed(f"can't clone '{repo}'", f"from {where}: {last}")


def _line(*words: str) -> str:
    return shlex.join(words)
