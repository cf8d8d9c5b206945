"""Where the process driver keeps what, and who may look into it (law 8).

```
<data-dir>/process/                          0711 ours
  uids.json  gitconfig                       the namespaces' uids; git's whole configuration (readable by them)
  checkouts/<namespace>/<service>/<commit>/  root:<gid> 0750: entered by the namespace, changed by nobody but us
      source/  venv/                         the namespace's, 0700
      complete.json                          ours, written last: what to run; without it the checkout is half made
  homes/<namespace>/<service>/               the namespace's, 0700
  clones/                                    as root with credentials: git's, by a uid of its own (`clones`)
<data-dir>/replicas/<id>/                    ours, 0700: replica.json, pid, stdout, stderr, exit.json
```

A tenant owns no directory above its own `source`, so it can't put a link into a path that we follow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from activator.drivers.files import remove_tree

from .forge import Forge
from .users import Identity


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one data directory, made on demand with the right owner and mode."""

    data_dir: Path
    isolated: bool

    @property
    def _base(self) -> Path:
        return self.data_dir / "process"

    @property
    def uids(self) -> Path:
        return self._base / "uids.json"

    @property
    def gitconfig(self) -> Path:
        return self._base / "gitconfig"

    @property
    def clones(self) -> Path:
        return self._base / "clones"

    @property
    def homes(self) -> Path:
        return self._base / "homes"

    @property
    def checkouts(self) -> Path:
        return self._base / "checkouts"

    @property
    def replicas(self) -> Path:
        return self.data_dir / "replicas"

    def prepare(self, forge: Forge) -> None:
        """Make what is common to all namespaces; git runs as ourselves or without credentials. Raises `OSError`."""
        passage = 0o711 if self.isolated else 0o700
        for directory in (self.data_dir, self._base, self.homes, self.checkouts):
            directory.mkdir(mode=passage, parents=directory == self.data_dir, exist_ok=True)
            directory.chmod(passage)
        self.replicas.mkdir(mode=0o700, exist_ok=True)
        forge.configure(self.gitconfig, None)

    def home(self, namespace: str, service: str, who: Identity) -> Path:
        """The service's HOME, made if absent; it is kept from deployment to deployment."""
        parent = self._entered(self.homes / namespace, who)
        return self.owned(parent / service, who)

    def checkout(self, namespace: str, service: str, commit: str) -> Path:
        return self.checkouts / namespace / service / commit

    def make_checkout(self, namespace: str, service: str, commit: str, who: Identity) -> Path:
        """An empty checkout; whatever was there (half made) is removed first."""
        self._entered(self.checkouts / namespace, who)
        self._entered(self.checkouts / namespace / service, who)
        path = self.checkout(namespace, service, commit)
        if path.exists():
            remove_tree(path)
        self._entered(path, who)
        self.owned(path / "source", who)
        return path

    def owned(self, path: Path, who: Identity) -> Path:
        """A directory of the namespace's own."""
        path.mkdir(mode=0o700, exist_ok=True)
        if who.uid is not None:
            os.chown(path, who.uid, who.uid)
        return path

    def _entered(self, path: Path, who: Identity) -> Path:
        """A directory of ours that only the namespace may enter and read."""
        path.mkdir(mode=0o700, exist_ok=True)
        if who.uid is not None:
            os.chown(path, 0, who.uid)
            path.chmod(0o750)
        return path

    def built(self) -> Iterator[tuple[str, str, str]]:
        """Namespace, service and commit of every checkout there is, whole or half made."""
        for path in self.checkouts.glob("*/*/*"):
            namespace, service, commit = path.parts[-3:]
            yield namespace, service, commit
