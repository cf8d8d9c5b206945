"""Where repositories come from: `--git-url`, and apart from it the credentials that it may carry.

Every uid of the machine can read command lines, and a namespace's own uid its environments and memory. So git is given
the address without credentials, and gets them from a file that only the uid that runs it can read, over git's own
credential protocol. That file holds them for one host: a redirect to another gets none.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from . import git

_PRIVATE = re.compile(r"(?i)(https?)://([^/?#]*)@([^/?#@]+)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Forge:
    """`template` is an address without credentials; `credentials` are a line of git-credential-store's file."""

    template: str
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, git_url: str) -> Forge:
        """Of `--git-url`. Other protocols than HTTP keep their user, which is no secret: ssh has keys."""
        found = _PRIVATE.fullmatch(git_url)
        if found is None:
            return cls(git_url)
        scheme, userinfo, host, rest = found.groups()
        user, _, password = (quote(unquote(part), safe="") for part in userinfo.partition(":"))
        return cls(f"{scheme}://{host}{rest}", f"{scheme.lower()}://{user}:{password}@{host}\n")

    @property
    def private(self) -> bool:
        return self.credentials is not None

    def url(self, repo: str) -> str:
        """The address of `ns/repo`. Raises `BuildFailed`."""
        return git.repository_url(self.template, repo)

    def configure(self, gitconfig: Path, uid: int | None) -> None:
        """Write git's whole configuration, for all, and beside it the credentials, for `uid` alone (`None`: for us).

        The directory must be ours: who owns it could replace them. Raises `OSError`.
        """
        secret = gitconfig.with_name("git.credentials")
        secret.unlink(missing_ok=True)
        text = git.CONFIGURATION
        if self.credentials is not None:
            descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                if uid is not None:
                    os.fchown(descriptor, uid, uid)
                file.write(self.credentials)
            text += _helper(secret)
        gitconfig.write_text(text)
        gitconfig.chmod(0o644)


def _helper(secret: Path) -> str:
    """Only `get` is passed on: one refusal by the forge would have git erase them."""
    store = f"git credential-store --file={shlex.quote(str(secret))} get"
    line = f'!f() {{ test "$1" != get || {store}; }}; f'
    quoted = line.replace("\\", "\\\\").replace('"', '\\"')
    return f'[credential]\n\thelper = "{quoted}"\n\tuseHttpPath = false\n'
